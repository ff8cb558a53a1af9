"""The codebook of an image tokenizer: nearest entries, the loss that trains them, and how it is started.

Equation 4 of VQGAN (arXiv 2012.09841). A codebook that is trained from random entries collapses onto a few of them;
started from clusters, it does not.
"""

import functools

import jax
import jax.numpy as jnp

SEEDING_ROUNDS = 128  # of k-means: new centres are drawn in so many portions
LLOYD_ROUNDS = 10
CHUNK = 1 << 24  # distances held at once, 64 MiB


def nearest(codebook: jax.Array, z: jax.Array) -> jax.Array:
    """Vectors [..., E] → int32 [...]: the nearest entry (Euclidean) of codebook [C, E], the first of equals."""
    return jnp.argmin(_distances(codebook, z), axis=-1).astype(jnp.int32)


def likeliest(kernel: jax.Array, bias: jax.Array, z: jax.Array) -> jax.Array:
    """Vectors [..., E] → int32 [...]: the largest logit by kernel [E, C] and bias [C], the first of equals."""
    # As below: a coarser product would swap close logits.
    logits = jnp.einsum("...E,EC->...C", z, kernel, precision=jax.lax.Precision.HIGHEST) + bias
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def _distances(codebook: jax.Array, z: jax.Array) -> jax.Array:
    """|z - e|² less |z|², which is the same for every entry: [..., C]."""
    # Products in TF32 or bfloat16 would swap close neighbours.
    products = jnp.einsum("...E,CE->...C", z, codebook, precision=jax.lax.Precision.HIGHEST)
    return jnp.square(codebook).sum(-1) - 2 * products


def quantise(codebook: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Latents z [..., E] → entries [..., E], codes int32 [...], codebook loss and commitment loss (equation 4).

    The entries' gradient passes straight through to z; the codebook loss draws entries to their latents, the
    commitment loss latents to their entries (both are means over all elements).
    """
    codes = nearest(codebook, z)
    entries = codebook[codes]
    codebook_loss = jnp.square(entries - jax.lax.stop_gradient(z)).mean()
    commitment_loss = jnp.square(jax.lax.stop_gradient(entries) - z).mean()
    return z + jax.lax.stop_gradient(entries - z), codes, codebook_loss, commitment_loss


def k_means(key: jax.Array, z: jax.Array, codes: int) -> jax.Array:
    """Vectors z [n, E] → [codes, E] centres, by Lloyd's algorithm from k-means++ (Arthur and Vassilvitskii, 2007).

    The seeding finds rare latents too, where a plain draw would find the background of the pictures again and again.
    """
    centres = _seed(key, z, codes)
    step = max(1, CHUNK // codes)
    for _ in range(LLOYD_ROUNDS):
        sums, counts = jnp.zeros_like(centres), jnp.zeros(codes)
        for start in range(0, len(z), step):
            more = _members(centres, z[start : start + step])
            sums, counts = sums + more[0], counts + more[1]
        centres = jnp.where(counts[:, None] > 0, sums / jnp.maximum(counts, 1)[:, None], centres)
    return centres


def _seed(key: jax.Array, z: jax.Array, codes: int) -> jax.Array:
    """[codes, E] of the latents, each drawn in proportion to its squared distance from those already taken."""
    portion = min(-(-codes // SEEDING_ROUNDS), len(z))
    new = z[jax.random.randint(key, (1,), 0, len(z))]
    centres, distance = [new], jnp.full(len(z), jnp.inf)
    while sum(map(len, centres)) < codes:
        key, draw = jax.random.split(key)
        distance = _approach(distance, new, z)
        new = z[_draw(draw, distance, portion)]
        centres.append(new)
    return jnp.concatenate(centres)[:codes]


@jax.jit
def _approach(distance: jax.Array, new: jax.Array, z: jax.Array) -> jax.Array:
    """Squared distances [n] of z to the nearest centre, when the centres `new` are added."""
    squared = jnp.square(z).sum(-1) + _distances(new, z).min(-1)
    return jnp.minimum(distance, jnp.maximum(squared, 0))


@functools.partial(jax.jit, static_argnames="count")
def _draw(key: jax.Array, weights: jax.Array, count: int) -> jax.Array:
    """int32 [count] different indices, in proportion to weights [n] (Gumbel's top k)."""
    return jax.lax.top_k(jnp.log(weights) + jax.random.gumbel(key, weights.shape), count)[1]


@jax.jit
def _members(centres: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sum [C, E] and number [C] of the latents nearest to each centre."""
    codes = nearest(centres, z)
    sums = jax.ops.segment_sum(z, codes, len(centres))
    return sums, jax.ops.segment_sum(jnp.ones(len(z)), codes, len(centres))


def means(z: jax.Array, clusters: jax.Array, codes: int) -> jax.Array:
    """Latents z [n, E] and the cluster of each, int32 [n] → the clusters' means [codes, E].

    A cluster without members gets the first mean that there is: of equal entries the first is chosen, so it rests.
    """
    sums, counts = jax.ops.segment_sum(z, clusters, codes), jax.ops.segment_sum(jnp.ones(len(z)), clusters, codes)
    found = sums / jnp.maximum(counts, 1)[:, None]
    return jnp.where(counts[:, None] > 0, found, found[jnp.argmax(counts > 0)])
