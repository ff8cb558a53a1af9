"""What kind of data a user's directory or file is, by its files and by the keys of its first records."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jam_jax.data.formats import coco, conversations, image_folder, obelics, tfds, wikihow
from jam_jax.data.formats.parquet import Parquet
from jam_jax.data.formats.rows import JsonLines, Table, json_list, parse, peek
from jam_jax.data.settings import FORMATS, Format

# By the keys of a record, whatever kind of table it is in; what fits none has columns.
LAYOUTS: dict[Format, Callable[[dict[str, Any]], bool]] = {
    "lima": conversations.is_lima,
    "llava": conversations.is_llava,
    "obelics": obelics.is_obelics,
    "wikihow": wikihow.is_wikihow,
}
TABLES = (".jsonl", ".parquet", ".json")
SUFFIXES: dict[Format, tuple[str, ...]] = {"jsonl": (".jsonl", ".json"), "parquet": (".parquet",)}  # else TABLES
ABOUT = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"}  # no records
FIRST_LINE = 1 << 20  # bytes that are read to tell JSON lines from one object
LARGEST_OBJECT = 1 << 31  # bytes of a file that is read whole to see whether it is one object


def recognise(path: Path) -> Format:
    """The one format that a directory or file is in. ValueError if it is none, or could be several."""
    found = _of_directory(path) if path.is_dir() else [_of_table(path, [path])]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{path} could be {' or '.join(found)}: say which with --format")
    raise ValueError(
        f"{path} is no data: expected a TFDS dataset (features.json), COCO captions, JSON lines, Parquet, pictures "
        f"(metadata.jsonl, metadata.csv, NAME.txt beside NAME.jpg) or *.txt files; formats are {', '.join(FORMATS[1:])}"
    )


def table(path: Path, format: Format) -> tuple[list[Path], Callable[[Sequence[Path]], Table]]:
    """The files of a table, and how to open them; ValueError if there are none or they are of two kinds."""
    files, wanted = [path], SUFFIXES.get(format, TABLES)
    if path.is_dir():
        kinds = {suffix: files for suffix, files in _tables(path).items() if suffix in wanted}
        if len(kinds) > 1:
            raise ValueError(f"{path} has {' and '.join(kinds)} files: name one file, or --format jsonl or parquet")
        if not kinds:
            raise ValueError(f"{path} has no {' or '.join(wanted)} files")
        files = next(iter(kinds.values()))
    suffix = files[0].suffix.lower()
    if suffix not in wanted:
        raise ValueError(f"{files[0]} is no file of the format {format}: expected {' or '.join(wanted)}, decompressed")
    if suffix == ".parquet":
        return files, Parquet
    if suffix == ".json" and _first_byte(files[0]) == b"[":
        return files, _one_list
    return files, JsonLines


def _one_list(files: Sequence[Path]) -> Table:
    if len(files) > 1:
        raise ValueError(f"{files[0].parent} has several files with JSON lists: name one of them as the source")
    return json_list(files[0])


def _of_directory(directory: Path) -> list[Format]:
    """What a directory could be: one of the kinds with a file of their own, else all that its files allow."""
    signed: list[Format] = []
    if tfds.is_tfds(directory):
        signed.append("tfds")
    if image_folder.metadata(directory):
        signed.append("image_folder")
    if coco.annotations(directory):
        signed.append("coco")
    if signed:
        return signed
    tables = _tables(directory)
    found = list(dict.fromkeys(_of_table(directory, files) for files in tables.values()))
    pictures, captions, texts = _pictures_and_texts(directory)
    if captions or (pictures and not tables and not texts):
        found.append("image_folder")
    if texts:
        found.append("text_folder")
    return found


def _of_table(path: Path, files: list[Path]) -> Format:
    """What a table is, by its first rows. ValueError if it has none that can be read."""
    if files[0].suffix.lower() == ".json" and coco.is_coco(_object(files[0])):
        return "coco"
    if files[0].suffix.lower() not in TABLES:
        raise ValueError(f"{files[0]} is no table: expected a file .jsonl, .parquet or .json, decompressed")
    format: Format = "parquet" if files[0].suffix.lower() == ".parquet" else "jsonl"
    first, make = table(files[0], format)
    rows = peek(make(first if make is _one_list else files))
    return next((name for name, fits in LAYOUTS.items() if any(map(fits, rows))), format)


def _tables(directory: Path) -> dict[str, list[Path]]:
    """The files with records in a directory or below it, in the order of their names, by their suffix."""
    found: dict[str, list[Path]] = {}
    for parent, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(parent, name) for name in names if name not in ABOUT and not name.startswith(".")):
            if path.suffix.lower() in TABLES:
                found.setdefault(path.suffix.lower(), []).append(path)
    if found.keys() - {".json"}:
        found.pop(".json", None)  # beside a table it is about it
    return {suffix: sorted(files) for suffix, files in sorted(found.items())}


def _pictures_and_texts(directory: Path) -> tuple[bool, bool, bool]:
    """Whether there are pictures, texts beside pictures of the same name, and other texts."""
    pictures = captions = texts = False
    for _, _, names in os.walk(directory):
        shown = {Path(n).stem for n in names if Path(n).suffix.lower() in image_folder.SUFFIXES}
        written = {Path(n).stem for n in names if n.endswith(".txt")}
        pictures |= bool(shown)
        captions |= bool(shown & written)
        texts |= bool(written - shown)
    return pictures, captions, texts


def _first_byte(path: Path) -> bytes:
    """The first byte that is no white space."""
    with path.open("rb") as file:
        return file.read(FIRST_LINE).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _object(path: Path) -> Any:
    """The one JSON object that a file is; None if it is a list, has one on every line, or is too large to be one."""
    if _first_byte(path) != b"{":
        return None
    with path.open("rb") as file:
        try:
            first = parse(file.readline(FIRST_LINE))
        except ValueError:  # goes on after the first line, or is one long line
            file.seek(0)
        else:
            return None if file.read(FIRST_LINE).strip() else first
        try:
            return parse(file.read()) if path.stat().st_size <= LARGEST_OBJECT else None
        except ValueError:
            return None
