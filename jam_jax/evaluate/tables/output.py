"""Measured tables on the terminal, as a page with plots, as JSON and as CSV."""

import csv
import html
import io
import json
import os
from collections.abc import Sequence
from typing import Any

from jam_jax.chart import STYLE as CHART_STYLE
from jam_jax.config import to_dict
from jam_jax.dots import dots
from jam_jax.evaluate.tables import grids
from jam_jax.evaluate.tables.grids import Grid
from jam_jax.evaluate.tables.summary import RULE, Cell, MeasuredTable, decide
from jam_jax.html import page, table_html
from jam_jax.machine import machine

STYLE = """
body { max-width: 74rem; } table { font-size: .92rem; } td, th { padding: .3rem .6rem; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); }
"""


def show(tables: Sequence[MeasuredTable]) -> None:
    """Print tables, each with its remarks."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    # In a log file, as wide as it must be rather than wrapped to a terminal that is not there.
    console = Console(width=None if os.isatty(1) else 160)
    for measured in tables:
        claims = grids.verdicts(measured)
        for grid in (grids.figures(measured), *grids.differences(measured), *([claims] if claims else [])):
            shown = Table(
                *map(escape, grid.header), title=escape(grid.title or measured.table.title), title_justify="left"
            )
            for row in grid.rows:
                shown.add_row(*map(escape, row))
            console.print(shown)
            for remark in grid.below:
                console.print(escape(remark))


def as_page(tables: Sequence[MeasuredTable]) -> str:
    """An HTML page that stands alone: every table with its differences, plots and claims."""
    parts = [f"<style>{CHART_STYLE}{STYLE}</style>", f'<p class="note">Measured on {html.escape(machine())}.</p>']
    for measured in tables:
        table = measured.table
        parts.append(f"<h2>{html.escape(table.title)}</h2>")
        if table.note:
            parts.append(f"<p>{html.escape(table.note)}</p>")
        parts.append(_grid(grids.figures(measured)))
        parts += [f"<h3>{html.escape(grid.title)}</h3>{_grid(grid)}" for grid in grids.differences(measured)]
        plots = "".join(f"<div>{svg}</div>" for svg in _plots(measured))
        parts.append(f'<div class="grid">{plots}</div>' if plots else "")
        if claims := grids.verdicts(measured):
            parts.append(f'{_grid(claims)}<p class="note">{html.escape(RULE.replace("*", ""))}</p>')
    return page("Tables", "\n".join(parts))


def _grid(grid: Grid) -> str:
    remarks = "<br>".join(html.escape(remark) for remark in grid.below)
    return table_html(grid.header, grid.rows) + (f'<p class="note">{remarks}</p>' if remarks else "")


def _plots(measured: MeasuredTable) -> list[str]:
    """A plot for each measure that has figures; dashed lines are parents."""
    table, plots = measured.table, []
    for measure in table.measures:
        cells = {label: measured.cell(label, measure.label) for label in table.labels}
        if any(cell.values for cell in cells.values()):
            parents = {label: cells[label].mean for label in table.parents}
            known = {label: mean for label, mean in parents.items() if mean is not None}
            plots.append(dots(measure.label, {k: list(c.values.values()) for k, c in cells.items()}, known))
    return plots


def as_json(tables: Sequence[MeasuredTable]) -> str:
    """Everything there is to know, figure by figure; None where something could not be measured."""
    return json.dumps({"machine": machine(), "rule": RULE, "tables": [_values(m) for m in tables]}, indent=1) + "\n"


def _values(measured: MeasuredTable) -> dict[str, Any]:
    table = measured.table
    rows = []
    for label in table.labels:
        told = {m.label: table.told(label, m) for m in table.measures if table.told(label, m) is not None}
        cells = {m.label: _cell(measured.cell(label, m.label)) for m in table.measures}
        less = {
            parent: {m.label: _cell(measured.difference(label, parent, m.label)) for m in table.measures}
            for parent in table.parents
            if parent != label
        }
        models = {row.group: row.model for row in table.rows if row.label == label}
        rows.append({"label": label, "models": models, "figures": cells, "differences": less, "paper": told})
    return {
        "title": table.title,
        "note": table.note,
        "paper": table.paper,
        "measures": [{"kind": type(m).__name__} | to_dict(m) for m in table.measures],
        "rows": rows,
        "claims": [
            to_dict(claim) | {"verdict": d.verdict, "better_by": d.mean, "standard_error": d.error, "seeds": d.seeds}
            for claim in table.claims
            for d in (decide(measured, claim),)
        ],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    """By group: the figures and why others are missing."""
    values = {"mean": cell.mean, "standard_deviation": cell.deviation, "values": dict(cell.values)}
    return (
        values | ({"faults": dict(cell.faults)} if cell.faults else {}) | ({"notes": cell.notes} if cell.notes else {})
    )


def as_csv(tables: Sequence[MeasuredTable]) -> str:
    """A line for every figure of a model, every difference from a parent and every figure of the paper's."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("table", "row", "group", "measure", "kind", "from", "value", "fault"))
    for measured in tables:
        table = measured.table
        for row in table.rows:
            for measure in table.measures:
                figure = measured.figures[row.label, row.group, measure.label]
                where = (table.title, row.label, row.group, measure.label)
                lines.writerow((*where, "figure", "", figure.value, figure.fault))
                for parent in table.parents:
                    less = measured.difference(row.label, parent, measure.label).values
                    if parent != row.label and row.group in less:
                        lines.writerow((*where, "difference", parent, less[row.group], ""))
        for label in table.labels:
            for measure in table.measures:
                if (told := table.told(label, measure)) is not None:
                    lines.writerow((table.title, label, "", measure.label, "paper", "", told, ""))
    return text.getvalue()
