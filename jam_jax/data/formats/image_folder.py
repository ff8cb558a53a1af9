"""A folder of pictures with captions, in one of three ways: `metadata.jsonl`, `metadata.csv`, or `NAME.txt` files.

`metadata.jsonl` and `metadata.csv` are Hugging Face's: a line `{"file_name": …, "text": …}`, or these columns, for
every caption. Otherwise the caption of `NAME.jpg`, anywhere below the folder, is in `NAME.txt` beside it; a picture
without one stands alone, and so do all of a folder that has only pictures.
"""

import csv
import dataclasses
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jam_jax.data.documents import Document
from jam_jax.data.formats import columns
from jam_jax.data.formats.files import Folder, text
from jam_jax.data.formats.rows import LONGEST, JsonLines, Row
from jam_jax.data.formats.source import Record, Source, numbered
from jam_jax.data.formats.splits import in_split
from jam_jax.data.settings import ReadSettings

METADATA = ("metadata.jsonl", "metadata.csv")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm")


def metadata(directory: Path) -> Path | None:
    """The folder's `metadata.jsonl` or `metadata.csv`."""
    return next((directory / name for name in METADATA if (directory / name).is_file()), None)


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A picture, or one of its captions."""

    record: Record
    key: str  # entries that agree in it are in one split


def open_image_folder(directory: Path, split: str, settings: ReadSettings) -> Source:
    """The captions (may be missing) and pictures of a split; the captions of one picture are in one split.

    The names are held in memory, the pictures are not. ValueError if there are no pictures, if the split has none, or
    if the metadata have no column of pictures.
    """
    file = metadata(directory)
    folder = Folder(directory, directory.resolve())
    entries, taken_for = _described(file, folder, settings) if file else _beside(folder)
    if not entries:
        raise ValueError(f"{directory} has no pictures ({', '.join(SUFFIXES)})")
    wanted = in_split((entry.key for entry in entries), split, directory, settings.held_out)
    records = [entry.record for entry in entries if entry.key in wanted]
    name = f"{directory} ({split})"
    return numbered(name, f"an image folder, {taken_for}", len(records), records.__getitem__, settings.damaged)


def _described(file: Path, folder: Folder, settings: ReadSettings) -> tuple[list[_Entry], str]:
    """What the metadata say, line by line, and what their columns were taken for."""
    rows = list(csv_rows(file) if file.suffix == ".csv" else JsonLines([file]).rows())
    readable = [row.values for row in rows if not row.fault]
    if not readable:
        raise ValueError(f"{file} has no line that can be read{': ' + rows[0].fault if rows else ''}")
    named = settings.columns
    texts = named.text or columns.known(("text", *columns.TEXT_NAMES), readable, str, list)
    taken = dataclasses.replace(named, picture=named.picture or "file_name", text="" if named.question else texts)
    roles = columns.check(taken, file, readable)

    def documents(row: Row) -> list[Document]:
        if row.fault:
            raise ValueError(row.fault)
        if not columns.at(row.values, taken.picture):
            raise ValueError(f"the line names no picture: it has no {taken.picture}")
        return columns.documents(taken, settings.captions, row.values, folder)

    entries = [
        _Entry(
            Record(row.place, functools.partial(documents, row)),
            str(row.at) if row.fault else _key(columns.key(taken, row.values)),
        )
        for row in rows
    ]
    return entries, f"{columns.described(roles)} in {file.name}"


def _key(key: Any) -> str:
    """What decides the split of a line: the name of its picture, as of a picture without metadata."""
    return key[0] if isinstance(key, list) and len(key) == 1 and isinstance(key[0], str) else str(key)


def _beside(folder: Folder) -> tuple[list[_Entry], str]:
    """Every picture below the folder, in the order of the names, with the caption in the file beside it."""

    def documents(name: str, caption: str) -> list[Document]:
        picture = folder.picture(name)
        assert picture is not None  # it has a name
        words = text(folder.read(caption).decode("utf-8-sig")) if caption else ""
        return columns.captioned([words] if words else [], [picture], "each")

    found = pictures(folder.base)
    entries = [
        _Entry(Record(functools.partial(str, name), functools.partial(documents, name, caption)), name)
        for name, caption in found.items()
    ]
    return entries, f"{len(found)} pictures, of which {sum(map(bool, found.values()))} have a caption in NAME.txt"


def pictures(directory: Path) -> dict[str, str]:
    """Every picture below a directory, in the order of the names, with the `NAME.txt` beside it or ""."""
    found: dict[str, str] = {}
    for parent, _, names in os.walk(directory):
        captions = {name for name in names if name.endswith(".txt")}
        for path in (Path(parent, name).relative_to(directory) for name in names):
            if path.suffix.lower() in SUFFIXES:
                caption = path.with_suffix(".txt")
                found[path.as_posix()] = caption.as_posix() if caption.name in captions else ""
    return dict(sorted(found.items()))


def csv_rows(file: Path) -> Iterator[Row]:
    """The rows of a CSV file. A byte that is no UTF-8 damages its row, a quote that is not closed the whole file."""
    csv.field_size_limit(LONGEST)  # without it a long caption would damage the whole file
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        reader = csv.DictReader(lines, restkey="", strict=True)
        while True:
            try:
                values = next(reader, None)
            except csv.Error as error:
                raise ValueError(f"{file}:{reader.line_num} is no CSV: {error}") from error
            if values is None:
                return
            fault = "the row has more columns than the first line" if "" in values else _no_utf8(values)
            place = functools.partial("{}:{}".format, file.name, reader.line_num)
            yield Row(file, reader.line_num, place, {} if fault else values, fault)


def _no_utf8(values: dict[str, str | None]) -> str:
    """What is wrong with a row that was decoded with surrogateescape; "" if nothing is."""
    try:
        "".join(filter(None, values.values())).encode()
    except UnicodeEncodeError:
        return "the row is no UTF-8"
    return ""
