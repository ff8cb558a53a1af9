"""Tiny random models that the tests share: small enough for milliseconds, odd enough to catch a swapped axis."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jam_jax import streaming
from jam_jax.model_config import CrossConfig, DecoderConfig, RopeScaling
from jam_jax.models import model

DECODER = DecoderConfig(vocab_size=61, layers=3, width=24, heads=4, head_size=6, ffn_width=40, max_positions=32)
LLAMA_LIKE = dataclasses.replace(
    DECODER,
    kv_heads=2,
    norm="rmsnorm",
    positions="rope",
    ffn="silu_gated",
    qk_norm="layernorm",
    tied=False,
)
QWEN_LIKE = dataclasses.replace(LLAMA_LIKE, qk_norm="none", bias="qkv", tied=True)
GEMMA_LIKE = dataclasses.replace(
    LLAMA_LIKE, kv_heads=1, norm="rmsnorm_plus_one", ffn="gelu_gated", qk_norm="rmsnorm", embed_scale=24**0.5, tied=True
)
# Every projection has a bias, and the rotary frequencies are stretched within these short lengths.
BIASED = dataclasses.replace(
    LLAMA_LIKE, qk_norm="none", bias="all", rope_scaling=RopeScaling("llama3", 8.0, original_positions=12)
)
OPT_LIKE = dataclasses.replace(DECODER, norm="layernorm", bias="all")
CROSS = CrossConfig(DECODER, DECODER, every=2)

FAMILIES = {
    "cm3leon": DECODER,
    "opt": OPT_LIKE,
    "llama": LLAMA_LIKE,
    "qwen": QWEN_LIKE,
    "gemma": GEMMA_LIKE,
    "gelu": dataclasses.replace(OPT_LIKE, ffn="gelu"),
    "biased": BIASED,
}


def families(*short: str) -> list:
    """Every family as a parameter of a test; what is told by those named is told of the others in the long tests."""
    return [pytest.param(name, marks=() if name in short else pytest.mark.long) for name in FAMILIES]


def randomise(tree: dict, seed: int = 1, std: float = 0.3) -> dict:
    """Random arrays of the tree's shapes, so that zeros and ones of an init hide nothing.

    Drawn by NumPy, which compiles nothing, where a model's own init compiles for a second: `randomise(shapes(config))`.
    """
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, std, leaf.shape), jnp.float32), tree)


def leaves(tree: dict) -> dict:
    """Arrays as leaves."""
    return jax.tree.map(streaming.of_array, tree)


def whole(tree: dict) -> dict:
    """Leaves as float32 arrays."""
    return jax.tree.map(lambda leaf: leaf.whole().astype(np.float32), tree)


# One program per shape, where eager calls would compile each operation.
forward = jax.jit(model.forward, static_argnums=0)
