"""Names and layouts of another system as a table: source name → our path, letters → letters, both ways.

A rule says `model.decoder.layers.{L}.self_attn.q_proj.weight`, `(NH)D -> DNH`, `layers/attn/q`: for every layer, rows
are heads times head size, and ours are [L, D, N, H] (the letters are those of `models/layers.py`; `sizes` gives their
values, and `{L}` counts up to the size of L and stacks). Brackets on either side share an axis, so that the order of
rows inside a head can change: `(NIR)D -> DN(RI)`. Nothing else describes a conversion, so the same table reads
and writes, and applying it is an exact cover: whatever does not fit is reported together, before anything is read.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jam_jax.config import ModelConfig
from jam_jax.convert.readers import Weights
from jam_jax.streaming import BLOCK_BYTES, Index, Leaf, block_of, common_dtype, cut, permuted
from jam_jax.trees import like, paths

STORED = (np.float32, np.float16, ml_dtypes.bfloat16)  # each is exact in our float32


@dataclasses.dataclass(frozen=True)
class Rule:
    """One row of a table."""

    source: str  # name in the source; {X} counts 0..sizes[X]-1 and is stacked in front
    layout: str  # axes there and here: "(NH)D -> DNH"; a letter that only we have repeats the values along it
    path: str  # leaf of our tree; several, separated by spaces, lie one after another on the source's first axis
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)  # of letters that are this rule's own


@dataclasses.dataclass(frozen=True)
class Table:
    """All that a family says about its weights."""

    rules: tuple[Rule, ...]
    sizes: dict[str, int]  # of every letter that rules share
    copies: dict[str, str] = dataclasses.field(default_factory=dict)  # stored by some, equal to another: tied output
    inert: tuple[str, ...] = ()  # names that carry nothing
    apart: tuple[str, ...] = ()  # beginnings of names of another model in the same files: an image tokenizer


@dataclasses.dataclass(frozen=True)
class Parent:
    """A checkpoint of another system as a family understands it."""

    config: ModelConfig
    table: Table
    weights: Weights
    beside: str = ""  # what the checkpoint holds that is no part of the model, for the user to read


class Entry(NamedTuple):
    """A rule for one tensor of the source."""

    rule: Rule
    layer: int | None


def nested(source: str, path: str, rows: tuple[tuple[str, str, str], ...]) -> tuple[Rule, ...]:
    """Rules from (name, layout, path) rows, with a prefix for the names and one for the paths."""
    return tuple(Rule(source + name, layout, " ".join(path + p for p in paths.split())) for name, layout, paths in rows)


def entries(table: Table) -> dict[str, Entry]:
    """Every name that the source must hold."""
    out: dict[str, Entry] = {}
    for rule in table.rules:
        counted = re.search(r"\{(\w)\}", rule.source)
        found = {rule.source: Entry(rule, None)}
        if counted:
            found = {rule.source.replace(counted[0], str(i)): Entry(rule, i) for i in range(table.sizes[counted[1]])}
        assert not found.keys() & out.keys(), f"two rules for {rule.source}"
        out |= found
    return out


def expected_shape(table: Table, rule: Rule) -> tuple[int, ...]:
    """The shape of a rule's tensor in the source."""
    axes, parts = _lengths(table.sizes | rule.sizes, _axes(rule, 0)), len(rule.path.split())
    return (axes[0] * parts, *axes[1:]) if parts > 1 else tuple(axes)


def set_apart(table: Table, weights: Weights) -> list[str]:
    """The names that belong to another model in the same files."""
    return [name for name in weights.names() if table.apart and name.startswith(table.apart)]


