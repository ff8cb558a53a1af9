"""Reading a compiled program's text: which collectives it runs, how often, and how many bytes each moves.

The text is XLA's optimized HLO of one device. A loop's body counts as often as the loop runs, where the text says so.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "f8e4m3fn": 8, "f8e5m2": 8}  # of those whose name does not end in them


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program."""

    kind: str  # one of KINDS
    bytes: int  # of the whole arrays in their largest form, per device: gathered, or before they are scattered
    times: int  # that it runs in one execution of the program
    groups: tuple[tuple[int, ...], ...]  # of devices that take part together; empty: all of them

    @property
    def members(self) -> int:
        """Devices in a group; 0 where the text names no groups."""
        return len(self.groups[0]) if self.groups else 0


def collectives(text: str) -> list[Collective]:
    """All collectives of a program, each with how often it runs."""
    bodies = dict(_computations(text))
    entry = next(name for name, (is_entry, _) in bodies.items() if is_entry)
    found: list[Collective] = []

    def visit(name: str, times: int) -> None:
        for line in bodies[name][1]:
            if match := _COLLECTIVE.search(line):
                found.append(_collective(line, match["kind"], bool(match["start"]), times))
            inner = times * _trips(line, bodies) if " while(" in line else times
            for called in _called(line):
                if called in bodies and (" while(" in line or not _REDUCER.search(line)):
                    visit(called, inner)

    visit(entry, 1)
    return found


_COLLECTIVE = re.compile(rf" (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\(")
_REDUCER = re.compile(
    r" (all-reduce|reduce-scatter|reduce|scatter|sort|select-and-scatter|reduce-window|map)(-start)?\("
)
_SHAPE = re.compile(r"\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\]")


def _computations(text: str) -> Iterator[tuple[str, tuple[bool, list[str]]]]:
    """Every computation: its name, whether it is the entry, and its lines."""
    name, entry = "", False
    lines: list[str] = []
    for line in text.splitlines():
        if match := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
            name, entry, lines = match[2], bool(match[1]), []
        elif line.startswith("}"):
            yield name, (entry, lines)
        else:
            lines.append(line)


def _called(line: str) -> Iterator[str]:
    """The computations that an instruction runs."""
    for names in re.findall(r"(?:calls|to_apply|body|condition|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)", line):
        yield from (name.strip().lstrip("%") for name in names.strip("{}").split(","))


def _trips(line: str, bodies: dict[str, tuple[bool, list[str]]]) -> int:
    """How often a loop runs; 1 where neither the compiler's note nor the loop's condition tells."""
    if match := re.search(r"known_trip_count[^\d]*(\d+)", line):
        return int(match[1])
    condition = re.search(r"condition=%?([\w.\-]+)", line)
    constants = [
        int(match[1])
        for inner in (bodies[condition[1]][1] if condition and condition[1] in bodies else ())
        if (match := re.search(r"= s32\[\][^ ]* constant\((\d+)\)", inner))
    ]
    return constants[0] if len(constants) == 1 else 1


def _collective(line: str, kind: str, start: bool, times: int) -> Collective:
    groups = _groups(line)
    members = len(groups[0]) if groups else 1
    result = line.split("=", 1)[1].split(f" {kind}", 1)[0].strip()
    size = sum(_bytes(*shape) for shape in _SHAPE.findall(result))
    if start and (result.startswith("((") or kind in ("all-gather", "collective-permute")):
        # The start of an asynchronous one holds what is given beside what is made.
        size = round(size * members / (members + 1)) if kind in ("all-gather", "reduce-scatter") else size // 2
    elif kind == "reduce-scatter":
        size *= members
    return Collective(kind, size, times, groups)


def _bytes(kind: str, sizes: str) -> int:
    bits = BITS.get(kind) or int(re.sub(r"^\D+", "", kind))
    return math.prod(int(n) for n in sizes.split(",") if n) * bits // 8


def _groups(line: str) -> tuple[tuple[int, ...], ...]:
    """The groups of an instruction, in any of three forms:

    `{{0,1},{2,3}}`; `[2,2]<=[4]` or, transposed, `[2,2]<=[2,2]T(1,0)`; `mesh['a'=2,'b'=2] {'b'}`.
    """
    if match := re.search(r"replica_groups=\{(\{[\d,{} ]*\})\}", line):
        return tuple(tuple(int(n) for n in group.split(",")) for group in re.findall(r"\{([\d, ]+)\}", match[1]))
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line):
        names = re.findall(r"'([^']+)'=(\d+)", match[1])
        together = re.findall(r"'([^']+)'", match[2])
        dims = [int(size) for _, size in names]
        axes = [name for name, _ in names]
        order = [axes.index(name) for name in axes if name not in together] + [axes.index(name) for name in together]
        return _dealt(dims, order, math.prod(dims[axes.index(name)] for name in together))
    if match := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        dims = [int(n) for n in match[2].split(",")]
        order = [int(n) for n in match[3].split(",")] if match[3] else list(range(len(dims)))
        return _dealt(dims, order, int(match[1].split(",")[-1]))
    return ()


def _dealt(dims: list[int], order: list[int], members: int) -> tuple[tuple[int, ...], ...]:
    """Devices 0, 1, … laid out as a grid of `dims`, read with its axes in another order, in groups of `members`."""
    strides = [math.prod(dims[axis + 1 :]) for axis in range(len(dims))]

    def device(place: int) -> int:
        found = 0
        for axis in reversed(order):
            place, index = divmod(place, dims[axis])
            found += index * strides[axis]
        return found

    every = [device(place) for place in range(math.prod(dims))]
    return tuple(tuple(every[i : i + members]) for i in range(0, len(every), members))
