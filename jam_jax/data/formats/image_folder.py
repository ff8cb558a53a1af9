"""An image folder, Hugging Face's way: pictures and a `metadata.jsonl` of lines `{"file_name": …, "text": …}`."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path

from jam_jax.data.documents import Document
from jam_jax.data.formats.damage import skip_damaged
from jam_jax.data.formats.folder import in_split
from jam_jax.data.formats.pictures import read_picture

METADATA = "metadata.jsonl"


def is_image_folder(directory: Path) -> bool:
    """Whether the folder has a `metadata.jsonl`."""
    return (directory / METADATA).is_file()


def read(directory: Path, split: str = "train") -> Iterator[Document]:
    """The captions (`text`, may be missing) and pictures of a split; `test` is every twentieth picture by a hash.

    The lines of one picture, which may have several captions, are in one split.
    A line that is no JSON, and a picture that is missing or cannot be decoded, is damaged; ValueError past 1% of those.
    """
    lines = (directory / METADATA).read_bytes().decode("utf-8-sig", "replace").split("\n")
    held = {i: _name(line) for i, line in enumerate(lines, 1) if line.strip()}
    names = in_split(held.values(), split, directory)
    chosen = [(i, lines[i - 1]) for i, name in held.items() if name in names]
    records = ((f"{METADATA} line {i}", functools.partial(_read_line, directory, line)) for i, line in chosen)
    return skip_damaged(str(directory), len(chosen), records)


def _name(line: str) -> str:
    """The picture of a line; the line itself if it cannot be told."""
    try:
        return str(json.loads(line)["file_name"])
    except (ValueError, KeyError, TypeError):
        return line


def _read_line(directory: Path, line: str) -> Document:
    values = json.loads(line)
    if not isinstance(values, dict) or not isinstance(values.get("file_name"), str):
        raise ValueError('the line is no {"file_name": …, "text": …}')
    path = (directory / values["file_name"]).resolve()
    if not path.is_relative_to(directory.resolve()):
        raise ValueError(f"file_name {values['file_name']!r} lies outside the folder")
    picture = path.read_bytes()
    read_picture(picture, 8)  # what decodes here decodes when it is tokenized
    text = str(values.get("text") or "").strip()
    return Document((text, picture) if text else (picture,))
