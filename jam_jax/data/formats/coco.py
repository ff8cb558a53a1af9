"""COCO captions: `annotations/captions_train2017.json` and the pictures in `train2017/`, five captions to a picture.

The file is read into memory (the largest published one has 90 MB). It holds `{"images": [{"id", "file_name"}, …],
"annotations": [{"image_id", "caption"}, …]}`; a picture without captions is left out.
"""

import dataclasses
import functools
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jam_jax.data.documents import Document
from jam_jax.data.formats.columns import captioned
from jam_jax.data.formats.files import BY_OPTION, Folder, named_folder, text
from jam_jax.data.formats.source import Record, Source, numbered
from jam_jax.data.formats.splits import check_split, files_of_split, is_held_out
from jam_jax.data.settings import ReadSettings


@dataclasses.dataclass(frozen=True)
class _Picture:
    """A record: a picture with its captions, or what is damaged."""

    place: str
    key: int | str  # pictures that agree in it are in one split
    file_name: str = ""
    captions: Sequence[Any] = ()
    fault: str = ""


def annotations(directory: Path) -> list[Path]:
    """The files with captions of a directory that is laid out as COCO is published, or is its `annotations`."""
    return sorted((*directory.glob("captions*.json"), *directory.glob("annotations/captions*.json")))


def is_coco(values: Any) -> bool:
    """Whether a file's JSON is COCO's with captions."""
    if not isinstance(values, dict) or not all(isinstance(values.get(n), list) for n in ("images", "annotations")):
        return False
    return any(isinstance(entry, dict) and "caption" in entry for entry in values["annotations"][:1])


def open_coco(path: Path, split: str, settings: ReadSettings) -> Source:
    """The captions of a split: of a directory the file that is named for it, of a file a share of its pictures.

    A record is a picture with all of its captions, so they are in one split and in one shard. ValueError if there is
    no such file or split, or no directory with the pictures.
    """
    file, whole = path, False
    if path.is_dir():
        files = annotations(path)
        if not files:
            raise ValueError(f"{path} has no captions*.json, nor has its directory annotations")
        of_split = files_of_split(files, split, path)
        if len(of_split or files) > 1:
            names = ", ".join(found.name for found in of_split or files)
            raise ValueError(f"{path} has several files of captions ({names}): name one of them as the source")
        file, whole = (of_split or files)[0], of_split is not None
    values = _load(file)
    found = _records(values)
    if not whole:
        check_split(split, path, settings.held_out)
        found = [entry for entry in found if is_held_out(entry.key, settings.held_out) == (split == "test")]
        if not found:
            raise ValueError(f"{file}: no picture is in the split {split}: set --held-out")
    folder = _folder(file, found, settings)

    def record(i: int) -> Record:
        place = functools.partial("{} {}".format, file.name, found[i].place)
        return Record(place, functools.partial(_documents, found[i], settings.captions, folder))

    count = sum(len(entry.captions) for entry in found) if settings.captions == "each" else len(found)
    return numbered(f"{path} ({split})", f"COCO captions of {file.name}", len(found), record, settings.damaged, count)


def _load(file: Path) -> Any:
    try:
        values = json.loads(file.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    if not is_coco(values):
        raise ValueError(f'{file} has no COCO captions: expected {{"images": […], "annotations": [{{"caption": …}}]}}')
    return values


def _records(values: Any) -> list[_Picture]:
    """The pictures that have captions, and what is damaged, in the order of the file."""
    captions: dict[Any, list[Any]] = {}
    damaged = []
    ids = {image["id"] for image in values["images"] if _has(image, "id")}
    for i, entry in enumerate(values["annotations"]):
        if not _has(entry, "image_id") or entry["image_id"] not in ids:
            damaged.append(_Picture(f"annotation {i}", i, fault="the annotation names no image of the file"))
        else:
            captions.setdefault(entry["image_id"], []).append(entry.get("caption"))
    found = []
    for i, image in enumerate(values["images"]):
        if not _has(image, "id") or not isinstance(image.get("file_name"), str):
            damaged.append(_Picture(f"image {i}", i, fault="an image has an id and a file_name"))
        elif image["id"] in captions:
            found.append(_Picture(f"image {image['id']}", image["id"], image["file_name"], captions[image["id"]]))
    return found + damaged


def _has(entry: Any, name: str) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get(name), int | str)


def _folder(file: Path, found: list[_Picture], settings: ReadSettings) -> Folder:
    """Where the pictures are: the directory that was named, or the likely one that has one of the first of them."""
    if settings.images:
        return named_folder(settings.images)
    top = file.parent.parent if file.parent.name == "annotations" else file.parent
    year = re.sub(r"^captions_?", "", file.stem)  # train2017
    likely = [top / year, top / "images" / year, top / "images", top]
    for base in likely:
        if any(entry.file_name and os.path.isfile(base / entry.file_name) for entry in found[:20]):
            return Folder(base, top.resolve(), BY_OPTION)
    raise ValueError(f"the pictures of {file} are not in {', '.join(map(str, likely))}: name --images")


def _documents(entry: _Picture, which: str, folder: Folder) -> list[Document]:
    if entry.fault:
        raise ValueError(entry.fault)
    picture = folder.picture(entry.file_name)
    if picture is None:
        raise ValueError("the image has an empty file_name")
    return captioned([found for caption in entry.captions if (found := text(caption))], [picture], which)
