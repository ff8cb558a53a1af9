"""The columns of a table: each is a command that measures a model, and where the figure stands in what it leaves.

A measure is the command that a person would type, so a figure of a table and one measured alone are the same.
"""

import abc
import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jam_jax.evaluate.task_files import TASKS, TaskName


class Figure(NamedTuple):
    """What a measure says of a model."""

    value: float | None  # None: it could not be measured
    note: str = ""  # what a reader of the figure should know
    fault: str = ""  # why it could not


@dataclasses.dataclass(frozen=True)
class Measure(abc.ABC):
    """What all measures have; a path is taken from the table's root, and `{seed}` in one is the model's."""

    label: str  # the column's heading
    paper: str = dataclasses.field(default="", kw_only=True)  # column of the paper's table that stands beside it
    options: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)  # more of its command's: ("--limit", "200")
    lower: bool = dataclasses.field(default=False, kw_only=True)  # whether less is better
    percent: bool = dataclasses.field(default=False, kw_only=True)  # whether what is read is a share: made percent

    def sources(self) -> tuple[str, ...]:
        """The files and directories that it measures on: a figure is measured again when they change."""
        return ()

    @property
    def typed(self) -> tuple[str, ...]:
        """What of its command the description gives as it is; files and directories that it names are sources too."""
        return self.options

    def command(self, model: str, sources: tuple[str, ...]) -> list[str]:
        """What stands behind `python -m jam_jax.evaluate`, but for `--out`; empty: nothing is run."""
        return []

    @abc.abstractmethod
    def read(self, out: Path) -> tuple[Any, str]:
        """The figure in what the command left at `out`, None where there is none, and a note on it."""

    def figure(self, out: Path) -> Figure:
        """The figure in what the command left; ValueError if it is no finite number."""
        try:
            value, note = self.read(out)
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(f"{out} holds no figure {self.label!r}: {type(error).__name__}: {error}") from error
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"there is no figure {self.label!r} here, got {value}")
        return Figure(100 * float(value) if self.percent else float(value), note)


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@dataclasses.dataclass(frozen=True)
class Perplexity(Measure):
    """Perplexity on a token store."""

    store: str  # token store
    figure_of: Literal["text", "image", "all"] = "all"  # over text and ends, over pictures' codes, over all tokens

    lower: bool = dataclasses.field(default=True, kw_only=True)

    def sources(self) -> tuple[str, ...]:
        """The store."""
        return (self.store,)

    def command(self, model: str, sources: tuple[str, ...]) -> list[str]:
        """`perplexity`"""
        return ["perplexity", "--model", model, "--store", sources[0], *self.options]

    def read(self, out: Path) -> tuple[Any, str]:
        """One of the three perplexities."""
        values = _json(out)
        empty = values["empty_documents"]
        return values[self.figure_of], f"{empty} documents hold no token to predict and are left out" if empty else ""


@dataclasses.dataclass(frozen=True)
class ZeroShot(Measure):
    """Accuracy on a zero-shot task of the paper's Table 1."""

    tasks: str  # directory with a folder of published files for each task (docs/zero_shot.md)
    task: TaskName

    percent: bool = dataclasses.field(default=True, kw_only=True)

    def sources(self) -> tuple[str, ...]:
        """The task's folder."""
        return (f"{self.tasks}/{self.task}",)

    def command(self, model: str, sources: tuple[str, ...]) -> list[str]:
        """`zero-shot`"""
        return [
            "zero-shot",
            "--model",
            model,
            "--tasks",
            str(Path(sources[0]).parent),
            "--only",
            self.task,
            *self.options,
        ]

    def read(self, out: Path) -> tuple[Any, str]:
        """Its metric of the task."""
        return _json(out)["figures"][self.task][TASKS[self.task].metric], ""


@dataclasses.dataclass(frozen=True)
class Choices(Measure):
    """Accuracy on the built-in world's multiple choice, log-likelihoods divided by the answers' lengths."""

    percent: bool = dataclasses.field(default=True, kw_only=True)

    def command(self, model: str, sources: tuple[str, ...]) -> list[str]:
        """`choices`"""
        return ["choices", "--model", model, *self.options]

    def read(self, out: Path) -> tuple[Any, str]:
        """`acc_norm`"""
        values = _json(out)
        return values["acc_norm"], f"answered at random {100 * values['chance']:.1f} would be right"


@dataclasses.dataclass(frozen=True)
class Drawings(Measure):
    """The share of drawings of held-out captions of the built-in world that its grader marks right."""

    captions: str  # the world's captions

    percent: bool = dataclasses.field(default=True, kw_only=True)

    def sources(self) -> tuple[str, ...]:
        """The captions."""
        return (self.captions,)

    def command(self, model: str, sources: tuple[str, ...]) -> list[str]:
        """`draw`"""
        return ["draw", "--model", model, "--captions", sources[0], *self.options]

    def read(self, out: Path) -> tuple[Any, str]:
        """Of the captions of one and two shapes."""
        from jam_jax.evaluate import samples

        right = samples.percent_right(samples.load(out), samples.FEW)
        return None if right is None else right / 100, ""


@dataclasses.dataclass(frozen=True)
class Measured(Measure):
    """A figure of any other command of `python -m jam_jax.evaluate` that takes `--model` and writes JSON to `--out`."""

    line: tuple[str, ...]  # its name and options: ("perplexity", "--source", "coco", "--captions", "first")
    key: tuple[str, ...]  # where the figure stands in the JSON: ("within_modality", "all")
    data: tuple[str, ...] = ()  # more files and directories that the command reads than its line names

    def sources(self) -> tuple[str, ...]:
        """The data."""
        return self.data

    @property
    def typed(self) -> tuple[str, ...]:
        """The line too."""
        return (*self.line[1:], *self.options)

    def command(self, model: str, sources: tuple[str, ...]) -> list[str]:
        """The command with its model; ValueError if there are no such data."""
        if missing := [source for source in sources if not Path(source).exists()]:
            raise ValueError(f"there is no {missing[0]}, which the measure {self.label!r} names as its data")
        return [self.line[0], "--model", model, *self.typed]

    def read(self, out: Path) -> tuple[Any, str]:
        """What stands at the key."""
        return _at(_json(out), self.key), ""


@dataclasses.dataclass(frozen=True)
class Recorded(Measure):
    """A figure of a JSON file that is there already; `{model}` in its path is the model's directory."""

    file: str
    key: tuple[str, ...]  # where the figure stands in it

    def sources(self) -> tuple[str, ...]:
        """The file."""
        return (self.file,)

    def read(self, out: Path) -> tuple[Any, str]:
        """What stands at the key."""
        return _at(_json(out), self.key), ""


def _at(values: Any, key: tuple[str, ...]) -> Any:
    for part in key:
        values = values[int(part)] if isinstance(values, list) else values[part]
    return values
