"""Files that a record names: pictures beside the data, and none outside the directory that the data may use."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jam_jax.data.formats.pictures import decode_picture

BY_OPTION = ": name the directory of the pictures with --images"  # a remedy
LARGEST = 1 << 28  # bytes of a picture's file


@dataclasses.dataclass(frozen=True)
class Folder:
    """Where paths start from, and the directory that none may leave: not by `..`, absolutely, or by a link."""

    base: Path
    root: Path  # resolved
    remedy: str = ""  # what a user can do about a path that leaves it

    def read(self, name: str, largest: int | None = LARGEST) -> bytes:
        """The bytes of a file of at most `largest`; OSError if it is missing, ValueError if it may not be read."""
        if name.startswith(("http://", "https://")):
            raise ValueError(f"{name!r} is an address: download the pictures first and name the files")
        try:
            path = (self.base / name).resolve()
        except RuntimeError as error:  # what pathlib makes of links in a circle
            raise ValueError(f"{name!r} cannot be followed: {error}") from error
        if not path.is_relative_to(self.root):
            raise ValueError(f"{name!r} lies outside the folder {self.root}{self.remedy}")
        size = path.stat().st_size
        if not path.is_file():
            raise ValueError(f"{name!r} is no file")  # a directory, or a pipe that would never end
        if largest is not None and size > largest:
            raise ValueError(f"{name!r} has {size:,} bytes, the most is {largest:,}")
        return path.read_bytes()

    def picture(self, value: Any) -> bytes | None:
        """A picture from a record: its bytes, its path, or {bytes, path}; None for null or an empty path.

        ValueError if it is something else or no picture that can be decoded, OSError if the file is missing.
        """
        if isinstance(value, dict) and {"bytes", "path"} & value.keys():
            value = value.get("bytes") or value.get("path")
        if value is None or value == "":
            return None
        if not isinstance(value, bytes | str):
            raise ValueError(f"a picture is bytes, a path or {{bytes, path}}, got {type(value).__name__}")
        data = self.read(value) if isinstance(value, str) else value
        decode_picture(data)  # what decodes here decodes when it is tokenized
        return data

    def pictures(self, values: Iterable[Any]) -> list[bytes]:
        """The pictures that are not null or empty; errors as of `picture`."""
        return [found for value in values if (found := self.picture(value))]


def named_folder(images: str) -> Folder:
    """The directory that `--images` names; ValueError if there is none."""
    if not Path(images).is_dir():
        raise ValueError(f"--images: there is no directory {images}")
    return Folder(Path(images), Path(images).resolve())


def text(value: Any) -> str:
    """A text from a record, without the white space around it; "" for null. ValueError if it is no text."""
    if value is not None and not isinstance(value, str):
        raise ValueError(f"a text is a string, got {type(value).__name__}")
    return (value or "").strip()
