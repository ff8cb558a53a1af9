"""JAM-Uniform: every weight is the mean of the parents' (arXiv 2309.15564, section 2.2.1), or another mixture."""

import numpy as np

from jam_jax.config import DecoderConfig
from jam_jax.fuse.rows import TABLES
from jam_jax.streaming import mix
from jam_jax.tokens import IMAGE, TEXT, TokenSpace
from jam_jax.trees import like, paths


def fuse(
    config: DecoderConfig, llm: dict, img: dict, weight: float = 0.5, rows: np.ndarray | None = None
) -> tuple[DecoderConfig, dict]:
    """Two trees of leaves of one config → the same config and their mixture, float32.

    `weight` is the LLM's share of every weight, the rest is the image parent's; the paper's is a half. `rows` [V]
    gives the rows of the embedding and the output shares of their own (`row_shares`).
    """
    table = weight if rows is None else rows
    left, right = paths(llm), paths(img)
    mixed = {path: mix(left[path], right[path], table if path in TABLES else weight) for path in right}
    return config, like(img, mixed)


def row_shares(
    space: TokenSpace | None, weight: float, text_weight: float | None, image_weight: float | None
) -> np.ndarray | None:
    """The LLM's share of every row, float32 [V]; None where all have the same.

    Rows that are neither text nor image (special and padded ones) have `weight`. ValueError if rows have shares of
    their own and no space says which they are.
    """
    own = {TEXT: text_weight, IMAGE: image_weight}
    if all(share is None for share in own.values()):
        return None
    if space is None:
        raise ValueError("a share for text or image rows needs parents with a tokenizer, which says what a row is")
    shares = np.full(space.vocab_size, weight, np.float32)
    for modality, share in own.items():
        if share is not None:
            shares[space.modality == modality] = share
    return shares
