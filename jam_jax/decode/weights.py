"""A model's parameters as they decode: layer by layer, in the type that they are multiplied in, or in 8 bits.

Decoding reads every weight once a token, and reading is what it takes time for. So nothing is cut out of a stack or
converted on the way, fewer bits are less to read, and on a CPU matrices lie as `few_rows` reads them.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jam_jax.config import CrossConfig, DecoderConfig
from jam_jax.models import few_rows
from jam_jax.models.model import LanguageConfig

# Of the weights: the config's dtype, or another; int8 is of the weights alone, activations stay in the config's.
Precision = Literal["model", "float32", "bfloat16", "int8"]

# Matrices by name → how many of their first axes they are multiplied over; the rest have a step each in 8 bits.
MATRICES = {**dict.fromkeys(("q", "k", "v", "up", "gate", "down", "project"), 1), "o": 2}
TABLES = ("tokens", "unembed")  # a row per id; multiplied over their last axis
TOP = 127  # the largest 8-bit value in use, so that both signs have the same


@dataclasses.dataclass(frozen=True)
class _Form:
    dtype: Any  # of matrices
    eight_bits: bool
    strands: bool


def is_ready(params: dict) -> bool:
    """Whether `prepare` made these."""
    return isinstance((params["layers"] if "layers" in params else params["llm"]["layers"]), tuple)


def prepare(
    config: LanguageConfig, params: dict, precision: Precision = "model", *, rows: int | None = None
) -> tuple[LanguageConfig, dict]:
    """The config and the parameters that decode; `params` are as they are stored, and may be dropped afterwards.

    bfloat16 computes in it too. int8 keeps every matrix as int8 with one float32 step for each of its outputs.
    `rows` that decode at once, if few, let a CPU keep matrices in strands; a mesh takes whole ones.
    """
    if precision in ("float32", "bfloat16"):
        config = _with_dtype(config, precision)
    strands = rows is not None and rows <= few_rows.MOST and jax.default_backend() == "cpu"
    return config, _prepare(config, _Form(config.decoders[0].dtype, precision == "int8", strands), params)


def _with_dtype(config: LanguageConfig, dtype: Any) -> LanguageConfig:
    if isinstance(config, CrossConfig):
        towers = {name: dataclasses.replace(getattr(config, name), dtype=dtype) for name in ("llm", "img")}
        return dataclasses.replace(config, **towers)
    return dataclasses.replace(config, dtype=dtype)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _prepare(config: LanguageConfig, form: _Form, params: dict) -> dict:
    def one_by_one(stacked: dict, count: int) -> tuple[dict, ...]:
        return tuple(_formed(form, jax.tree.map(lambda leaf, i=i: leaf[i], stacked)) for i in range(count))

    kept = {name: value for name, value in params.items() if name not in ("layers", "llm", "img", "cross")}
    found = _formed(form, kept)
    if form.strands:
        # The table of the outputs is read along its ids, that of the inputs row by row: two layouts, even if tied.
        held, name = (found, "unembed") if "unembed" in found else (found["embed"], "tokens")
        found |= {"head": few_rows.split(held[name].T, 1)}
        found |= {"head_step": held[name + "_step"]} if form.eight_bits else {}
        found = {name: value for name, value in found.items() if not name.startswith("unembed")}
    if isinstance(config, DecoderConfig):
        return found | {"layers": one_by_one(params["layers"], config.layers)}
    for name in ("llm", "img"):
        found[name] = {"layers": one_by_one(params[name]["layers"], config.img.layers)}
    return found | {"cross": {name: one_by_one(tree, config.cross_blocks) for name, tree in params["cross"].items()}}


def _formed(form: _Form, tree: dict) -> dict:
    """The matrices of a tree as they decode; norms, biases and positions as they are."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found[name] = _formed(form, value)
        elif name not in (*MATRICES, *TABLES):
            found[name] = value
        else:
            matrix, step = _quantised(name, value) if form.eight_bits else (value.astype(form.dtype), None)
            split = form.strands and name in MATRICES
            found[name] = few_rows.split(matrix, MATRICES[name]) if split else matrix
            if step is not None:
                found[name + "_step"] = step
    return found


def _quantised(name: str, matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """int8 values and float32 steps whose product is the matrix, to half a step."""
    axes = tuple(range(MATRICES[name])) if name in MATRICES else (matrix.ndim - 1,)
    largest = jnp.max(jnp.abs(matrix), axis=axes, keepdims=True).astype(jnp.float32)
    step = jnp.where(largest > 0, largest / TOP, 1.0)
    return jnp.round(matrix / step).astype(jnp.int8), jnp.squeeze(step, axes)
