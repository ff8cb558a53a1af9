"""Token stores: documents as token ids, written once by `python -m jam_jax.data tokenize`, read at random.

A directory with ArrayRecord shards (one record a document: ids as little-endian uint16, or uint32 for a vocabulary
beyond 65,536), `lengths.npy` (uint32 [documents, 2]: length, and how much of it is the prompt of an instruction) and
`manifest.json` (where it came from, the tokenizer's fingerprint, counts, sizes and checksums). The manifest is what
makes a store: the directory is written aside and renamed, so nothing half-written looks complete.
"""

import bisect
import contextlib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jam_jax import progress
from jam_jax.data.formats.tfds import full_disk
from jam_jax.tokens import IMAGE, SPECIAL, TEXT, TokenSpace

if TYPE_CHECKING:
    from jam_jax.data.documents import Document
    from jam_jax.data.tokenizers import Tokenizer

SMALL = 64 << 20  # bytes of a store that is read into memory, which is ten times as fast
MODALITIES = {"text": TEXT, "image": IMAGE, "special": SPECIAL}


def write_store(
    directory: str | Path,
    documents: "Iterable[Document]",
    tokenizer: "Tokenizer",
    *,
    total: int | None = None,
    source: str = "",
    shard_bytes: int = 1 << 28,
) -> "Store":
    """Tokenize `documents` into a new store; `total`, their number, is for the progress bar, `source` for the record.

    ValueError if the directory holds something already or there is no document; OSError if the disk is full. A store
    that fails leaves nothing behind.
    """
    encoded = tokenizer.encode_documents(documents)
    return write_ids(
        directory,
        encoded,
        tokenizer.space,
        total=total,
        shard_bytes=shard_bytes,
        source=source,
        tokenizer=str(Path(tokenizer.directory).resolve()),
    )


def write_ids(
    directory: str | Path,
    records: Iterable[tuple[np.ndarray, int]],
    space: TokenSpace,
    *,
    total: int | None = None,
    shard_bytes: int = 1 << 28,
    **about: str,
) -> "Store":
    """Write (ids [T], prompt length) records as a new store; `about` goes into the manifest. Errors: `write_store`."""
    from jam_jax.checkpoint import new_directory  # here, because worker processes read stores and need no Orbax

    directory = Path(directory)
    with new_directory(directory) as aside:
        manifest = _write(aside, records, space, total, shard_bytes, directory)
        (aside / "manifest.json").write_text(json.dumps(about | manifest, indent=1) + "\n")
    return Store(directory)


