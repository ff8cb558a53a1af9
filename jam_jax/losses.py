"""Next-token cross entropy in float32, with sums apart per modality; in CM3 as JAM uses it every token has weight 1."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jam_jax import sharding
from jam_jax.tokens import IMAGE, SPECIAL, TEXT

MODALITIES = {"text": TEXT, "image": IMAGE, "special": SPECIAL}
# Axes of what a loss is made of, for `sharding.per_device`.
STATES, TABLE, TARGETS = ("batch", "length", "embed"), ("vocab", "param_embed"), ("batch", "length")


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
    own = functools.partial(_in_chunks, _nll_and_log_z, chunk)
    return sharding.per_device(own, (STATES, TABLE, TARGETS), (TARGETS, TARGETS))(states, table, targets)


class Scores(NamedTuple):
    """What a model makes of each target, [B, T]."""

    nll: jax.Array  # -log p in nats, float32
    within: jax.Array  # the same where the softmax runs over the ids of the target's own modality alone
    best: jax.Array  # bool: no id is likelier


def scores(states: jax.Array, table: jax.Array, targets: jax.Array, modality: jax.Array, chunk: int) -> Scores:
    """`next_token` for measuring: states, table and targets as there; modality int8 [V] as TokenSpace.modality."""

    def own(states: jax.Array, table: jax.Array, kinds: jax.Array, *of_each: jax.Array) -> tuple[jax.Array, ...]:
        return _in_chunks(functools.partial(_scores, kinds), chunk, states, table, *of_each)

    spread = sharding.per_device(own, (STATES, TABLE, TABLE[:1], TARGETS, TARGETS), (TARGETS,) * len(Scores._fields))
    return Scores(*spread(states, table, modality, targets, modality[targets]))


def _in_chunks(
    compute: Callable[..., tuple[jax.Array, ...]], chunk: int, states: jax.Array, table: jax.Array, *of_each: jax.Array
) -> tuple[jax.Array, ...]:
    """compute(states, table, *of_each) of this device's tokens, `chunk` of them at a time; of_each [B, T]."""
    shape = of_each[0].shape
    size = of_each[0].size
    table = sharding.whole("param_embed", table.astype(states.dtype), at=1)
    if size <= chunk:
        return compute(states, table, *of_each)
    parts = -(-size // chunk)
    width = -(-size // parts)

    def split(x: jax.Array) -> jax.Array:
        flat = x.reshape(size, *x.shape[2:])
        return jnp.pad(flat, [(0, parts * width - size)] + [(0, 0)] * (flat.ndim - 1)).reshape(
            parts, width, *x.shape[2:]
        )

    exact = table.astype(jnp.float32)  # so that its gradient is summed over the chunks in float32

    @jax.checkpoint
    def part(inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        return compute(inputs[0], exact.astype(states.dtype), *inputs[1:])

    found = jax.lax.map(part, tuple(split(x) for x in (states, *of_each)))
    return tuple(x.reshape(-1)[:size].reshape(shape) for x in found)


def _nll_and_log_z(states: jax.Array, table: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of states [..., D], by this device's part of the table's rows [V, D] and what the other parts found."""
    logits = _logits(states, table)
    top = sharding.max_over("vocab", jax.lax.stop_gradient(logits.max(-1)))
    log_z = jnp.log(sharding.sum_over("vocab", jnp.exp(logits - top[..., None]).sum(-1))) + top
    return log_z - _picked(logits, targets), log_z


def _scores(
    kinds: jax.Array, states: jax.Array, table: jax.Array, targets: jax.Array, kind: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scores of states [..., D] by this device's part of the table; kinds [V] of its rows, kind [...] of the targets.

    The ids of a target's modality and all others are summed apart, each from its own maximum, with one exp for each id.
    """
    logits = _logits(states, table)
    own = kinds == kind[..., None]
    top, other_top = (sharding.max_over("vocab", jnp.where(mine, logits, -jnp.inf).max(-1)) for mine in (own, ~own))
    exps = jnp.exp(logits - jnp.where(own, top[..., None], other_top[..., None]))
    log_z, other_log_z = (
        jnp.log(sharding.sum_over("vocab", jnp.where(mine, exps, 0).sum(-1))) + highest
        for mine, highest in ((own, top), (~own, other_top))
    )
    picked = _picked(logits, targets)
    return jnp.logaddexp(log_z, other_log_z) - picked, log_z - picked, picked >= jnp.maximum(top, other_top)


def _logits(states: jax.Array, table: jax.Array) -> jax.Array:
    return jnp.einsum("...D,VD->...V", states, table, preferred_element_type=jnp.float32)


def _picked(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """The logits of targets [...], of which this device's [..., V] are those of its part of the table's rows."""
    row = targets - sharding.place_on("vocab") * logits.shape[-1]
    mine = (row >= 0) & (row < logits.shape[-1])
    picked = jnp.take_along_axis(logits, jnp.where(mine, row, 0)[..., None], axis=-1)[..., 0]
    return sharding.sum_over("vocab", jnp.where(mine, picked, 0))


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
