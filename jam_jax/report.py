"""The page at the end of the road: what the fusion kept of each parent, what it draws, and how it answers.

    python -m jam_jax.report --run runs/quickstart

Reads what the stages left, without the models; parts that are missing are left out. Writes `report.html`, which stands
alone, and `summary.json`, and prints the same tables.
"""

import dataclasses
import html
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jam_jax import config as configs
from jam_jax.chart import STYLE as CHART_STYLE
from jam_jax.chart import chart
from jam_jax.evaluate.samples import Sample, Source
from jam_jax.html import data_uri, document_html, page, table_html
from jam_jax.machine import machine
from jam_jax.report_figures import RETRIEVING, RUNS, Found, collect, marks, rows, summary

ANSWERS = 12  # shown
STYLE = """
body { max-width: 74rem; } figure { margin: 0; } figcaption { line-height: 1.3; margin-top: .25rem; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(21rem, 1fr)); }
.answers { columns: 21rem; } .answers figure { break-inside: avoid; padding-bottom: 1rem; } .asked { font-weight: 600; }
.answers .document { margin: .4rem 0; } .answers .document img { width: 8rem; }
.gallery { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); }
.gallery img { width: 100%; image-rendering: pixelated; border-radius: .3rem; display: block; }
.pair { display: flex; gap: .3rem; } .pair img { width: 50%; }
figcaption .pair img { width: 2.5rem; margin-top: .3rem; }
.right { color: #2c8a4b; font-weight: 600; } .wrong { color: #cf3d3d; font-weight: 600; }
"""


def body(found: Found) -> str:
    """The page's HTML below its heading."""
    figures = summary(found)
    parts = [f"<style>{CHART_STYLE}{STYLE}</style>"]
    minutes = f"{figures['seconds'] / 60:.1f} minutes, at most {figures['peak_memory_gib']:.1f} GiB of memory"
    parts.append(
        f'<p class="note">Two parents, their fusion, and what it kept of each: {minutes}, on {html.escape(machine())}. '
        "Every figure here was measured by this run, on held-out examples.</p>"
    )
    columns = ("", "Text", "Captions with pictures", "Pictures alone")
    parts.append("<h2>What the fusion kept: perplexity</h2>" + table_html(columns, rows(found)))
    alone = ", without retrieval" if found.captions[RETRIEVING] else ""
    parts.append(f'<p class="note">Lower is better. In brackets, how many times the parent’s it is{alone}.</p>')
    header, table = marks(found)
    if table:
        parts.append("<h2>What it can do</h2>" + table_html(header, table))
        parts.append('<p class="note">Right: in shapes, colours and places; sizes are not counted.</p>')
    if found.answers:
        parts.append(
            f"<h2>Illustrated answers</h2><div class='answers'>{''.join(map(_answer, found.answers[:ANSWERS]))}</div>"
        )
    curves = [svg for name, lines in found.curves.items() if lines and (svg := _curves(RUNS[name], lines))]
    if curves:
        parts.append(f"<h2>Training</h2><div class='grid'>{''.join(f'<div>{svg}</div>' for svg in curves)}</div>")
    times = [(s["title"], f"{s['seconds']:.0f} s", f"{s['peak_memory_gib']:.1f} GiB") for s in found.stages]
    parts.append("<h2>Stages</h2>" + table_html(("", "Time", "Memory so far"), times))
    for name, how in (("fused", ""), (RETRIEVING, ", behind retrieved documents")):
        if drawings := found.drawings[name]:
            note = '<p class="note">Small: the documents that were retrieved.</p>' if name == RETRIEVING else ""
            parts.append(f"<h2>Drawn from held-out captions{how}</h2>{note}{_gallery(drawings)}")
    if found.trained_on:
        parts.append("<h2>Drawn from captions it was trained on</h2>" + _gallery(found.trained_on))
    return "\n".join(parts)


