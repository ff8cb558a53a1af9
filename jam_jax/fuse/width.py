"""JAM-Width: the parents side by side in one decoder of twice the width (arXiv 2309.15564, section 2.2.2).

Embeddings and norms are concatenated along the width, heads and feed-forward units are put side by side (the LLM's
first), and a matrix W with rows = outputs becomes

    copy:     [[W_llm, W_llm],      average:  [[W_llm, W_avg],      zero:  [[W_llm, 0    ],
               [W_img, W_img]]                 [W_img, W_avg]]              [0,     W_img]]

No factor of 1/2 is published, and none is applied. `zero` is not in the paper: the parents side by side, which read
nothing of each other before training but through the norms. It is the default, for what docs/reproduction.md found.
"""

import dataclasses
from typing import Literal

import numpy as np

from jam_jax.config import DecoderConfig
from jam_jax.streaming import Leaf, concatenate, mix
from jam_jax.trees import like, paths

Init = Literal["zero", "copy", "average"]

# Role → (input axis, output axis) in our stored layout, counted from the end; None: no input axis, only concatenated.
MATRICES = {
    "q": (-3, -2),
    "k": (-3, -2),
    "v": (-3, -2),
    "o": (-3, -1),
    "up": (-2, -1),
    "gate": (-2, -1),
    "down": (-2, -1),
}
HEADED = {"q_bias", "k_bias", "v_bias", "q_norm/scale", "q_norm/bias", "k_norm/scale", "k_norm/bias"}  # [..., N, H]


def widen(config: DecoderConfig) -> DecoderConfig:
    """The config of the fusion: twice the width, heads and feed-forward units; same depth and head size."""
    return dataclasses.replace(
        config,
        width=2 * config.width,
        heads=2 * config.heads,
        kv_heads=None if config.kv_heads is None else 2 * config.kv_heads,
        ffn_width=2 * config.ffn_width,
    )


def fuse(config: DecoderConfig, llm: dict, img: dict, init: Init = "zero") -> tuple[DecoderConfig, dict]:
    """Two trees of leaves of one config → the widened config and its parameters."""
    left, right = paths(llm), paths(img)
    return widen(config), like(img, {path: _leaf(path, left[path], right[path], init) for path in left})


def _leaf(path: str, llm: Leaf, img: Leaf, init: Init) -> Leaf:
    *_, parent, name = ("", *path.split("/"))
    if name not in MATRICES:
        axis = -2 if name in HEADED or f"{parent}/{name}" in HEADED else -1
        return concatenate([llm, img], axis)
    rows, columns = MATRICES[name]
    if init == "zero":
        upper, lower = concatenate([llm, _zeros(img)], columns), concatenate([_zeros(llm), img], columns)
        return concatenate([upper, lower], rows)
    from_llm = concatenate([llm, img], columns)  # what reads the LLM's half of the width
    if init == "copy":
        return concatenate([from_llm, from_llm], rows)
    average = mix(llm, img, 0.5)
    return concatenate([from_llm, concatenate([average, average], columns)], rows)


def _zeros(leaf: Leaf) -> Leaf:
    """Zeros of a leaf's shape."""
    return dataclasses.replace(leaf, read=lambda index: np.zeros([i.stop - i.start for i in index], leaf.dtype))
