"""The optimizer and its schedule, from optax (OPT's settings where the paper is silent)."""

import jax
import optax

from jam_jax.config import OptimConfig


def schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """Learning rate by step: linear warm-up, then linear, cosine or constant to the last of `steps`."""
    warmup = min(config.warmup, steps)
    final = config.learning_rate * config.final_share
    rest = max(steps - warmup, 1)
    after = {
        "linear": optax.linear_schedule(config.learning_rate, final, rest),
        "cosine": optax.cosine_decay_schedule(config.learning_rate, rest, config.final_share),
        "constant": optax.constant_schedule(config.learning_rate),
    }[config.schedule]
    # The first step already moves: the warm-up starts at one part of `warmup`, not at zero.
    rise = optax.linear_schedule(config.learning_rate / max(warmup, 1), config.learning_rate, max(warmup - 1, 1))
    return optax.join_schedules([rise, after], [warmup])


def is_matrix(path: tuple, leaf: jax.Array) -> bool:
    """Whether weight decay applies: to matrices, not to norms and biases (stacked ones have a layer axis too)."""
    name = str(getattr(path[-1], "key", path[-1]))
    return leaf.ndim > 1 and not name.endswith("bias") and name != "scale"


def make(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """AdamW with global-norm clipping; its state is float32."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(
            schedule(config, steps),
            b1=config.beta1,
            b2=config.beta2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=lambda params: jax.tree_util.tree_map_with_path(is_matrix, params),
        ),
    )
