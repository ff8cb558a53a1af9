"""A measured table as text in cells: the same on the terminal, on the page and in Markdown.

Figures stand with their spread, and with numbers in brackets that lead to the remarks below.
"""

import dataclasses

from jam_jax.evaluate import paper
from jam_jax.evaluate.tables.describe import Table
from jam_jax.evaluate.tables.measures import Measure
from jam_jax.evaluate.tables.summary import Cell, Decided, MeasuredTable, decide

NONE = "–"  # where there is no figure
PAPER = "paper"  # heading of a column of the paper's figures


@dataclasses.dataclass
class Grid:
    """Cells of text under a header; `remarks` are what the numbers in brackets say, from 1, and `about` is of all."""

    title: str
    header: list[str]
    rows: list[list[str]]
    remarks: list[str] = dataclasses.field(default_factory=list)
    about: list[str] = dataclasses.field(default_factory=list)

    def mark(self, *remarks: str) -> str:
        """The numbers of some remarks in brackets, with a space before; a remark that was made before keeps its own."""
        self.remarks += [remark for remark in dict.fromkeys(remarks) if remark not in self.remarks]
        numbers = sorted({self.remarks.index(remark) + 1 for remark in remarks})
        return f" [{', '.join(map(str, numbers))}]" if numbers else ""

    @property
    def below(self) -> list[str]:
        """The lines that stand below it."""
        return [*self.about, *(f"[{number}] {remark}" for number, remark in enumerate(self.remarks, 1))]


def figures(measured: MeasuredTable) -> Grid:
    """Every row by every measure, the paper's figures beside ours; what the paper has besides stands below."""
    table = measured.table
    grid = Grid("", [""], [])
    for measure in table.measures:
        grid.header += [measure.label] + ([PAPER] if measure.paper else [])
    for label in table.labels:
        row = [label]
        for measure in table.measures:
            row.append(_shown(grid, measured, label, measure))
            if measure.paper:
                row.append(_told(table.told(label, measure)))
        grid.rows.append(row)
    grid.rows += _only_in_paper(table)
    if lowest := [measure.label for measure in table.measures if measure.lower]:
        every = "" if len(lowest) == len(table.measures) else f" for {', '.join(lowest)}"
        grid.about.append(f"Lower is better{every}.")
    if any(cell.deviation is not None for cell in _cells(measured)):
        counts = sorted({len(cell.values) for cell in _cells(measured) if cell.deviation is not None})
        of = " or ".join(map(str, counts))
        grid.about.append(f"Mean ± standard deviation (n - 1) over {of} models of a row.")
    return grid


def differences(measured: MeasuredTable) -> list[Grid]:
    """For each parent: every other row less it."""
    table, grids = measured.table, []
    for parent in table.parents:
        rows = [
            [label] + [_spread(measured.difference(label, parent, m.label), m, signed=True) for m in table.measures]
            for label in table.labels
            if label != parent
        ]
        if rows:
            grids.append(Grid(f"Difference from {parent}", ["", *(m.label for m in table.measures)], rows))
    return grids


def verdicts(measured: MeasuredTable) -> Grid | None:
    """The claims and what our figures say of them; None without any."""
    if not measured.table.claims:
        return None
    header = ["What the paper says", "by", "better by, mean ± standard error", "here"]
    rows = [_decided(measured, decide(measured, claim)) for claim in measured.table.claims]
    return Grid("", header, rows)


def _only_in_paper(table: Table) -> list[list[str]]:
    """Rows of the paper's table that none of ours stands beside, where they have a figure in our columns."""
    named, rows = {row.paper for row in table.rows}, []
    for name, told in paper.TABLES.get(table.paper, {}).items():
        if name not in named and any(measure.paper in told for measure in table.measures):
            row = [f"paper: {name}"]
            for measure in table.measures:
                row += [NONE, *([_told(told.get(measure.paper))] if measure.paper else [])]
            rows.append(row)
    return rows


def _decided(measured: MeasuredTable, found: Decided) -> list[str]:
    measure = measured.table.measure(found.claim.measure)
    by = _number(found.mean, measure, signed=True)
    if found.error is not None:
        by += f" ± {_number(found.error, measure)}"
    return [found.claim.text, measure.label, by, found.verdict]


def _cells(measured: MeasuredTable) -> list[Cell]:
    table = measured.table
    return [measured.cell(label, measure.label) for label in table.labels for measure in table.measures]


def _shown(grid: Grid, measured: MeasuredTable, label: str, measure: Measure) -> str:
    cell = measured.cell(label, measure.label)
    faults = [f"{label}{f' ({group})' if group else ''}: {fault}" for group, fault in cell.faults.items()]
    return _spread(cell, measure) + grid.mark(*faults, *(f"{measure.label}: {note}" for note in cell.notes))


def _spread(cell: Cell, measure: Measure, *, signed: bool = False) -> str:
    shown = _number(cell.mean, measure, signed=signed)
    return shown if cell.deviation is None else f"{shown} ± {_number(cell.deviation, measure)}"


def _told(value: float | None) -> str:
    """A figure of the paper's, as it stands there: its shares are in percent."""
    return NONE if value is None else str(value)


def _number(value: float | None, measure: Measure, *, signed: bool = False) -> str:
    """A figure as a person reads it."""
    if value is None:
        return NONE
    if measure.percent:
        return f"{value:{'+' if signed else ''}.1f}"
    size = abs(value)
    form = ".1g" if 0 < size < 0.005 else ".2f" if size < 1000 else ",.0f" if size < 1e6 else ".1e"
    return f"{value:{'+' if signed else ''}{form}}"