def _write(
    aside: Path,
    records: Iterable[tuple[np.ndarray, int]],
    space: TokenSpace,
    total: int | None,
    shard_bytes: int,
    directory: Path,
) -> dict[str, Any]:
    """Shards and lengths into `aside`; the manifest's values."""
    from array_record.python.array_record_module import ArrayRecordWriter

    dtype = np.dtype("<u2" if space.vocab_size <= 1 << 16 else "<u4")
    lengths: list[tuple[int, int]] = []
    counts = np.zeros(3, np.int64)
    shards: list[dict[str, Any]] = []
    writer, filled = None, 0
    show = progress.bar(f"tokenize {directory.name}", total) if total else contextlib.nullcontext(lambda: None)
    with show as advance:
        for ids, prompt in records:
            with full_disk(directory):
                if writer is None:
                    shards.append({"file": f"tokens-{len(shards):05d}.arrayrecord", "documents": 0})
                    # One record a chunk: the order of reading is random.
                    writer, filled = ArrayRecordWriter(str(aside / shards[-1]["file"]), "group_size:1,uncompressed"), 0
                writer.write(np.asarray(ids).astype(dtype).tobytes())
                filled += len(ids) * dtype.itemsize
                if filled >= shard_bytes:
                    writer.close()
                    writer = None
            shards[-1]["documents"] += 1
            lengths.append((len(ids), prompt))
            counts += np.bincount(space.modality[np.asarray(ids)], minlength=3)
            advance()
    with full_disk(directory):
        if writer is not None:
            writer.close()
    if not lengths:
        raise ValueError(f"no document to write into the store {directory}")
    np.save(aside / "lengths.npy", np.array(lengths, np.uint32))
    for shard in shards:
        path = aside / shard["file"]
        shard |= {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    return {
        "fingerprint": space.fingerprint,
        "documents": len(lengths),
        "tokens": int(counts.sum()),
        "counts": {name: int(counts[index]) for name, index in MODALITIES.items()},
        "dtype": dtype.str,
        "shards": shards,
    }


class Store:
    """A token store, open for reading: `store[i]` gives the ids of document i, int32 [T], without a leading `</s>`."""

    def __init__(self, directory: str | Path) -> None:
        """Open a store; ValueError if there is none or if it is damaged (sizes and counts; `verify` reads it all)."""
        self.directory = Path(directory)
        path = self.directory / "manifest.json"
        if not path.is_file():
            raise ValueError(f"{directory} is no token store: it has no manifest.json; make one with {_COMMAND}")
        try:
            self.manifest: dict[str, Any] = json.loads(path.read_text())
            self.lengths: np.ndarray = np.load(self.directory / "lengths.npy")  # uint32 [documents, 2]
            shards = self.manifest["shards"]
            sizes = [(self.directory / s["file"]).stat().st_size for s in shards]
            damaged = [s["file"] for s, size in zip(shards, sizes, strict=True) if s["bytes"] != size]
            self._dtype = np.dtype(self.manifest["dtype"])
            agree = (
                self.lengths.shape == (self.manifest["documents"], 2)
                and sum(s["documents"] for s in shards) == self.manifest["documents"]
                and self.lengths[:, 0].sum(dtype=np.int64)
                == self.manifest["tokens"]
                == sum(self.manifest["counts"].values())
            )
        except (ValueError, OSError, KeyError, TypeError) as error:
            raise ValueError(f"store {directory} is damaged ({error}): tokenize again with {_COMMAND}") from error
        if damaged or not agree:
            what = f"the size of {damaged[0]}" if damaged else "a count in its manifest"
            raise ValueError(f"store {directory} is damaged ({what} is wrong): tokenize again with {_COMMAND}")
        self._ends = np.cumsum([s["documents"] for s in shards]).tolist()
        self._small = sum(sizes) <= SMALL
        self._shards: dict[int, Any] = {}  # by number: the records of a small store, else an open reader

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> np.ndarray:
        if not 0 <= i < len(self):
            raise IndexError(f"store {self.directory} has {len(self)} documents, there is no number {i}")
        shard = bisect.bisect_right(self._ends, i)
        row = int(i) - (self._ends[shard - 1] if shard else 0)
        return np.frombuffer(self._record(shard, row), self._dtype).astype(np.int32)

    def check(self, space: TokenSpace) -> None:
        """ValueError if the store was made with another tokenizer than that of `space`."""
        made = self.manifest["fingerprint"]
        if made != space.fingerprint:
            raise ValueError(
                f"store {self.directory} was made with another tokenizer (fingerprint {made}, "
                f"expected {space.fingerprint}): tokenize again with {_COMMAND}"
            )

    def verify(self) -> None:
        """Read every byte; ValueError names a shard whose checksum is wrong."""
        for shard in self.manifest["shards"]:
            if _sha256(self.directory / shard["file"]) != shard["sha256"]:
                raise ValueError(f"store {self.directory}: {shard['file']} is damaged: tokenize again with {_COMMAND}")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_shards": {}}  # open files do not travel to worker processes

    def _record(self, shard: int, row: int) -> bytes:
        try:
            return self._read(shard, row)
        except (RuntimeError, IndexError) as error:  # how ArrayRecord says that a file is damaged
            name = self.manifest["shards"][shard]["file"]
            raise ValueError(f"store {self.directory}: {name} is damaged: tokenize again with {_COMMAND}") from error

    def _read(self, shard: int, row: int) -> bytes:
        if shard not in self._shards:
            from array_record.python.array_record_module import ArrayRecordReader

            path = self.directory / self.manifest["shards"][shard]["file"]
            reader = ArrayRecordReader(str(path), "readahead_buffer_size:0,max_parallelism:0")
            self._shards[shard] = reader.read_all() if self._small else reader
        held = self._shards[shard]
        return held[row] if self._small else held.read([row])[0]


_COMMAND = "python -m jam_jax.data tokenize"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
