"""Next-token cross entropy in float32, with sums apart per modality; in CM3 as JAM uses it every token has weight 1."""

import functools

import jax
import jax.numpy as jnp

from jam_jax import sharding
from jam_jax.tokens import IMAGE, SPECIAL, TEXT

MODALITIES = {"text": TEXT, "image": IMAGE, "special": SPECIAL}


def token_nll(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Negative log-likelihood in nats of targets [B, T] under logits [B, T, V]: float32 [B, T]."""
    logits = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def next_token(states: jax.Array, table: jax.Array, targets: jax.Array, chunk: int) -> tuple[jax.Array, jax.Array]:
    """States [B, T, D] and the head's table [V, D] → nll of targets [B, T], and the log of each softmax's denominator.

    Both float32 [B, T]. A device holds the logits of `chunk` tokens at a time, and computes them again in the backward
    pass; those of no more tokens than that are kept. On a mesh each device takes its own rows and its part of the rows
    of the table, whose gradient is summed over devices once.
    """
    axes: tuple = (("batch", "length", "embed"), ("vocab", "param_embed"), ("batch", "length"))
    own = functools.partial(_own_tokens, chunk=chunk)
    return sharding.per_device(own, axes, (axes[2], axes[2]))(states, table, targets)


def _own_tokens(states: jax.Array, table: jax.Array, targets: jax.Array, chunk: int) -> tuple[jax.Array, jax.Array]:
    table = sharding.whole("param_embed", table.astype(states.dtype), at=1)
    if targets.size <= chunk:
        return _nll_and_log_z(states, table, targets)
    parts = -(-targets.size // chunk)
    size = -(-targets.size // parts)

    def split(x: jax.Array) -> jax.Array:
        flat = x.reshape(targets.size, *x.shape[2:])
        return jnp.pad(flat, [(0, parts * size - len(flat))] + [(0, 0)] * (flat.ndim - 1)).reshape(
            parts, size, *x.shape[2:]
        )

    exact = table.astype(jnp.float32)  # so that its gradient is summed over the chunks in float32

    @jax.checkpoint
    def part(inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return _nll_and_log_z(inputs[0], exact.astype(states.dtype), inputs[1])

    nll, log_z = jax.lax.map(part, (split(states), split(targets)))
    return tuple(x.reshape(-1)[: targets.size].reshape(targets.shape) for x in (nll, log_z))


def _nll_and_log_z(states: jax.Array, table: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of states [..., D], by this device's part of the table's rows [V, D] and what the other parts found."""
    logits = jnp.einsum("...D,VD->...V", states, table, preferred_element_type=jnp.float32)
    top = sharding.max_over("vocab", jax.lax.stop_gradient(logits.max(-1)))
    log_z = jnp.log(sharding.sum_over("vocab", jnp.exp(logits - top[..., None]).sum(-1))) + top
    row = targets - sharding.place_on("vocab") * len(table)
    mine = (row >= 0) & (row < len(table))
    picked = jnp.take_along_axis(logits, jnp.where(mine, row, 0)[..., None], axis=-1)[..., 0]
    return log_z - sharding.sum_over("vocab", jnp.where(mine, picked, 0)), log_z


def sums(nll: jax.Array, targets: jax.Array, weights: jax.Array, modality: jax.Array) -> dict[str, jax.Array]:
    """Weighted sums and counts over all tokens and per modality of the *target*.

    nll, targets, weights [B, T]; modality int8 [V] as TokenSpace.modality. Gives `loss`, `tokens` and, for each
    modality, `text_loss`, `text_tokens`, …: float32 scalars.
    """
    of_target = modality[targets]
    result = {"loss": (nll * weights).sum(), "tokens": weights.sum()}
    for name, kind in MODALITIES.items():
        mine = weights * (of_target == kind)
        result |= {f"{name}_loss": (nll * mine).sum(), f"{name}_tokens": mine.sum()}
    return result
