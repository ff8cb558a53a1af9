"""Sets of pictures to measure: what a model drew, a folder with or without captions, a dataset of real pictures.

Opening one reads names and captions only. Each is a `Source`, so that processes share it, and damaged pictures are
skipped and told of, as everywhere.
"""

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jam_jax.data import formats
from jam_jax.data.documents import Document, merged
from jam_jax.data.formats import columns, image_folder
from jam_jax.data.formats.files import Folder
from jam_jax.data.formats.files import text as text_of
from jam_jax.data.formats.recognise import recognise
from jam_jax.data.formats.rows import JsonLines
from jam_jax.data.formats.source import Record, Source, numbered
from jam_jax.data.settings import ReadSettings
from jam_jax.evaluate import samples
from jam_jax.evaluate.samples import Sample

PICTURE_NAMES = ("file_name", *columns.PICTURE_NAMES)  # columns of a file of captions
TEXT_NAMES = ("text", *columns.TEXT_NAMES)
CAPTIONS = (".jsonl", ".csv", ".txt")  # files of captions


@dataclasses.dataclass(frozen=True)
class PictureSet:
    """Pictures, one to a document, each after its caption where they have captions."""

    source: Source
    captioned: bool = False
    drawn: tuple[Sample, ...] = ()  # of what a model drew every prompt with its mark, without its parts
    undrawn: int = 0  # prompts that no picture came of


def open_set(directory: str | Path, damaged: float, *, captioned: bool = True, captions: str = "") -> PictureSet:
    """What `draw` wrote, or all pictures below a directory, with captions if they are wanted and there are any.

    Captions are in the file `captions`, or else in the folder's metadata.jsonl, metadata.csv or NAME.txt files; of
    several of one picture the first counts. ValueError if there are no pictures, or if some have captions and others
    have none, or captions no picture.
    """
    path = Path(directory)
    if not path.is_dir():
        raise ValueError(f"there is no directory of pictures {directory}")
    folder = Folder(path, path.resolve())
    if (path / samples.NAME).is_file():
        if captions:
            raise ValueError(f"{directory} holds the prompts of its pictures in {samples.NAME}: leave --captions out")
        return _drawn(folder, damaged)
    found = image_folder.pictures(path)
    if not found:
        raise ValueError(f"{directory} has no pictures ({', '.join(image_folder.SUFFIXES)})")
    told: dict[str, str] = {}
    if captioned:
        told = _captions(folder, found, captions)
    pairs = [(told.get(name, ""), name) for name in found]
    kind = "a folder of pictures with captions" if told else "a folder of pictures"
    return PictureSet(_source(folder, kind, pairs, damaged), bool(told))


def open_reference(where: str | Path, split: str, damaged: float) -> Source:
    """Real pictures: a folder, all of it, or the split of a dataset that `formats.open_source` knows.

    A document may hold texts and several pictures, and none; of several captions of one picture the first is taken, so
    that it counts once. ValueError as there.
    """
    path = Path(where)
    if path.is_dir():
        kind = "image_folder" if (path / samples.NAME).is_file() else recognise(path)
        if kind == "image_folder":
            return open_set(path, damaged, captioned=False).source
    elif path.exists():
        kind = recognise(path)
    else:
        kind = "tfds"  # by its name, or told of by `open_source`
    once = ReadSettings(damaged=damaged, captions="first" if kind in formats.FOR["captions"] else "each")
    return formats.open_source(where, split, once)


def _drawn(folder: Folder, damaged: float) -> PictureSet:
    """Every picture of `samples.json` with the prompt that it was drawn for."""
    held = samples.index(folder.base)
    pairs = [(sample.prompt, name) for sample, names in held for name in names]
    if not pairs:
        raise ValueError(f"{folder.base} has no pictures: none came of its {len(held)} prompts")
    source = _source(folder, "pictures that were drawn", pairs, damaged)
    return PictureSet(source, True, tuple(sample for sample, _ in held), sum(not names for _, names in held))


