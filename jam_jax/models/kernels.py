"""Causal attention over whole rows, by what computes it best; each equals `attention.attend`, the reference.

    reference   the scores of all queries with all keys at once: for short rows
    tiled       those of a tile of queries and a few heads at a time, of what is seen alone: on CPUs
    chunked     those of some queries at a time, computed again in the backward pass: on any device
    cudnn       flash attention of NVIDIA's cuDNN, through `jax.nn.dot_product_attention`: half precision, on GPUs
    pallas      splash attention, the kernel that comes with JAX: on TPUs

On a mesh every device computes its own rows and heads over the whole length of a row. Where the length is spread over
the mesh's sequence axis, heads and lengths change places before and after (arXiv 2309.14509).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jam_jax import sharding
from jam_jax.config import DecoderConfig
from jam_jax.models import attention, tiles

QUERIES = 512  # of a chunk
LANES = 128  # of a TPU's registers: lengths and head sizes are multiples of them
TILES = (512, 256, LANES)  # queries and keys that a TPU's kernel takes at a time; the first that divides a row


def causal(config: DecoderConfig, q: jax.Array, k: jax.Array, v: jax.Array, documents: jax.Array | None) -> jax.Array:
    """q [B, T, N, H], k and v [B, T, K, H], documents int32 [B, T] or None → [B, T, N, H].

    A query sees itself and the tokens before it, of its document alone where `documents` numbers them.
    """
    q, k, v = (checkpoint_name(x, "projected") for x in (q, k, v))
    name = chosen(config, q)
    compute = KERNELS[name]
    if q.shape[0] % sharding.sizes("batch")[0] == 0:
        heads = ("batch", "whole_length", "heads_of_whole", "head")
        rows = () if documents is None else (("batch", "whole_length"),)
        compute = sharding.per_device(
            compute, (heads, heads, heads, *rows), heads, check=name not in ("cudnn", "pallas")
        )
    out = compute(q, k, v, *(() if documents is None else (documents,)))
    return checkpoint_name(sharding.shard(out, "batch", "length", "heads", "head"), "read")


def chosen(config: DecoderConfig, q: jax.Array) -> str:
    """Which of KERNELS computes attention of queries [B, T, N, H] on the devices of the mesh in force."""
    if config.attention != "auto":
        return config.attention
    length, head_size, platform = q.shape[1], q.shape[3], sharding.platform()
    if platform == "tpu" and length % LANES == 0:
        return "pallas"
    if platform == "gpu" and q.dtype == jnp.bfloat16 and head_size % 8 == 0 and head_size <= 128:
        return "cudnn"
    if platform == "cpu" and length > 2 * tiles.QUERIES:
        return "tiled"
    return "chunked" if length > 2 * QUERIES else "reference"


def reference(q: jax.Array, k: jax.Array, v: jax.Array, documents: jax.Array | None = None) -> jax.Array:
    """The scores of a whole row at once: [B, N, T, T] float32."""
    return attention.attend(q, k, v, attention.before(q.shape[1], documents))


def chunked(q: jax.Array, k: jax.Array, v: jax.Array, documents: jax.Array | None = None) -> jax.Array:
    """The scores of QUERIES queries at a time: [B, N, QUERIES, T] float32."""
    length = q.shape[1]
    count = -(-length // QUERIES)

    def parts(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, count * QUERIES - length)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], count, QUERIES, *x.shape[2:]), 1, 0)

    @jax.checkpoint
    def attend(part: tuple[jax.Array, jax.Array, jax.Array | None]) -> jax.Array:
        q, first, mine = part
        seen = (jnp.arange(length) <= (first + jnp.arange(QUERIES))[:, None])[None]
        if documents is not None and mine is not None:
            seen = seen & (documents[:, None] == mine[:, :, None])
        return attention.attend(q, k, v, seen)

    firsts = jnp.arange(count) * QUERIES
    out = jax.lax.map(attend, (parts(q), firsts, None if documents is None else parts(documents)))
    return jnp.moveaxis(out, 0, 1).reshape(q.shape[0], -1, *q.shape[2:])[:, :length]


def cudnn(q: jax.Array, k: jax.Array, v: jax.Array, documents: jax.Array | None = None) -> jax.Array:
    """cuDNN's flash attention; with documents it takes a mask, and is slower."""
    mask = None if documents is None else documents[:, None, :, None] == documents[:, None, None, :]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=True, implementation="cudnn")


def pallas(q: jax.Array, k: jax.Array, v: jax.Array, documents: jax.Array | None = None) -> jax.Array:
    """Splash attention, which skips what a causal mask hides; heads are padded to whole registers."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    length, heads, size = q.shape[1:]
    sizes: dict[str, Any] = dict.fromkeys(_TILED, next(tile for tile in TILES if length % tile == 0))
    kernel = splash.make_splash_mha(
        masks.MultiHeadMask([masks.CausalMask((length, length))] * heads),
        block_sizes=splash.BlockSizes(**sizes, use_fused_bwd_kernel=True),
        head_shards=1,
        q_seq_shards=1,
        interpret=sharding.platform() != "tpu",
    )

    def prepared(x: jax.Array) -> jax.Array:
        return jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, 0), (0, -size % LANES)))

    own = None if documents is None else splash.SegmentIds(documents, documents)
    out = jax.vmap(kernel)(prepared(q * size**-0.5), prepared(k), prepared(v), own)
    return out[..., :size].swapaxes(1, 2).astype(q.dtype)


_TILED = ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute")

KERNELS: dict[str, Callable[..., jax.Array]] = {
    "reference": reference,
    "tiled": tiles.attend,
    "chunked": chunked,
    "cudnn": cudnn,
    "pallas": pallas,
}
