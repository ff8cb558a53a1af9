"""From logits to a token: guidance, then temperature, then top-k and top-p (arXiv 2309.15564; order of metaseq's code).

Everything is per row and takes its numbers as arrays, so that rows with different settings share one program.
"""

import jax
import jax.numpy as jnp

BLOCK = 128  # tokens whose mass is summed apart, so that a draw looks into one block only


def guide(conditional: jax.Array, unconditional: jax.Array, strength: jax.Array) -> jax.Array:
    """Classifier-free guidance `u + a (c - u)` on logits [B, V]; strength a is a scalar or [B, 1]."""
    return unconditional + strength * (conditional - unconditional)


def contrast(conditional: jax.Array, unconditional: jax.Array, k: jax.Array, share: jax.Array) -> jax.Array:
    """Contrastive decoding TopK (arXiv 2309.02591, section 3.2) on logits [B, V]; k int and share are [B].

    `log p - log q` of the two streams, for tokens whose p is at least `share` times that of the k-th likeliest; -inf
    for the rest.
    """
    expert, amateur = jax.nn.log_softmax(conditional), jax.nn.log_softmax(unconditional)
    least = kth_largest(expert, k) + jnp.log(share)
    return jnp.where((expert >= least[:, None]) & (expert > -jnp.inf), expert - amateur, -jnp.inf)


def penalise(logits: jax.Array, seen: jax.Array, penalty: jax.Array) -> jax.Array:
    """Logits [B, V] of the tokens `seen`, bool [B, V], made smaller by the factor `penalty` [B] (arXiv 1909.05858)."""
    penalty = penalty[:, None]
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def kth_largest(values: jax.Array, k: jax.Array) -> jax.Array:
    """The k-th largest of each row of values float32 [B, V]; k int [B], at least 1; past V the smallest.

    Exact, in 32 counts instead of a sort: the bits of floats, read as integers, are ordered as the floats are.
    """
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    sign, k = jnp.uint32(1 << 31), jnp.minimum(k, values.shape[-1])
    order = jnp.where(bits >= sign, ~bits, bits | sign)

    def bit(i: int, found: jax.Array) -> jax.Array:
        wanted = found | (sign >> jnp.uint32(i))
        enough = jnp.sum(order >= wanted[:, None], axis=-1, dtype=jnp.int32) >= k
        return jnp.where(enough, wanted, found)

    found = jax.lax.fori_loop(0, 32, bit, jnp.zeros(values.shape[0], jnp.uint32))
    return jax.lax.bitcast_convert_type(jnp.where(found >= sign, found ^ sign, ~found), jnp.float32)


def sample(keys: jax.Array, logits: jax.Array, temperature: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
    """One token per row: keys [B], logits [B, V] float32, the rest [B] → int32 [B]; temperature 0 takes the likeliest.

    Taken are only the `top_k` likeliest tokens and, of those, the likeliest of mass `top_p`, with the one that crosses
    it (metaseq's code) and all that are as likely as the last; 0 and 1 are no limits. Tokens at -inf are never taken;
    one at NaN is the least likely of the others. A row's token depends on its own key and logits only.

    Nothing is sorted: a token is drawn from all of them, and again from those that are likelier if it is outside of
    the limits, which gives each within them its share. How many tokens, and how much mass, lie above one is one pass.
    The n-th draw of a row takes its number from its key, folded with n.
    """
    hot = temperature > 0
    scaled = _finite(logits / jnp.where(hot, temperature, 1)[:, None])
    likeliest = scaled.max(axis=-1, keepdims=True)
    mass = jnp.where(hot[:, None], jnp.exp(scaled - likeliest), (scaled == likeliest).astype(scaled.dtype))
    top_k, top_p = jnp.where(hot, top_k, 0), jnp.where(hot, top_p, 1)
    bound = top_p * _mass_within(scaled, mass, top_k, top_p)
    limited = (top_k > 0) | (top_p < 1)

    def draw(mass: jax.Array, number: jax.Array | int) -> jax.Array:
        shares = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, number)))(keys)
        return _at(mass, jnp.where(hot, shares, 0))

    def outside(value: jax.Array) -> jax.Array:
        above = scaled > value
        count = jnp.sum(above, axis=-1, dtype=jnp.int32)
        # Rounding may carry the sum past the whole: a top_p of 1 must still keep the tail.
        heavy = (top_p < 1) & (jnp.sum(jnp.where(above, mass, 0), axis=-1) >= bound)
        return limited & (count > 0) & (((top_k > 0) & (count >= top_k)) | heavy)

    def value_of(token: jax.Array) -> jax.Array:
        return jnp.take_along_axis(scaled, token[:, None], axis=-1)

    Carry = tuple[jax.Array, jax.Array, jax.Array, jax.Array]

    def again(carry: Carry) -> Carry:
        number, left, token, out = carry
        left = jnp.where(out[:, None] & (scaled <= value_of(token)), 0, left)
        token = jnp.where(out, draw(left, number), token)
        return number + 1, left, token, outside(value_of(token))

    token = draw(mass, 0)
    first = (jnp.int32(1), mass, token, outside(value_of(token)))
    return jax.lax.while_loop(lambda carry: jnp.any(carry[3]), again, first)[2]


def _finite(values: jax.Array) -> jax.Array:
    """The values, of which only -inf is not finite, and the same wherever they are read.

    XLA may compute them twice, once without rounding to bfloat16: then a token could seem likelier than itself, and no
    draw would ever lie within the limits.
    """
    limits = jnp.finfo(values.dtype)
    found = jnp.nan_to_num(values, nan=limits.min, posinf=limits.max, neginf=-jnp.inf)
    return jax.lax.optimization_barrier(found)


def _at(mass: jax.Array, shares: jax.Array) -> jax.Array:
    """The tokens [B], int32, that lie at the shares [B] in [0, 1) of the mass [B, V], in the order of their ids."""
    blocks = jnp.pad(mass, ((0, 0), (0, -mass.shape[-1] % BLOCK))).reshape(mass.shape[0], -1, BLOCK)
    sums = blocks.sum(axis=-1)
    block, rest = _cut(sums, shares * sums.sum(axis=-1))
    place, _ = _cut(jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0], rest)
    return block * BLOCK + place


def _cut(mass: jax.Array, depth: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What lies at `depth` [B] of mass [B, N], as int32 [B], and how deep inside of it; always something with mass."""
    starts = jnp.cumsum(mass, axis=-1) - mass
    reached = (mass > 0) & (starts <= depth[:, None])
    at = jnp.max(jnp.where(reached, jnp.arange(mass.shape[-1], dtype=jnp.int32), 0), axis=-1)
    return at, depth - jnp.take_along_axis(starts, at[:, None], axis=-1)[:, 0]


def _mass_within(scaled: jax.Array, mass: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
    """The mass [B] of the `top_k` likeliest tokens, exactly so many; of all where there is no such limit."""

    def of_the_likeliest() -> jax.Array:
        least = kth_largest(scaled, jnp.maximum(top_k, 1))[:, None]
        above, at = scaled > least, scaled == least
        left = top_k - jnp.sum(above, axis=-1)
        inside = jnp.sum(jnp.where(above, mass, 0), axis=-1) + left * jnp.max(jnp.where(at, mass, 0), axis=-1)
        return jnp.where((top_k > 0) & (top_k < scaled.shape[-1]), inside, jnp.sum(mass, axis=-1))

    both = jnp.any((top_k > 0) & (top_p < 1))
    return jax.lax.cond(both, of_the_likeliest, lambda: jnp.sum(mass, axis=-1))
