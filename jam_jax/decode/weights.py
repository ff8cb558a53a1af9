"""A model's parameters as they decode: layer by layer, in the type in which they are read, or in 8 bits.

Decoding reads every weight once a token, and reading is what it takes time for. So nothing is cut out of a stack or
converted on the way, and fewer bits are less to read.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.tree_util import SequenceKey

from jam_jax import sharding, trees
from jam_jax.config import CrossConfig, DecoderConfig
from jam_jax.models import few_rows, model, planes
from jam_jax.models.model import LanguageConfig
from jam_jax.streaming import Leaf

# Of the weights: the config's dtype, or another; int8 is of the weights alone, activations stay in the config's.
Precision = Literal["model", "float32", "bfloat16", "int8"]

# Matrices by name → how many of their first axes they are multiplied over; the rest have a step each in 8 bits.
MATRICES = {**dict.fromkeys(("q", "k", "v", "qkv", "up", "gate", "down", "project"), 1), "o": 2}
JOINED = ("q", "k", "v")  # of a self block: one matrix on a CPU, where a product takes time to start
TABLES = ("tokens", "unembed")  # a row per id; multiplied over their last axis
STACKS = ("layers", "llm", "img", "cross")  # under these a leaf holds all layers
TOP = 127  # the largest 8-bit value in use, so that both signs have the same


@dataclasses.dataclass(frozen=True)
class _Form:
    dtype: Any  # of matrices
    eight_bits: bool
    few_rows: bool
    joined: bool


def is_ready(params: dict) -> bool:
    """Whether `prepare` made these."""
    return isinstance((params["layers"] if "layers" in params else params["llm"]["layers"]), tuple)


def prepare(
    config: LanguageConfig, params: dict, precision: Precision = "model", *, rows: int | None = None
) -> tuple[LanguageConfig, dict]:
    """The config and the parameters that decode; `params` are as they are stored, and may be dropped afterwards.

    bfloat16 computes in it too. int8 keeps every matrix as int8 with one float32 step for each of its outputs.
    For so many `rows` at once a CPU has q, k and v of a self block as one matrix `qkv`; for one row the table of the
    outputs too as `few_rows` reads it, and bfloat16 as bits. They decode any number of rows, but on no mesh: leave
    `rows` out for that.
    """
    config, form = _asked(config, precision, rows)
    return config, _prepare(config, form, params)


def prepare_leaves(
    config: LanguageConfig, leaves: dict, precision: Precision = "model", *, rows: int | None = None
) -> tuple[LanguageConfig, dict]:
    """`prepare` of parameters that are read when they are asked for (`streaming.Leaf`), to the bit.

    What is in memory at any time is what decodes, and a block of a stored stack, or of those that are joined, or the
    tables together, of which the outputs' layout is made. Raises what reading a leaf raises.
    """
    config, form = _asked(config, precision, rows)
    flat = trees.paths(leaves)
    tables = {path: leaf for path, leaf in flat.items() if path.split("/")[0] not in STACKS}
    found = _ready(config, form, {path: leaf.whole() for path, leaf in tables.items()})
    stacks: dict[str, dict[str, Leaf]] = {}  # what is made of one another, together
    for path, leaf in flat.items():
        if path not in tables and leaf.size:  # no layers, no blocks
            tree, _, name = path.rpartition("/")
            stacks.setdefault(tree if form.joined and name in JOINED else path, {})[path] = leaf
    for together in stacks.values():
        found |= _stack(config, form, together)
    whole = jax.eval_shape(functools.partial(_prepare, config, form), model.shapes(config))
    return config, jax.tree_util.tree_map_with_path(lambda path, _: found[path], whole)


def _stack(config: LanguageConfig, form: _Form, leaves: dict[str, Leaf]) -> dict[tuple, jax.Array]:
    """Leaves of a stack as they decode, by keys as in the whole; read as they lie on disk, then layer by layer."""
    found = {}
    (count,) = {leaf.shape[0] for leaf in leaves.values()}
    step = max(leaf.block[0] for leaf in leaves.values())
    for first in range(0, count, step):
        layers = slice(first, min(first + step, count))
        blocks = {
            path: leaf.read((layers, *(slice(0, length) for length in leaf.shape[1:]))) for path, leaf in leaves.items()
        }
        for layer in range(layers.stop - first):
            one = {path: block[layer : layer + 1] for path, block in blocks.items()}
            for keys, array in _ready(config, form, one).items():
                at = next(i for i, key in enumerate(keys) if isinstance(key, SequenceKey))
                found[(*keys[:at], SequenceKey(first + layer), *keys[at + 1 :])] = array
    return found


def _ready(config: LanguageConfig, form: _Form, stored: dict[str, Any]) -> dict[tuple, jax.Array]:
    """The tables, or one layer of a leaf of a stack, as they decode, by their keys."""
    values = {path: jnp.asarray(value, jnp.float32) for path, value in stored.items()}
    ready = jax.block_until_ready(_prepare(config, form, trees.nested(values)))
    return dict(jax.tree_util.tree_leaves_with_path(ready))


def _asked(config: LanguageConfig, precision: Precision, rows: int | None) -> tuple[LanguageConfig, _Form]:
    if precision in ("float32", "bfloat16"):
        config = _with_dtype(config, precision)
    joined = rows is not None and sharding.lone_cpu()
    return config, _Form(config.decoders[0].dtype, precision == "int8", few_rows.few(rows), joined)


def _with_dtype(config: LanguageConfig, dtype: Any) -> LanguageConfig:
    if isinstance(config, CrossConfig):
        towers = {name: dataclasses.replace(getattr(config, name), dtype=dtype) for name in ("llm", "img")}
        return dataclasses.replace(config, **towers)
    return dataclasses.replace(config, dtype=dtype)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _prepare(config: LanguageConfig, form: _Form, params: dict) -> dict:
    """Of all parameters, or of some: of all outside the stacks, or some layers of one of the stacks' leaves."""

    def one_by_one(stacked: dict, form: _Form = form) -> tuple[dict, ...]:
        leaves = jax.tree.leaves(stacked)
        count = len(leaves[0]) if leaves else 0
        return tuple(_formed(form, jax.tree.map(lambda leaf, i=i: leaf[i], stacked)) for i in range(count))

    kept = {name: value for name, value in params.items() if name not in STACKS}
    found = _formed(form, kept)
    if form.few_rows and kept:
        # The table of the outputs is read along its ids, that of the inputs row by row: two layouts, even if tied.
        held, name = (found, "unembed") if "unembed" in found else (found["embed"], "tokens")
        found |= {"head": _kept(form, held[name].T)}
        found |= {"head_step": held[name + "_step"]} if form.eight_bits else {}
        found = {name: value for name, value in found.items() if not name.startswith("unembed")}
    if isinstance(config, DecoderConfig):
        return found | {"layers": one_by_one(params.get("layers", {}))}
    for name in ("llm", "img"):
        found[name] = {"layers": one_by_one(params.get(name, {}).get("layers", {}))}
    # Their queries are of one tower, and their keys and values of the other.
    apart = dataclasses.replace(form, joined=False)
    blocks = params.get("cross", {})
    return found | {"cross": {name: one_by_one(tree, apart) for name, tree in blocks.items()}}


