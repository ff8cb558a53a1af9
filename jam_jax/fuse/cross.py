"""JAM-Cross: both parents whole, with new cross-attention blocks between them (arXiv 2309.15564, section 2.2.3)."""

import dataclasses
from typing import Literal

import numpy as np

from jam_jax.config import CrossConfig, DecoderConfig
from jam_jax.fuse import new_weights
from jam_jax.fuse.rows import TABLES
from jam_jax.models import model
from jam_jax.streaming import Index, Leaf, block_of, common_dtype, mix
from jam_jax.tokens import TEXT, TokenSpace
from jam_jax.trees import like, paths

POSITIONS = "embed/positions"
Project = Literal["average", "llm", "img", "random"]
Blocks = Literal["identity", "random"]
Source = Literal["llm", "img", "average"]
LLM_SHARES: dict[str, float] = {"llm": 1.0, "img": 0.0, "average": 0.5}


def fuse(
    llm_config: DecoderConfig,
    img_config: DecoderConfig,
    llm: dict,
    img: dict,
    space: TokenSpace,
    *,
    every: int = 2,
    seed: int = 0,
    project: Project = "average",
    blocks: Blocks = "identity",
    positions: Source = "img",
) -> tuple[CrossConfig, dict]:
    """Two trees of leaves → the joint model's. Text rows of the embedding are the LLM's, all others the image parent's.

    The paper is silent on the rest; ours: special tokens and the final norm come from the image parent, whose documents
    hold both modalities, and so do positions unless `positions` says otherwise. The new cross blocks start as the
    identity, or as blocks whose outputs are drawn too, and the projection as the average of the towers, or as one of
    them alone, or at random as in the original code (docs/reproduction.md compares them). What is new has the parents'
    type, float32 where they have several.
    """
    # The towers run alike, whatever their parents' directories say of it.
    shared = {name: getattr(img_config, name) for name in (*model.RUN_TIME, "vocab_size", "max_positions")}
    config = CrossConfig(dataclasses.replace(llm_config, **shared), img_config, every)
    is_text = (space.modality == TEXT).astype(np.float32)
    left, right = paths(llm), paths(img)
    parts = {path: mix(left[path], right[path], is_text) for path in TABLES & right.keys()}
    parts |= {path: leaf for path, leaf in right.items() if not path.startswith("layers/") and path not in parts}
    for name, tower in (("llm", left), ("img", right)):
        parts |= {f"{name}/{path}": leaf for path, leaf in tower.items() if path.startswith("layers/")}
    if positions != "img":
        if POSITIONS not in parts:
            raise ValueError(
                f"these parents have rotary positions, of which there is no table: leave {positions!r} out"
            )
        ours, theirs = left[POSITIONS], right[POSITIONS]
        parts[POSITIONS] = ours if positions == "llm" else mix(ours, theirs, LLM_SHARES[positions])
    shapes = model.shapes(config)
    new = {path: tuple(shape.shape) for path, shape in paths(shapes).items() if path.startswith("cross/")}
    dtype = common_dtype(leaf.dtype for leaf in (*left.values(), *right.values()))
    parts |= {path: _new(config, path, shape, seed, dtype, blocks) for path, shape in new.items()}
    parts["project"] = _project(config, project, seed, dtype)
    return config, like(shapes, parts)


def _new(config: CrossConfig, path: str, shape: tuple[int, ...], seed: int, dtype: np.dtype, blocks: Blocks) -> Leaf:
    """One leaf of all new cross blocks, `cross/TOWER/…`, stacked."""
    _, name, within = path.split("/", 2)
    start = new_weights.cross_block(getattr(config, name), within, shape[1:], identity=blocks == "identity")
    return new_weights.leaf(path, shape, start, seed, dtype, (1, *block_of(shape[1:], new_weights.FLOAT)))


def _project(config: CrossConfig, start: Project, seed: int, dtype: np.dtype) -> Leaf:
    """The projection [2D, D], whose first rows read the image tower: a share of the identity for each tower."""
    width = config.img.width
    if start == "random":
        return new_weights.leaf("project", (2 * width, width), new_weights.normal(width**-0.5), seed, dtype)
    shares = np.array([1 - LLM_SHARES[start], LLM_SHARES[start]], dtype)

    def read(index: Index) -> np.ndarray:
        rows, columns = (np.arange(part.start, part.stop) for part in index)
        return np.where(rows[:, None] % width == columns, shares[rows // width, None], dtype.type(0))

    shape = (2 * width, width)
    return Leaf(shape, dtype, read, block_of(shape, dtype))