def check(table: Table, weights: Weights, what: str) -> None:
    """Exact cover of the source's names; ValueError reports all that does not fit, in one line.

    `what` names the checkpoint in the message.
    """
    counts = Counter(weights.names())
    counted = {letter for rule in table.rules for letter in re.findall(r"\{(\w)\}", rule.source)}
    if (most := max((table.sizes[letter] for letter in counted), default=0)) > len(counts):
        raise ValueError(f"{what} does not fit its settings: {most} layers by these, and {len(counts)} tensors in all")
    wanted = entries(table)
    allowed = {name for name in table.copies if name in counts} | {*table.inert, *set_apart(table, weights)}
    problems = [
        _listed("missing", [n for n in wanted if n not in counts]),
        _listed("left over", [n for n in counts if n not in wanted and n not in allowed]),
        _listed("doubled", [n for n, c in counts.items() if c > 1]),
    ]
    shapes = {n: expected_shape(table, e.rule) for n, e in wanted.items() if n in counts}
    shapes |= {n: shapes[of] for n, of in table.copies.items() if n in counts and of in shapes}
    problems.append(
        _listed(
            "mis-shaped",
            [f"{n} is {list(weights.shape(n))}, not {list(s)}" for n, s in shapes.items() if weights.shape(n) != s],
        )
    )
    kinds = {n: weights.dtype(n) for n in shapes}
    problems.append(
        _listed("not float32, float16 or bfloat16", [f"{n} ({k})" for n, k in kinds.items() if k not in STORED])
    )
    if any(problems):
        raise ValueError(f"{what} does not fit its settings: {'; '.join(p for p in problems if p)}")


def leaves(table: Table, weights: Weights, shapes: dict[str, Any], what: str) -> dict[str, Any]:
    """Our tree of `Leaf`s over a source's weights, in the types in which it stores them; nothing is read yet.

    `shapes` is the tree that the model needs (`models.model.shapes`). ValueError as `check`, and for a tied table that
    is stored twice and differs.
    """
    check(table, weights, what)
    expected = paths(shapes)
    filled = {p: (e.rule, part) for e in entries(table).values() for part, p in enumerate(e.rule.path.split())}
    assert set(filled) == set(expected), f"rules and model differ in {sorted(set(filled) ^ set(expected))}"
    held = set(weights.names())
    for name, of in table.copies.items():
        if name in held and not _equal(weights, name, of):
            raise ValueError(f"{what}: {name} should be the same table as {of} (tied by the settings), and differs")
    out = {path: _leaf(table, weights, *filled[path], expected[path].shape) for path in expected}
    return like(shapes, out)


