"""What a model drew and answered, kept in a directory as `samples.json` beside the pictures.

A report is written from it without the model, and without jax.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jam_jax.config import to_dict

NAME = "samples.json"
FEW, THREE, OWN = "one and two shapes", "three shapes", "own pictures"  # kinds of captions

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Source:
    """A document that was retrieved for a prompt."""

    number: int  # in the bank
    score: float  # inner product of the prompt's and the document's vectors
    text: str
    picture: bytes  # its first, PNG; empty for none


@dataclasses.dataclass(frozen=True)
class Sample:
    """What came of one prompt."""

    prompt: str  # the caption or the question
    parts: tuple[str | bytes, ...]  # text, and pictures as PNG bytes, in their order
    fault: str = ""  # what is wrong with it as a document; "" if it is well formed
    wanted: int = 1  # pictures asked for
    right: bool | None = None  # the grader's mark of the drawing, or of an answer's last one; None without a grader
    kind: str = ""  # of the caption: FEW, THREE or OWN; of an answer none
    reference: bytes = b""  # the real picture of the caption; empty where none is shown beside
    sources: tuple[Source, ...] = ()  # that stood before it, in their order

    @property
    def pictures(self) -> int:
        """How many pictures it has."""
        return sum(isinstance(part, bytes) for part in self.parts)

    @property
    def as_asked(self) -> bool:
        """Whether it is well formed and has the number of pictures asked for."""
        return not self.fault and self.pictures == self.wanted


def save(samples: Sequence[Sample], directory: str | Path, **about: Any) -> None:
    """Write `samples.json` and the pictures into a new directory; `about` (settings, figures) goes along."""
    from jam_jax.checkpoint import new_directory

    with new_directory(directory) as aside:
        rows = []
        for i, sample in enumerate(samples):
            named: list[Any] = []
            for j, part in enumerate(sample.parts):
                named.append(part if isinstance(part, str) else {"picture": f"{i:04d}-{j}.png"})
                if isinstance(part, bytes):
                    (aside / f"{i:04d}-{j}.png").write_bytes(part)
            row = dataclasses.asdict(sample) | {"parts": named, "reference": ""}
            if sample.reference:
                row["reference"] = f"{i:04d}-reference.png"
                (aside / row["reference"]).write_bytes(sample.reference)
            for j, source in enumerate(sample.sources):
                row["sources"][j]["picture"] = f"{i:04d}-source-{j}.png" if source.picture else ""
                if source.picture:
                    (aside / row["sources"][j]["picture"]).write_bytes(source.picture)
            rows.append(row)
        values = {name: to_dict(value) for name, value in about.items()} | {"samples": rows}
        (aside / NAME).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def load(directory: str | Path) -> list[Sample]:
    """What `save` wrote; ValueError if there is nothing or it is damaged."""
    directory = Path(directory)

    def read(row: dict[str, Any]) -> Sample:
        def picture(name: str) -> bytes:
            return (directory / name).read_bytes() if name else b""

        parts = tuple(part if isinstance(part, str) else picture(part["picture"]) for part in row["parts"])
        sources = tuple(Source(**source | {"picture": picture(source["picture"])}) for source in row["sources"])
        return Sample(**row | {"parts": parts, "reference": picture(row["reference"]), "sources": sources})

    return _read(directory, read)


def index(directory: str | Path) -> list[tuple[Sample, list[str]]]:
    """The same without reading a picture: samples without parts, each with the names of its pictures' files."""

    def read(row: dict[str, Any]) -> tuple[Sample, list[str]]:
        files = [part["picture"] for part in row["parts"] if not isinstance(part, str)]
        return Sample(**row | {"parts": (), "reference": b"", "sources": ()}), files

    return _read(Path(directory), read)


def _read(directory: Path, read: Callable[[dict[str, Any]], T]) -> list[T]:
    try:
        rows = json.loads((directory / NAME).read_text(encoding="utf-8"))["samples"]
        return [read(row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{directory} holds no samples that can be read: {error}") from error


def percent_right(marked: Sequence[Sample], kind: str = "") -> float | None:
    """How many of 100 drawings of a kind, or answers, the grader marked right; None without any."""
    marks = [sample.right for sample in marked if sample.kind == kind and sample.right is not None]
    return round(100 * sum(marks) / len(marks), 1) if marks else None


def percent_as_asked(answers: Sequence[Sample]) -> float | None:
    """How many of 100 answers are well formed with the number of pictures asked for; None without any."""
    return round(100 * sum(a.as_asked for a in answers) / len(answers), 1) if answers else None
