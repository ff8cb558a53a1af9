"""What the stages of a quickstart left: its figures, by the names under which the report knows them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from jam_jax.evaluate import samples
from jam_jax.evaluate.samples import Sample

RETRIEVING = "fused_retrieving"  # the trained fusion, with documents that were retrieved before each caption
MODELS = {  # as measured/NAME-text.json and measured/NAME-captions.json → as the page says it
    "llm_parent": "Text parent",
    "img_parent": "Image parent",
    "fused_before": "Fusion, before training",
    "pretrained": "Fusion, after continued pretraining",
    "fused": "Fusion, after instruction tuning",
    RETRIEVING: "The same, behind retrieved documents",
}
DRAWN = {  # as samples/NAME → as the page says it
    "img_parent": "Image parent",
    "fused": "Fusion",
    RETRIEVING: "Fusion, behind retrieved documents",
}
RUNS = {  # training runs → titles of their curves
    "image_tokenizer": "Image tokenizer",
    "clip": "CLIP",
    "llm": "Text parent",
    "img": "Image parent",
    "pretrained": "Continued pretraining",
    "tuned": "Instruction tuning",
}


@dataclasses.dataclass(frozen=True)
class Found:
    """What the stages left."""

    text: dict[str, dict[str, Any] | None]  # model → its perplexities on held-out text
    captions: dict[str, dict[str, Any] | None]  # model → its perplexities on held-out captions with pictures
    drawings: dict[str, list[Sample]]  # names of DRAWN → drawn captions
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
        drawings={name: _samples(run / f"samples/{name}") for name in DRAWN},
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
        "text_perplexity": {name: _figure(found.text[name], "text") for name in short if name != RETRIEVING},
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


def marks(found: Found) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The table of marks: its header, and lines of what was asked and the mark of each model that was asked."""
    shown = [name for name in DRAWN if name != RETRIEVING or found.drawings[name]]
    table: list[tuple[str, ...]] = []
    for kind in (samples.FEW, samples.THREE):
        of = [samples.percent_right(found.drawings[name], kind) for name in shown]
        if any(mark is not None for mark in of):
            table.append((f"Held-out captions of {kind}, drawn right", *map(_percent, of)))
    for asked, mark in (
        ("Answers well formed, with the pictures asked for", samples.percent_as_asked(found.answers)),
        ("Answers whose last picture is right", samples.percent_right(found.answers)),
    ):
        if mark is not None:
            table.append((asked, *(_percent(mark if name == "fused" else None) for name in shown)))
    return ("", *(DRAWN[name] for name in shown)), table


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:g}%"
