"""The optimizer and its schedule, from optax (OPT's settings where the paper is silent), and what it trains."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jam_jax.config import OptimConfig
from jam_jax.losses import MODALITIES
from jam_jax.trees import paths


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
    """AdamW with global-norm clipping; it computes in float32 and keeps its moments as `config.state` says."""
    adamw = optax.adamw(
        schedule(config, steps),
        b1=config.beta1,
        b2=config.beta2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=lambda params: jax.tree_util.tree_map_with_path(is_matrix, params),
    )
    kept = adamw if config.state == "float32" else kept_in(adamw, config.state)
    return optax.chain(optax.clip_by_global_norm(config.clip), kept)


def kept_in(inner: optax.GradientTransformation, dtype: str) -> optax.GradientTransformation:
    """The same, with the arrays of its state rounded to a floating type between updates."""

    def cast(state: Any, to: str) -> Any:
        return jax.tree.map(lambda x: x.astype(to) if jnp.issubdtype(x.dtype, jnp.floating) and x.ndim else x, state)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = inner.update(updates, cast(state, "float32"), params)
        return updates, cast(state, dtype)

    return optax.GradientTransformation(lambda params: cast(inner.init(params), dtype), update)


class Trained(NamedTuple):
    """What of a model's parameters is trained: see `trained`."""

    paths: frozenset[str]  # of the parameters that are trained, or of which rows are
    rows: dict[str, np.ndarray]  # by path: bool [V], the rows of a table that are trained


def trained(config: OptimConfig, shapes: dict, modality: np.ndarray) -> Trained:
    """The parameters that `config.train_only` names; ValueError for a pattern that names none, or no rows.

    modality int8 [V] as TokenSpace.modality.
    """
    found: set[str] = set()
    rows: dict[str, np.ndarray] = {}
    for given in config.train_only or (".*",):
        pattern, _, kind = given.partition("@")
        matched = {path: leaf for path, leaf in paths(shapes).items() if re.fullmatch(pattern, path)}
        if not matched:
            raise ValueError(f"optim.train_only: no parameter is named {pattern}; there are {', '.join(paths(shapes))}")
        found |= set(matched)
        if not kind:
            continue
        if kind not in MODALITIES:
            raise ValueError(f"optim.train_only: {given} must end in @{', @'.join(MODALITIES)} or in none of them")
        for path, leaf in matched.items():
            if leaf.shape[0] != len(modality) or path not in ("embed/tokens", "unembed"):
                raise ValueError(f"optim.train_only: {path} has no rows of tokens, so no @{kind}: leave that out")
            rows[path] = rows.get(path, False) | (modality == MODALITIES[kind])
    return Trained(frozenset(found), rows)