def _source(folder: Folder, kind: str, pairs: list[tuple[str, str]], damaged: float) -> Source:
    """Captions, or "", with the names of their pictures."""

    def read(caption: str, name: str) -> list[Document]:
        picture = folder.picture(name)
        assert picture is not None  # it has a name
        return [Document(merged((caption, picture)))]

    def record(i: int) -> Record:
        caption, name = pairs[i]
        return Record(functools.partial(str, name), functools.partial(read, caption, name))

    return numbered(str(folder.base), kind, len(pairs), record, damaged)


def _captions(folder: Folder, found: dict[str, str], file: str) -> dict[str, str]:
    """The caption of every picture of `found`, or none at all."""
    where = Path(file) if file else image_folder.metadata(folder.base)
    if where:
        told = _of_file(where)
        if strange := [name for name in told if name not in found]:
            raise ValueError(f"{where} has captions of {_some(strange, 'picture')} that {folder.base} does not hold")
    else:
        where = Path("NAME.txt")
        told = {name: _beside(folder, beside) for name, beside in found.items() if beside}
        if not told:
            return {}
    if silent := [name for name in found if not told.get(name)]:
        raise ValueError(f"{folder.base} has {_some(silent, 'picture')} without a caption in {where.name}")
    return told


def _beside(folder: Folder, name: str) -> str:
    """The caption in a file of its own; ValueError if that is no UTF-8."""
    try:
        return text_of(folder.read(name).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{folder.base / name}: the caption is no UTF-8") from error


def _of_file(path: Path) -> dict[str, str]:
    """The captions of a file by the names of their pictures; ValueError for a line that cannot be read."""
    if not path.is_file():
        raise ValueError(f"there is no file of captions {path}")
    if path.suffix not in CAPTIONS:
        raise ValueError(f"{path} is no file of captions: expected {', '.join(CAPTIONS)}")
    pairs = _lines(path) if path.suffix == ".txt" else _rows(path)
    told: dict[str, str] = {}
    for name, caption in pairs:
        told.setdefault(Path(name).as_posix(), caption)
    if not told:
        raise ValueError(f"{path} holds no captions")
    return told


def _lines(path: Path) -> Iterable[tuple[str, str]]:
    """`NAME.png`, a tab and the caption on every line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            name, tab, caption = line.decode("utf-8-sig", "surrogateescape").strip().partition("\t")
            if tab and caption.strip():
                yield name.strip(), _utf8(caption.strip(), f"{path.name}:{number}")
            elif name:
                raise ValueError(f"{path.name}:{number}: expected the name of a picture, a tab and its caption")


def _rows(path: Path) -> Iterable[tuple[str, str]]:
    """The rows of a table with a column of names and one of captions."""
    rows = list(image_folder.csv_rows(path) if path.suffix == ".csv" else JsonLines([path]).rows())
    for row in rows:
        if row.fault:
            raise ValueError(f"{row.place()}: {row.fault}")
    values = [row.values for row in rows]
    names, texts = columns.known(PICTURE_NAMES, values, str), columns.known(TEXT_NAMES, values, str, list)
    if not (names and texts):
        raise ValueError(f"{path} needs columns of the pictures' names and of captions, as file_name and text")
    for row in rows:
        name, caption = row.values.get(names), _first(row.values.get(texts))
        if not name or not isinstance(name, str):
            raise ValueError(f"{row.place()}: the line names no picture: it has no {names}")
        yield name, text_of(caption)


def _first(value: Any) -> Any:
    """Of a list of captions the first."""
    return (value or [""])[0] if isinstance(value, list) else value


def _utf8(text: str, place: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{place}: the line is no UTF-8") from error
    return text


def _some(names: list[str], what: str) -> str:
    return f"{len(names)} {what}{'s' * (len(names) > 1)} (the first {names[0]!r})"