def _answer(sample: Sample) -> str:
    fault = sample.fault
    if not fault and not sample.as_asked:
        fault = f"{sample.pictures} pictures instead of {sample.wanted}"
    if fault:
        fault = f'<span class="wrong">{html.escape(fault)}</span>'
    mark = f"{_mark(sample)}(the last picture) " if sample.right is not None else ""
    asked = f'<div class="asked">{html.escape(sample.prompt)}</div>'
    return f"<figure>{asked}{document_html(sample.parts)}<figcaption>{mark}{fault}</figcaption></figure>"


def _mark(sample: Sample) -> str:
    """What the grader said of its picture, if it did."""
    if sample.right is None:
        return ""
    return '<span class="right">✓ right</span> ' if sample.right else '<span class="wrong">✗ wrong</span> '


def _gallery(drawn: Sequence[Sample]) -> str:
    return f"<div class='gallery'>{''.join(map(_drawing, drawn))}</div>"


def _drawing(sample: Sample) -> str:
    pictures = [part for part in sample.parts if isinstance(part, bytes)]
    drawn = "".join(f'<img src="{data_uri(p)}" alt="drawn: {html.escape(sample.prompt)}">' for p in pictures)
    if sample.reference:
        real = f'<img src="{data_uri(sample.reference)}" alt="real: {html.escape(sample.prompt)}">'
        drawn = f'<div class="pair">{drawn}{real}</div>'
    before = "".join(map(_source, sample.sources))
    caption = f"{_mark(sample)}{html.escape(sample.prompt)}" + (f'<div class="pair">{before}</div>' if before else "")
    return f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"


def _source(source: Source) -> str:
    """A retrieved document's picture, small; what it says, its number and its score where one points at it."""
    said = html.escape(f"retrieved: document {source.number}, {source.score:.3f}: {source.text}", quote=True)
    return f'<img src="{data_uri(source.picture)}" alt="{said}" title="{said}">' if source.picture else ""


def _curves(title: str, lines: list[dict[str, float]]) -> str:
    """Losses of one run by step: over all, text and images where they are apart."""
    names = {"loss": "all", "text_loss": "text", "image_loss": "image"}
    curves = {
        shown: [(line["step"], line[key]) for line in lines if key in line]
        for key, shown in names.items()
        if any(key in line for line in lines)
    }
    if "text" in curves or "image" in curves:
        del curves["all"]
    # One point makes no curve.
    return chart(f"{title}, loss", curves, "step") if any(len(points) > 1 for points in curves.values()) else ""


def show(found: Found) -> None:
    """Print the tables of the page."""
    from rich.console import Console
    from rich.table import Table

    columns = ("text", "captions with pictures", "pictures alone")
    table = Table("perplexity, held out (x the parent's)", *columns)
    for row in rows(found):
        table.add_row(*row)
    # In a log file, as wide as it must be rather than wrapped to a terminal that is not there.
    console = Console(width=None if os.isatty(1) else 130)
    console.print(table)
    header, lines = marks(found)
    if lines:
        table = Table(*header)
        for line in lines:
            table.add_row(*line)
        console.print(table)


def write(run: str | Path) -> dict[str, Any]:
    """Write report.html and summary.json of a quickstart's directory, print the tables; gives the summary."""
    run = Path(run)
    found = collect(run)
    figures = summary(found)
    configs.write_whole(run / "report.html", page("An illustrated answer", body(found)))
    configs.write_whole(run / "summary.json", json.dumps(figures, indent=1) + "\n")
    show(found)
    print(
        f"{figures['seconds'] / 60:.1f} minutes, at most {figures['peak_memory_gib']:.2f} GiB of memory, on {machine()}"
    )
    print(f"the report: {(run / 'report.html').resolve()}")
    return figures


@dataclasses.dataclass(frozen=True)
class Options:
    """Write the report of a quickstart's directory."""

    run: str  # the quickstart's directory


def main(args: Sequence[str] | None = None) -> None:
    """The command."""
    write(configs.cli(Options, args, prog="python -m jam_jax.report", description=__doc__ or "").run)


if __name__ == "__main__":
    configs.run(main)
