"""Measured tables as Markdown: a file of their own, or the part between two markers of one that a person wrote."""

import re
from collections.abc import Sequence
from pathlib import Path

from jam_jax import config
from jam_jax.evaluate.tables import grids
from jam_jax.evaluate.tables.grids import Grid
from jam_jax.evaluate.tables.summary import RULE, MeasuredTable
from jam_jax.machine import machine

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"  # what stands between is written by the command


def write(path: Path, tables: Sequence[MeasuredTable]) -> None:
    """Put tables between the markers of a file, or into a new file; ValueError for one that has no markers."""
    before, after = _around(path)
    config.write_whole(path, f"{before}{BEGIN}\n\n{as_markdown(tables)}\n{END}{after}")


def check(path: Path) -> None:
    """ValueError if the file is there and has no place for the tables."""
    _around(path)


def _around(path: Path) -> tuple[str, str]:
    if not path.exists():
        return "", "\n"
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path} has no lines {BEGIN} and {END}, between which the tables would stand: add them")
    return before, after


def as_markdown(tables: Sequence[MeasuredTable]) -> str:
    """Every table with its differences, remarks and claims."""
    parts = [f"Measured on {machine()}."]
    for measured in tables:
        table = measured.table
        parts.append(f"## {_text(table.title)}")
        if table.note:
            parts.append(_text(table.note))
        parts.append(_grid(grids.figures(measured)))
        parts += [f"{_text(grid.title)}:\n\n{_grid(grid)}" for grid in grids.differences(measured)]
        if claims := grids.verdicts(measured):
            parts.append(_grid(claims))
    if any(measured.table.claims for measured in tables):
        parts.append(RULE)
    return "\n\n".join(parts) + "\n"


def _grid(grid: Grid) -> str:
    cells = ["| " + " | ".join(map(_text, row)) + " |" for row in (grid.header, *grid.rows)]
    cells.insert(1, "|" + "|".join(["---", *["---:"] * (len(grid.header) - 1)]) + "|")
    below = "  \n".join(map(_text, grid.below))
    return "\n".join(cells) + (f"\n\n{below}" if below else "")


def _text(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))
