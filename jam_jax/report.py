"""The page at the end of the road: what the fusion kept of each parent, what it draws, and how it answers.

    python -m jam_jax.report --run runs/quickstart

Reads what the stages of a quickstart left in its directory, without the models; every part that is missing is left
out. Writes `report.html`, which stands alone, and `summary.json`, and prints the same table.
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
from jam_jax.evaluate import samples
from jam_jax.evaluate.samples import Sample
from jam_jax.html import data_uri, document_html, page, table_html
from jam_jax.machine import machine

MODELS = {  # as measured/NAME-text.json and measured/NAME-captions.json → as the page says it
    "llm_parent": "Text parent",
    "img_parent": "Image parent",
    "fused_before": "Fusion, before training",
    "pretrained": "Fusion, after continued pretraining",
    "fused": "Fusion, after instruction tuning",
}
RUNS = {  # training runs → titles of their curves
    "image_tokenizer": "Image tokenizer",
    "llm": "Text parent",
    "img": "Image parent",
    "pretrained": "Continued pretraining",
    "tuned": "Instruction tuning",
}
ANSWERS = 12  # shown
STYLE = """
body { max-width: 74rem; } figure { margin: 0; } figcaption { line-height: 1.3; margin-top: .25rem; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(21rem, 1fr)); }
.answers { columns: 21rem; } .answers figure { break-inside: avoid; padding-bottom: 1rem; } .asked { font-weight: 600; }
.answers .document { margin: .4rem 0; } .answers .document img { width: 8rem; }
.gallery { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); }
.gallery img { width: 100%; image-rendering: pixelated; border-radius: .3rem; display: block; }
.pair { display: flex; gap: .3rem; } .pair img { width: 50%; }
.right { color: #2c8a4b; font-weight: 600; } .wrong { color: #cf3d3d; font-weight: 600; }
"""


@dataclasses.dataclass(frozen=True)
class Options:
    """Write the report of a quickstart's directory."""

    run: str  # the quickstart's directory


@dataclasses.dataclass(frozen=True)
class Found:
    """What the stages left."""

    text: dict[str, dict[str, Any] | None]  # model → its perplexities on held-out text
    captions: dict[str, dict[str, Any] | None]  # model → its perplexities on held-out captions with pictures
    drawings: dict[str, list[Sample]]  # "img_parent" and "fused" → drawn captions
    trained_on: list[Sample]  # own pictures only: drawings of captions that were trained on
    answers: list[Sample]
    curves: dict[str, list[dict[str, float]]]  # run → its metrics, line by line
    stages: list[dict[str, Any]]  # name, title, seconds, peak_memory_gib


def collect(run: Path) -> Found:
    """Read a quickstart's directory; ValueError if there is none, or if something in it is damaged."""
    if not (run / "stages").is_dir():
        raise ValueError(f"{run} is no quickstart's directory: it has no stages/; bash launch/quickstart.sh makes one")
    kept = [_json(path, "number", "title", "seconds", "peak_memory_gib") for path in (run / "stages").glob("*.json")]
    return Found(
        text={name: _measured(run, name, "text") for name in MODELS},
        captions={name: _measured(run, name, "captions") for name in MODELS},
        drawings={name: _samples(run / f"samples/{name}") for name in ("img_parent", "fused")},
        trained_on=_samples(run / "samples/trained_on"),
        answers=_samples(run / "samples/answers"),
        curves={name: _metrics(run / name / "metrics.jsonl") for name in RUNS},
        stages=sorted(kept, key=lambda stage: stage["number"]),
    )


def _measured(run: Path, model: str, on: str) -> dict[str, Any] | None:
    path = run / "measured" / f"{model}-{on}.json"
    return _json(path, "text", "image", "all") if path.is_file() else None


def _samples(directory: Path) -> list[Sample]:
    return samples.load(directory) if directory.is_dir() else []


def _metrics(path: Path) -> list[dict[str, float]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _json(path: Path, *needed: str) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; remove it, and its stage runs again") from error
    if not isinstance(values, dict) or set(needed) - set(values):
        raise ValueError(f"{path} is damaged: it lacks {', '.join(needed)}; remove it, and its stage runs again")
    return values


def summary(found: Found) -> dict[str, Any]:
    """The figures as `summary.json` holds them; None where something was not measured."""
    short = [name for name in MODELS if name != "pretrained"]
    return {
        "text_perplexity": {name: _figure(found.text[name], "text") for name in short},
        "caption_perplexity": {name: _figure(found.captions[name], "all") for name in short},
        "graded": {name: samples.percent_right(drawn, samples.FEW) for name, drawn in found.drawings.items()},
        "well_formed_percent": samples.percent_as_asked(found.answers),
        "answers_right_percent": samples.percent_right(found.answers),
        "seconds": round(sum(stage["seconds"] for stage in found.stages), 1),
        "peak_memory_gib": round(max((stage["peak_memory_gib"] for stage in found.stages), default=0), 2),
    }


def _figure(values: dict[str, Any] | None, name: str) -> float | None:
    return None if values is None or values[name] is None else round(values[name], 4)


def rows(found: Found) -> list[tuple[str, str, str, str]]:
    """The table of perplexities, each with its ratio to the parent's: model, text, captions with pictures, pictures."""
    parents = found.text["llm_parent"], found.captions["img_parent"]
    table = []
    for name, title in MODELS.items():
        text, captions = found.text[name], found.captions[name]
        if text or captions:
            # A parent beside the other parent, on what it has never seen, is a value but no comparison.
            of_text, of_captions = (None, None) if name.endswith("_parent") else parents
            figures = ((text, of_text, "text"), (captions, of_captions, "all"), (captions, of_captions, "image"))
            cells = [_ratio(_figure(values, key), _figure(parent, key)) for values, parent, key in figures]
            table.append((title, cells[0], cells[1], cells[2]))
    return table


def _ratio(value: float | None, parent: float | None) -> str:
    """A perplexity and how many times the parent's it is: `5.31 (1.04x)`."""
    if value is None:
        return "–"
    return f"{_number(value)} ({_number(value / parent)}x)" if parent else _number(value)


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 1000 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"


def marks(found: Found) -> list[tuple[str, str, str]]:
    """The table of marks: what was asked, the image parent's mark, the fusion's."""
    table = []
    for kind in (samples.FEW, samples.THREE):
        of = [samples.percent_right(found.drawings[name], kind) for name in ("img_parent", "fused")]
        if any(mark is not None for mark in of):
            table.append((f"Held-out captions of {kind}, drawn right", *map(_percent, of)))
    formed = samples.percent_as_asked(found.answers)
    if formed is not None:
        table.append(("Answers well formed, with the pictures asked for", "–", _percent(formed)))
    if (right := samples.percent_right(found.answers)) is not None:
        table.append(("Answers whose last picture is right", "–", _percent(right)))
    return [(a, b, c) for a, b, c in table]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}%"


def body(found: Found) -> str:
    """The page's HTML below its heading."""
    figures = summary(found)
    parts = [f"<style>{CHART_STYLE}{STYLE}</style>"]
    minutes = f"{figures['seconds'] / 60:.1f} minutes, at most {figures['peak_memory_gib']:.1f} GiB of memory"
    parts.append(
        f'<p class="note">Two parents, their fusion, and what it kept of each: {minutes}, on {html.escape(machine())}. '
        "Every figure here was measured by this run, on held-out examples.</p>"
    )
    header = ("", "Text", "Captions with pictures", "Pictures alone")
    parts.append("<h2>What the fusion kept</h2>" + table_html(header, rows(found)))
    parts.append('<p class="note">Perplexity: lower is better. In brackets, how many times the parent’s it is.</p>')
    if table := marks(found):
        parts.append("<h2>What it can do</h2>" + table_html(("", "Image parent", "Fusion"), table))
    if found.answers:
        parts.append(
            f"<h2>Illustrated answers</h2><div class='answers'>{''.join(map(_answer, found.answers[:ANSWERS]))}</div>"
        )
    curves = [svg for name, lines in found.curves.items() if lines and (svg := _curves(RUNS[name], lines))]
    if curves:
        parts.append(f"<h2>Training</h2><div class='grid'>{''.join(f'<div>{svg}</div>' for svg in curves)}</div>")
    times = [(s["title"], f"{s['seconds']:.0f} s", f"{s['peak_memory_gib']:.1f} GiB") for s in found.stages]
    parts.append("<h2>Stages</h2>" + table_html(("", "Time", "Memory so far"), times))
    if found.drawings["fused"]:
        parts.append("<h2>Drawn from held-out captions</h2>" + _gallery(found.drawings["fused"]))
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
    return f"<figure>{drawn}<figcaption>{_mark(sample)}{html.escape(sample.prompt)}</figcaption></figure>"


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
    if lines := marks(found):
        table = Table("", "image parent", "fusion")
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


def main(args: Sequence[str] | None = None) -> None:
    """The command."""
    write(configs.cli(Options, args, prog="python -m jam_jax.report", description=__doc__ or "").run)


if __name__ == "__main__":
    configs.run(main)