class Exported:
    """Our tree of `Leaf`s under the source's names: the table read backwards, as `Weights`."""

    def __init__(self, table: Table, tree: dict[str, Any]) -> None:
        self.table = table
        self.leaves = paths(tree)
        self.entries = entries(table)
        rest = set(self.leaves) - {path for rule in table.rules for path in rule.path.split()}
        assert not rest, f"no rule writes {sorted(rest)}"

    def names(self) -> list[str]:
        """In the table's order."""
        return list(self.entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """As the other system stores it."""
        return expected_shape(self.table, self.entries[name].rule)

    def dtype(self, name: str) -> np.dtype:
        """As ours are stored."""
        return common_dtype(self.leaves[path].dtype for path in self.entries[name].rule.path.split())

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """One tensor in the other system's layout."""
        rule, layer = self.entries[name]
        parts = [_layer(self.leaves[path], layer) for path in rule.path.split()]
        array = _backward(self.table, rule, parts).astype(self.dtype(name), copy=False)
        return array[start:stop] if array.ndim else array


def _layer(leaf: Leaf, layer: int | None) -> np.ndarray:
    if layer is None:
        return leaf.whole()
    return leaf.read((slice(layer, layer + 1), *(slice(0, n) for n in leaf.shape[1:])))[0]


def _equal(weights: Weights, one: str, other: str) -> bool:
    rows = weights.shape(one)[0]
    step = block_of(weights.shape(one), weights.dtype(one))[0]
    return all(
        np.array_equal(weights.read(one, i, i + step), weights.read(other, i, i + step), equal_nan=True)
        for i in range(0, rows, step)
    )


def _leaf(table: Table, weights: Weights, rule: Rule, part: int, shape: tuple[int, ...]) -> Leaf:
    """One leaf of ours: part number `part` of the rule's tensors, of every layer that the rule counts."""
    counted = re.search(r"\{(\w)\}", rule.source)
    names = [rule.source.replace(counted[0], str(i)) for i in range(shape[0])] if counted else [rule.source]
    inner = shape[1:] if counted else shape
    theirs, ours = _axes(rule, 0), _axes(rule, 1)
    rows = expected_shape(table, rule)[0] // len(rule.path.split()) if theirs else 1
    # Rows are read alone where they are a part of one of our axes.
    letter = theirs[0][0] if theirs else ""
    axis = ours.index(letter) if letter in ours else None
    unit = rows // inner[axis] if axis is not None else rows
    dtype = common_dtype(weights.dtype(name) for name in names)

    def one(name: str, index: Index) -> np.ndarray:
        sizes, begin, end = table.sizes | rule.sizes, 0, rows
        if axis is not None:
            begin, end = index[axis].start * unit, index[axis].stop * unit
            sizes = sizes | {letter: index[axis].stop - index[axis].start}
            index = (*index[:axis], slice(None), *index[axis + 1 :])
        array = weights.read(name, part * rows + begin, part * rows + end)
        return _forward(rule, sizes, array)[index].astype(dtype, copy=False)

    def read(index: Index) -> np.ndarray:
        if not counted:
            return one(names[0], index)
        layers = [one(name, index[1:])[None] for name in names[index[0]]]
        return layers[0] if len(layers) == 1 else np.concatenate(layers)

    return Leaf(shape, dtype, read, _block(shape, dtype, 1 if counted else 0, axis))


def _block(shape: tuple[int, ...], dtype: np.dtype, stacked: int, axis: int | None) -> tuple[int, ...]:
    """The parts in which a leaf is read: all of it if it is small, else a layer, or some of the rows of one."""
    size = math.prod(shape) * dtype.itemsize
    if size <= BLOCK_BYTES:
        return shape
    block = [1] * stacked + list(shape[stacked:])
    if axis is not None:
        length = block[stacked + axis]
        block[stacked + axis] = cut(length, math.prod(block) // length * dtype.itemsize)
    return tuple(block)


def _axes(rule: Rule, side: int) -> list[str]:
    """The letters of each axis, there (0) or here (1): "(NH)D" → ["NH", "D"]."""
    return [a or b for a, b in re.findall(r"\((\w+)\)|(\w)", rule.layout.split("->")[side])]


def _lengths(sizes: dict[str, int], axes: Iterable[str]) -> list[int]:
    return [math.prod(sizes[c] for c in group) for group in axes]


def _forward(rule: Rule, sizes: dict[str, int], array: np.ndarray) -> np.ndarray:
    """A tensor as theirs, of one path, as ours; `sizes` may count fewer rows than the whole has."""
    theirs, ours = "".join(_axes(rule, 0)), "".join(_axes(rule, 1))
    kept = [c for c in theirs if c in ours]
    # An axis that only the source has is one of size 1.
    assert math.prod(_lengths(sizes, set(theirs) - set(kept))) == 1, rule.layout
    order = [kept.index(c) for c in ours if c in kept]
    spread = _lengths(sizes, [c if c in kept else "" for c in ours])
    moved = permuted(array.reshape(_lengths(sizes, kept)), order).reshape(spread)
    return np.broadcast_to(moved, _lengths(sizes, ours)).reshape(_lengths(sizes, _axes(rule, 1)))


def _backward(table: Table, rule: Rule, parts: list[np.ndarray]) -> np.ndarray:
    theirs, ours = "".join(_axes(rule, 0)), "".join(_axes(rule, 1))
    assert sorted(theirs) == sorted(ours), f"{rule.layout} cannot be undone"
    sizes = table.sizes | rule.sizes
    order, joined = [ours.index(c) for c in theirs], _lengths(sizes, _axes(rule, 0))
    whole = _lengths(sizes, ours)
    moved = [permuted(part.reshape(whole), order).reshape(joined) for part in parts]
    return moved[0] if len(moved) == 1 else np.concatenate(moved)


def _listed(kind: str, items: list[str], most: int = 6) -> str:
    if not items:
        return ""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return f"{kind}: {', '.join(items[:most])}{more}"
