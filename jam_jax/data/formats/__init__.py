"""The kinds of data a user can bring; `open_source` tells them apart and gives their documents (docs/data.md)."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

from jam_jax.data.documents import Document
from jam_jax.data.formats import coco, columns, conversations, image_folder, obelics, text_folder, tfds, wikihow
from jam_jax.data.formats.recognise import recognise, table
from jam_jax.data.formats.source import Source
from jam_jax.data.formats.splits import files_of_split
from jam_jax.data.formats.table import Layout, Values, open_table
from jam_jax.data.settings import FORMATS, Format, ReadSettings

OWN: dict[Format, Callable[[Path, str, ReadSettings], Source]] = {
    "tfds": tfds.open_tfds,
    "coco": coco.open_coco,
    "image_folder": image_folder.open_image_folder,
    "text_folder": text_folder.open_text_folder,
}
# Which formats an option says something to; for another it is a mistake.
FOR: dict[str, tuple[Format, ...]] = {
    "columns": ("tfds", "jsonl", "parquet", "image_folder"),
    "captions": ("tfds", "jsonl", "parquet", "image_folder", "coco"),
    "images": ("jsonl", "parquet", "coco", "llava", "obelics", "wikihow"),
    "turns": ("lima", "llava"),
    "wikihow": ("wikihow",),
    "held_out": tuple(format for format in FORMATS if format != "tfds"),
}


def open_source(source: str | Path, split: str = "train", settings: ReadSettings = ReadSettings()) -> Source:
    """A split of a directory, a file, or a TFDS dataset that is prepared under this name.

    A TFDS dataset has its own splits, and so has a directory of tables or COCO captions whose files are named for them
    (`train-00000-of-00002.parquet`); of all other data `settings.held_out` is the split `test` and the rest `train`.

    ValueError in one line if there is no such data or split, if it is of no format or could be of several, if it is
    not of the format that was named, or for an option that says nothing to its format.
    """
    path = Path(source)
    if not path.exists():
        if settings.format not in ("auto", "tfds") or not (found := tfds.named(str(source))):
            raise ValueError(f"there is no file or directory {source}, nor a TFDS dataset prepared under that name")
        path = found
    format = recognise(path) if settings.format == "auto" else settings.format
    for option, formats in FOR.items():
        if format not in formats and getattr(settings, option) != getattr(ReadSettings(), option):
            name = option.replace("_", "-")
            raise ValueError(
                f"{source} is {format} data, to which --{name} says nothing: it is for {', '.join(formats)}"
            )
    if format in OWN:
        if path.is_file() and format != "coco":
            raise ValueError(f"{source} is a file: the format {format} is a directory")
        return OWN[format](path, split, settings)
    files, make = table(path, format)
    of_split = files_of_split(files, split, path) if path.is_dir() else None
    layout = functools.partial(_layout, format, path, settings)
    return open_table(path, make(of_split or files), layout, split, of_split is not None, settings)


def read(source: str | Path, split: str = "train", settings: ReadSettings = ReadSettings()) -> Iterator[Document]:
    """The documents of a split, one after another; errors as of `open_source`, and those of `Source.documents`."""
    return open_source(source, split, settings).documents()


def _layout(format: Format, path: Path, settings: ReadSettings, rows: list[Values]) -> Layout:
    """What the rows of a table are, in the format that was named or recognised."""
    if format == "lima":
        return conversations.lima(settings, rows)
    if format == "llava":
        return conversations.llava(settings, rows)
    if format == "obelics":
        return obelics.layout(rows)
    if format == "wikihow":
        return wikihow.layout(settings, rows)
    return columns.layout(settings, path, rows)
