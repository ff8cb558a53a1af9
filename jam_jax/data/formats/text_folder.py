"""A folder of text files: every `*.txt` in it or below it, UTF-8, is one document."""

import functools
from collections.abc import Iterator
from pathlib import Path

from jam_jax.data.documents import Document
from jam_jax.data.formats.damage import skip_damaged
from jam_jax.data.formats.folder import in_split


def is_text_folder(directory: Path) -> bool:
    """Whether there is a `*.txt` in the folder or below it."""
    return next(directory.rglob("*.txt"), None) is not None


def read(directory: Path, split: str = "train") -> Iterator[Document]:
    """The files of a split, in the order of their names; split `test` is every twentieth by a hash of the name.

    A file that is empty or no UTF-8 is damaged; ValueError past 1% of those, and for another split.
    """
    names = sorted(in_split((p.relative_to(directory).as_posix() for p in directory.rglob("*.txt")), split, directory))
    return skip_damaged(str(directory), len(names), ((n, functools.partial(_read_file, directory / n)) for n in names))


def _read_file(path: Path) -> Document:
    text = path.read_text(encoding="utf-8-sig").strip()
    if not text or "\0" in text:
        raise ValueError("the file is empty" if not text else "the file is no text: it holds NUL bytes")
    return Document((text,))
