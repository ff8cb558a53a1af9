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

from jam_jax import progress
from jam_jax.config import ModelConfig
from jam_jax.convert.readers import Weights

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
    axes = _lengths(table, rule, _axes(rule, 0))
    return (axes[0] * len(rule.path.split()), *axes[1:])


def set_apart(table: Table, weights: Weights) -> list[str]:
    """The names that belong to another model in the same files."""
    return [name for name in weights.names() if table.apart and name.startswith(table.apart)]


def check(table: Table, weights: Weights, what: str) -> None:
    """Exact cover of the source's names; ValueError reports all that does not fit, in one line.

    `what` names the checkpoint in the message.
    """
    wanted = entries(table)
    counts = Counter(weights.names())
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


def gather(table: Table, weights: Weights, shapes: dict[str, Any], what: str) -> dict[str, Any]:
    """Our tree of float32 arrays from a source's weights, read one at a time.

    `shapes` is the tree that the model needs (`models.model.shapes`). ValueError as `check`, before anything is read,
    and for a tied table that is stored twice and differs.
    """
    check(table, weights, what)
    tree = _empty(shapes)
    leaves = flatten(tree)
    wanted = entries(table)
    filled = {path for rule in table.rules for path in rule.path.split()}
    assert filled == set(leaves), f"rules and model differ in {sorted(filled ^ set(leaves))}"
    with progress.bar("convert", len(wanted)) as advance:
        for name, (rule, layer) in wanted.items():
            for path, part in zip(rule.path.split(), _forward(table, rule, weights.read(name)), strict=True):
                leaves[path][... if layer is None else layer] = part
            advance()
    for name, of in table.copies.items():
        if name in weights.names() and not np.array_equal(weights.read(name), weights.read(of), equal_nan=True):
            raise ValueError(f"{what}: {name} should be the same table as {of} (tied by the settings), and differs")
    return tree


class Exported:
    """Our tree under the source's names: the table read backwards, as float32 `Weights`."""

    def __init__(self, table: Table, tree: dict[str, Any]) -> None:
        self.table = table
        self.leaves = flatten(tree)
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
        """Always float32."""
        return np.dtype(np.float32)

    def read(self, name: str) -> np.ndarray:
        """One tensor in the other system's layout."""
        rule, layer = self.entries[name]
        parts = [np.asarray(self.leaves[p] if layer is None else self.leaves[p][layer]) for p in rule.path.split()]
        return _backward(self.table, rule, parts).astype(np.float32)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by path: {"layers/attn/q": array, …}; empty dicts vanish."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= flatten(value, f"{prefix}{key}/") if isinstance(value, dict) else {prefix + key: value}
    return out


def _empty(shapes: dict[str, Any]) -> dict[str, Any]:
    return {k: _empty(v) if isinstance(v, dict) else np.empty(v.shape, np.float32) for k, v in shapes.items()}


def _axes(rule: Rule, side: int) -> list[str]:
    """The letters of each axis, there (0) or here (1): "(NH)D" → ["NH", "D"]."""
    return [a or b for a, b in re.findall(r"\((\w+)\)|(\w)", rule.layout.split("->")[side])]


def _lengths(table: Table, rule: Rule, axes: Iterable[str]) -> list[int]:
    sizes = table.sizes | rule.sizes
    return [math.prod(sizes[c] for c in group) for group in axes]


def _forward(table: Table, rule: Rule, array: np.ndarray) -> list[np.ndarray]:
    theirs, ours = "".join(_axes(rule, 0)), "".join(_axes(rule, 1))
    kept = [c for c in theirs if c in ours]
    # An axis that only the source has is one of size 1.
    assert math.prod(_lengths(table, rule, set(theirs) - set(kept))) == 1, rule.layout
    order = [kept.index(c) for c in ours if c in kept]
    spread = _lengths(table, rule, [c if c in kept else "" for c in ours])
    out = []
    for part in np.split(array, len(rule.path.split())):
        moved = part.reshape(_lengths(table, rule, kept)).transpose(order).reshape(spread)
        repeated = np.broadcast_to(moved, _lengths(table, rule, ours))
        out.append(repeated.reshape(_lengths(table, rule, _axes(rule, 1))))
    return out


def _backward(table: Table, rule: Rule, parts: list[np.ndarray]) -> np.ndarray:
    theirs, ours = "".join(_axes(rule, 0)), "".join(_axes(rule, 1))
    assert sorted(theirs) == sorted(ours), f"{rule.layout} cannot be undone"
    order, joined = [ours.index(c) for c in theirs], _lengths(table, rule, _axes(rule, 0))
    whole = _lengths(table, rule, ours)
    return np.concatenate([part.reshape(whole).transpose(order).reshape(joined) for part in parts])


def _listed(kind: str, items: list[str], most: int = 6) -> str:
    if not items:
        return ""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return f"{kind}: {', '.join(items[:most])}{more}"
