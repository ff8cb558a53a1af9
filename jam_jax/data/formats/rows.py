"""Tables as rows, one after another and never all at once: JSON lines and Parquet; a JSON list is held in memory.

Every kind divides into shards: `rows(shard, of)` are unbroken runs that follow one another (`Source.documents`).
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from jam_jax.data.formats.source import part

LONGEST = 1 << 26  # bytes of a line; a longer one is damaged, and never in memory as a whole
PEEKED = 64  # rows that are looked at to tell what a table holds
BUFFER = 1 << 20  # bytes that are read together where there is no line to read


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table."""

    file: Path  # which pictures' paths start from
    at: int  # where in the file: byte of a line, number of a row or record
    place: Callable[[], str]  # `train.jsonl:17`, `train.parquet row 16`, for people; may take as long as reading so far
    values: dict[str, Any]
    fault: str = ""  # why it cannot be read, and has no values


class Table(Protocol):
    """The rows of one or several files of a kind, in the order of the files."""

    @property
    def kind(self) -> str:
        """What it is, for people."""

    def rows(self, shard: int = 0, of: int = 1, needs: Sequence[str] = ()) -> Iterator[Row]:
        """The rows of a shard; `needs` are the columns that will be looked at, all if it is empty."""


def peek(table: Table) -> list[dict[str, Any]]:
    """The first rows that can be read."""
    return [row.values for row in itertools.islice(table.rows(), PEEKED) if not row.fault]


def parse(data: bytes | str) -> dict[str, Any]:
    """A JSON object; ValueError if it is none or is no UTF-8."""
    try:
        values = json.loads(data.decode() if isinstance(data, bytes) else data)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"no UTF-8: {error}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON: {error.msg} at character {error.pos}") from error
    except ValueError as error:  # a number with more digits than Python reads
        raise ValueError(f"no JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"a record is a JSON object, got {type(values).__name__}")
    return values


@dataclasses.dataclass(frozen=True)
class JsonLines:
    """Files with a JSON object on every line; empty lines are none. A shard is a range of bytes."""

    files: Sequence[Path]
    kind: str = "JSON lines"

    def rows(self, shard: int = 0, of: int = 1, needs: Sequence[str] = ()) -> Iterator[Row]:
        """See `Table`. A line belongs to the shard that has its first byte."""
        sizes = [path.stat().st_size for path in self.files]
        wanted, first = part(sum(sizes), shard, of), 0
        for path, size in zip(self.files, sizes, strict=True):
            yield from _lines(path, max(wanted.start - first, 0), min(wanted.stop - first, size))
            first += size


def _lines(path: Path, start: int, stop: int) -> Iterator[Row]:
    """The rows of the lines whose first byte is in a range of a file's bytes."""
    if stop <= start:
        return
    with path.open("rb") as file:
        if start:
            file.seek(start - 1)
            start += _skip_line(file) - 1
        while start < stop:
            line = file.readline(LONGEST)
            if not line:
                return
            at, place = start, functools.partial(_line_number, path, start)
            long = len(line) == LONGEST and not line.endswith(b"\n")
            start += len(line) + (_skip_line(file) if long else 0)
            if long:
                yield Row(path, at, place, {}, f"the line has more than {LONGEST:,} bytes")
            elif text := line.removeprefix(b"\xef\xbb\xbf").strip():
                try:
                    yield Row(path, at, place, parse(text))
                except ValueError as error:
                    yield Row(path, at, place, {}, str(error))


def _skip_line(file: Any) -> int:
    """Read to the end of the line; how many bytes that was."""
    skipped = 0
    while piece := file.readline(BUFFER):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return skipped


def _line_number(path: Path, offset: int) -> str:
    """`train.jsonl:17`, counted only when it is asked for: a shard does not know how many lines come before it."""
    lines = 1
    with path.open("rb") as file:
        while offset > 0:
            piece = file.read(min(BUFFER, offset))
            lines, offset = lines + piece.count(b"\n"), offset - len(piece)
    return f"{path.name}:{lines}"


@dataclasses.dataclass(frozen=True)
class Listed:
    """Rows that are in memory, each with its place; `kind` says where they are from."""

    found: Sequence[Row]
    kind: str

    def rows(self, shard: int = 0, of: int = 1, needs: Sequence[str] = ()) -> Iterator[Row]:
        """See `Table`."""
        return (self.found[i] for i in part(len(self.found), shard, of))


def json_list(path: Path) -> Listed:
    """A file that holds one JSON list of objects, as LLaVA is published; read into memory, several times its size.

    ValueError if it is none.
    """
    try:
        values = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(values, list):
        raise ValueError(f"{path} holds no list of records: expected [{{…}}, …] or a JSON object on every line")
    faults = ["" if isinstance(v, dict) else f"a record is a JSON object, got {type(v).__name__}" for v in values]
    return Listed(
        [
            Row(path, i, functools.partial("{} record {}".format, path.name, i), {} if fault else value, fault)
            for i, (value, fault) in enumerate(zip(values, faults, strict=True))
        ],
        "a JSON list",
    )
