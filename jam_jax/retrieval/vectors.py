"""The vectors of a store's documents, memory-mapped: `embed` writes them, banks keep their own.

A directory in parts (`pieces`), each of an unbroken run of the store's documents: `vectors.npy`, float16 or float32
[documents, E] of length 1, and `text_last.npy`, bool [documents]: whether a document ends in a text.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jam_jax.data.store import Store
from jam_jax.retrieval import pieces
from jam_jax.retrieval.pieces import Manifest, Part

SHARED = ("width", "encoder", "store", "documents")  # in what the manifests of all parts agree
EMBED = "make them with python -m jam_jax.retrieval embed"


class Vectors:
    """Vectors by the number of their document, from the parts of a directory."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        """Map the files of a directory; ValueError if they are not what its manifest says."""
        try:
            parts = [directory / name for name in manifest["parts"]]
            self.parts = [_map(part / "vectors.npy") for part in parts]
            self._text_last = [_map(part / "text_last.npy") for part in parts]
            self.width, documents = int(manifest["width"]), int(manifest["documents"])
        except (ValueError, OSError, KeyError, TypeError) as error:
            raise ValueError(f"the vectors of {directory} are damaged ({error}): write them again") from error
        self.firsts = np.cumsum([0, *map(len, self.parts)])
        shapes = [(len(part), self.width) for part in self._text_last]
        if not shapes or [part.shape for part in self.parts] != shapes or documents != self.firsts[-1]:
            raise ValueError(f"the vectors of {directory} are damaged (their shapes are wrong): write them again")
        if not documents:
            raise ValueError(f"{directory} has no documents: there is nothing to search")

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def rows(self, start: int, stop: int) -> np.ndarray:
        """The vectors of documents start to stop, float32 [stop - start, E]."""
        found = [
            part[max(start - first, 0) : max(stop - first, 0)]
            for part, first in zip(self.parts, self.firsts.tolist(), strict=False)
        ]
        return np.concatenate(found).astype(np.float32, copy=False)

    def take(self, numbers: np.ndarray, dtype: Any = np.float32) -> np.ndarray:
        """The vectors of some documents, int [...] → `dtype` [..., E]."""
        return self._gather(self.parts, numbers, dtype)

    def text_last(self, numbers: np.ndarray) -> np.ndarray:
        """Whether documents end in a text, int [...] → bool [...]."""
        return self._gather(self._text_last, numbers, bool)

    def _gather(self, parts: list[np.ndarray], numbers: np.ndarray, dtype: Any) -> np.ndarray:
        flat = numbers.ravel()
        if len(parts) == 1:
            found = parts[0][flat].astype(dtype, copy=False)
        else:
            found = np.empty((len(flat), *parts[0].shape[1:]), dtype)
            owner = np.searchsorted(self.firsts, flat, side="right") - 1
            for i in np.unique(owner).tolist():
                mine = owner == i
                found[mine] = parts[i][flat[mine] - self.firsts[i]]
        return found.reshape(*numbers.shape, *parts[0].shape[1:])


class Embeddings:
    """What `embed` made of a store: its documents' vectors and the encoder that made them."""

    def __init__(self, directory: str | Path) -> None:
        """Open them; ValueError if there are none, or if they are damaged."""
        self.directory = Path(directory)
        self.manifest = pieces.read(self.directory, "directory of embeddings", EMBED)
        if self.manifest.get("what") != "embeddings":
            raise ValueError(f"{directory} is no directory of embeddings: {EMBED}")
        self.vectors = Vectors(self.directory, self.manifest)

    def __len__(self) -> int:
        return len(self.vectors)


def write_part(
    aside: Path, batches: Iterable[np.ndarray], text_last: list[np.ndarray], dtype: str, shape: tuple[int, int]
) -> None:
    """The files of one part from batches of vectors, float32 [n, E]; `text_last` may be filled while they come."""
    with (aside / "vectors.npy").open("wb") as file:
        about = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, about)
        for batch in batches:
            file.write(np.ascontiguousarray(batch, dtype).data)
    np.save(aside / "text_last.npy", np.concatenate(text_last))


def merge(directory: str | Path) -> Embeddings:
    """Make one directory of embeddings of all its parts; once more does no harm."""
    directory = Path(directory)
    held = pieces.whole(directory, SHARED)
    join(directory, held, {})
    return Embeddings(directory)


def join(directory: Path, held: list[tuple[Part, Manifest]], files: Manifest) -> None:
    """Write the manifest of a directory whose parts are all there, with their files and the `files` beside them."""
    files = files | {f"{p.name}/{name}": about for p, manifest in held for name, about in manifest["files"].items()}
    told = {name: value for name, value in held[0][1].items() if name not in ("files", "first")}
    pieces.write_manifest(directory, told | {"parts": [part.name for part, _ in held], "files": files})


def named(path: Path, target: str | Path) -> str:
    """A path as it is told in a manifest of the directory `target`: relative to it, so that both may move together."""
    return os.path.relpath(path.resolve(), Path(target).resolve())


def told_store(store: Store, target: str | Path) -> Manifest:
    """A store as manifests of the directory `target` name it."""
    return {"path": named(store.directory, target), "identity": store.identity}


def _map(path: Path) -> np.ndarray:
    return np.asarray(np.load(path, mmap_mode="r"))
