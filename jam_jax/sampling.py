"""From logits to a token: guidance, then temperature, then top-k and top-p (arXiv 2309.15564; order of metaseq's code).

Everything is per row and takes its numbers as arrays, so that rows with different settings share one program.
"""

import jax
import jax.numpy as jnp


def guide(conditional: jax.Array, unconditional: jax.Array, strength: jax.Array) -> jax.Array:
    """Classifier-free guidance `u + a (c - u)` on logits [B, V]; strength a is a scalar or [B, 1]."""
    return unconditional + strength * (conditional - unconditional)


def keep_likely(logits: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
    """Logits [B, V] with -inf where a token is not among the `top_k` or the most likely ones of mass `top_p`, both [B].

    The token that crosses the mass is kept (metaseq's code), and so are ties with the least likely kept one. `top_k` 0
    and `top_p` 1 keep everything.
    """
    ordered = jnp.sort(logits, axis=-1, descending=True)
    rank = jnp.arange(logits.shape[-1])
    inside = (rank < top_k[:, None]) | (top_k[:, None] <= 0)
    mass = jax.nn.softmax(jnp.where(inside, ordered, -jnp.inf), axis=-1)
    before = jnp.cumsum(mass, axis=-1) - mass
    # Rounding may carry the sum past 1: a top_p of 1 must still keep the whole tail.
    inside &= (before < top_p[:, None]) | (top_p[:, None] >= 1)
    least = jnp.min(jnp.where(inside, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= least, logits, -jnp.inf)


def sample(keys: jax.Array, logits: jax.Array, temperature: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
    """One token per row: keys [B], logits [B, V] float32, the rest [B] → int32 [B]; temperature 0 takes the likeliest.

    Tokens at -inf are never taken. A row's token depends on its own key and logits only.
    """
    hot = temperature > 0
    scaled = logits / jnp.where(hot, temperature, 1)[:, None]
    # Sorting a vocabulary costs more than the rest together: it is skipped when no row asks for it.
    wanted = jnp.any(hot & ((top_k > 0) | (top_p < 1)))
    scaled = jax.lax.cond(wanted, keep_likely, lambda x, *_: x, scaled, top_k, top_p)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[-1:], jnp.float32))(keys)
    return jnp.argmax(scaled + jnp.where(hot[:, None], noise, 0), axis=-1).astype(jnp.int32)