def _formed(form: _Form, tree: dict) -> dict:
    """The matrices of a tree as they decode; norms, biases and positions as they are."""
    found: dict[str, Any] = {}
    if form.joined and tree.keys() >= set(JOINED):
        together = jnp.concatenate([tree[name] for name in JOINED], axis=1)
        tree = {name: value for name, value in tree.items() if name not in JOINED} | {"qkv": together}
    for name, value in tree.items():
        if isinstance(value, dict):
            found[name] = _formed(form, value)
        elif name not in (*MATRICES, *TABLES):
            found[name] = value
        else:
            matrix, step = _quantised(name, value) if form.eight_bits else (value.astype(form.dtype), None)
            found[name] = _kept(form, matrix) if name in MATRICES else matrix
            if step is not None:
                found[name + "_step"] = step
    return found


def _kept(form: _Form, matrix: jax.Array) -> jax.Array:
    """In the type in which few rows read it."""
    return matrix.view(planes.kept(matrix.dtype)) if form.few_rows else matrix


def _quantised(name: str, matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """int8 values and float32 steps whose product is the matrix, to half a step."""
    axes = tuple(range(MATRICES[name])) if name in MATRICES else (matrix.ndim - 1,)
    largest = jnp.max(jnp.abs(matrix), axis=axes, keepdims=True).astype(jnp.float32)
    step = jnp.where(largest > 0, largest / TOP, 1.0)
    return jnp.round(matrix / step).astype(jnp.int8), jnp.squeeze(step, axes)
