"""How likely a document is, read through the decoder's own cache: what perplexity is made of."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jam_jax.decode import prefill, weights
from jam_jax.losses import token_nll
from jam_jax.models import model
from jam_jax.models.model import LanguageConfig


def nll(config: LanguageConfig, params: dict, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    """-log p of every token but the first, given all before it: float32 [len(tokens) - 1], in natural logarithms.

    `params` are as they are stored, or prepared (`weights.prepare`). ValueError for fewer than two tokens, more than
    the model has positions for, or an id outside the vocabulary.
    """
    ids = np.asarray(tokens, np.int32)
    if ids.ndim != 1 or not 2 <= len(ids) <= config.max_positions:
        raise ValueError(f"a document to score is of 2 to {config.max_positions} tokens, got {list(ids.shape)}")
    if not 0 <= ids.min() <= ids.max() < config.vocab_size:
        raise ValueError(f"ids go from 0 to {config.vocab_size - 1}, got {ids.min()} to {ids.max()}")
    if not weights.is_ready(params):
        config, params = weights.prepare(config, params)
    count = len(ids) - 1
    width = min(prefill.power_of_two(count, 16), prefill.CHUNK)
    whole = -(-count // width) * width
    padded = np.zeros(whole + 1, np.int32)
    padded[: len(ids)] = ids
    rows = prefill.spread(1)
    cache = prefill.empty(config, rows, whole)
    found = []
    for first in range(0, count, width):
        part = jnp.broadcast_to(jnp.asarray(padded[first : first + width + 1]), (rows, width + 1))
        values, cache = _score(config, params, part, jnp.int32(first), cache)
        found.append(np.asarray(values)[0])
    return np.concatenate(found)[:count]


@functools.partial(jax.jit, static_argnums=0, donate_argnums=4)
def _score(
    config: LanguageConfig, params: dict, tokens: jax.Array, first: jax.Array, cache: model.Cache
) -> tuple[jax.Array, model.Cache]:
    """tokens [B, T + 1] of which the first stands at the position `first` → nll [B, T] of the others, and the cache."""
    positions = jnp.broadcast_to(first + jnp.arange(tokens.shape[1] - 1), (tokens.shape[0], tokens.shape[1] - 1))
    logits, cache = model.forward(config, params, tokens[:, :-1], positions, cache)
    return token_nll(logits, tokens[:, 1:]), cache
