"""A folder of text files: every `*.txt` in it or below it, UTF-8, is one document and is read whole."""

import functools
from pathlib import Path

from jam_jax.data.documents import Document, merged
from jam_jax.data.formats.files import Folder
from jam_jax.data.formats.source import Record, Source, numbered
from jam_jax.data.formats.splits import in_split
from jam_jax.data.settings import ReadSettings


def open_text_folder(directory: Path, split: str, settings: ReadSettings) -> Source:
    """The files of a split, in the order of their names; split `test` is a share of them by a hash of the name.

    A file that is empty, no UTF-8, or a link out of the folder is damaged. ValueError if there are no files, or for
    another split.
    """
    every = [path.relative_to(directory).as_posix() for path in directory.rglob("*.txt")]
    if not every:
        raise ValueError(f"{directory} has no *.txt files")
    names = sorted(in_split(every, split, directory, settings.held_out))
    folder = Folder(directory, directory.resolve())

    def record(i: int) -> Record:
        return Record(functools.partial(str, names[i]), functools.partial(_documents, folder, names[i]))

    return numbered(f"{directory} ({split})", "a folder of text files", len(names), record, settings.damaged)


def _documents(folder: Folder, name: str) -> list[Document]:
    parts = merged([folder.read(name, largest=None).decode("utf-8-sig")])
    if not parts:
        raise ValueError("the file is empty")
    return [Document(parts)]
