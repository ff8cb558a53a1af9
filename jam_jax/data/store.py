"""Token stores: documents as token ids, written once by `python -m jam_jax.data tokenize`, read at random.

A directory with ArrayRecord shards (one record a document: ids in the smallest unsigned type that holds the vocabulary,
little-endian), `lengths.npy` (uint32 [documents, 2]: length, and how much of it is the prompt of an instruction) and
`manifest.json` (where it came from, the tokenizer's fingerprint, counts, sizes and checksums). The manifest is what
makes a store: the directory is written aside and renamed, so nothing half-written looks complete. A store that several
processes write together is of parts (`parts`), each such a directory.
"""

import array
import bisect
import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
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
GROUP = 1 << 14  # tokens that are written at once
SCAN = 1 << 16  # rows of the length table that are looked at at once
# Four records a chunk: the order of reading is random, but a reader holds an index of 18 bytes a chunk in memory.
WRITER = "group_size:4,uncompressed"
READER = "readahead_buffer_size:0,max_parallelism:0,footer_prefetch_bytes:0"
MODALITIES = {"text": TEXT, "image": IMAGE, "special": SPECIAL}


def write_store(
    directory: str | Path,
    documents: "Iterable[Document]",
    tokenizer: "Tokenizer",
    *,
    total: int | None = None,
    shard_bytes: int = 1 << 28,
    may_be_empty: bool = False,
    **about: Any,
) -> "Store":
    """Tokenize `documents` into a new store; `total`, their number, is for the progress bar, `about` for the manifest.

    ValueError if the directory holds something already or there is no document; OSError if the disk is full. A store
    that fails leaves nothing behind.
    """
    encoded = tokenizer.encode_documents(documents)
    about["tokenizer"] = str(Path(tokenizer.directory).resolve())
    sizes: dict[str, Any] = {"total": total, "shard_bytes": shard_bytes, "may_be_empty": may_be_empty}
    return write_ids(directory, encoded, tokenizer.space, **sizes, **about)


def write_ids(
    directory: str | Path,
    records: Iterable[tuple[np.ndarray, int]],
    space: TokenSpace,
    /,
    *,
    total: int | None = None,
    shard_bytes: int = 1 << 28,
    may_be_empty: bool = False,
    **about: Any,
) -> "Store":
    """Write (ids [T], prompt length) records as a new store; `about` goes into the manifest. Errors: `write_store`."""
    from jam_jax.checkpoint import new_directory  # here, because worker processes read stores and need no Orbax

    directory = Path(directory)
    with new_directory(directory) as aside:
        manifest = _write(aside, records, space, total, shard_bytes, directory)
        if not (manifest["documents"] or may_be_empty):
            raise ValueError(f"no document to write into the store {directory}")
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

    dtype = np.min_scalar_type(space.vocab_size - 1).newbyteorder("<")
    lengths = array.array("I")  # eight bytes a document
    counts = np.zeros(3, np.int64)
    shards: list[dict[str, Any]] = []
    writer, filled = None, 0
    show = progress.bar(f"tokenize {directory.name}", total) if total else contextlib.nullcontext(lambda n: None)
    with show as advance:
        for group in _groups(records):
            joined = np.concatenate([ids for ids, _ in group])
            counts += np.bincount(space.modality[joined], minlength=3)
            written, at = joined.astype(dtype).tobytes(), 0
            with full_disk(directory):
                for ids, prompt in group:
                    if writer is None:
                        shards.append({"file": f"tokens-{len(shards):05d}.arrayrecord", "documents": 0})
                        writer, filled = ArrayRecordWriter(str(aside / shards[-1]["file"]), WRITER), 0
                    size = len(ids) * dtype.itemsize
                    writer.write(written[at : at + size])
                    at, filled = at + size, filled + size
                    shards[-1]["documents"] += 1
                    lengths.extend((len(ids), prompt))
                    if filled >= shard_bytes:
                        writer.close()
                        writer = None
            advance(len(group))
    with full_disk(directory):
        if writer is not None:
            writer.close()
    np.save(aside / "lengths.npy", np.array(lengths, np.uint32).reshape(-1, 2))
    for shard in shards:
        path = aside / shard["file"]
        shard |= {"bytes": path.stat().st_size, "sha256": sha256(path)}
    return {
        "fingerprint": space.fingerprint,
        "documents": len(lengths) // 2,
        "tokens": int(counts.sum()),
        "counts": {name: int(counts[index]) for name, index in MODALITIES.items()},
        "dtype": dtype.str,
        "lengths_sha256": sha256(aside / "lengths.npy"),
        "shards": shards,
    }


def _groups(records: Iterable[tuple[np.ndarray, int]]) -> Iterator[list[tuple[np.ndarray, int]]]:
    """Records in groups of some thousand tokens, which are counted and converted at once."""
    group: list[tuple[np.ndarray, int]] = []
    tokens = 0
    for record in records:
        group.append(record)
        tokens += len(record[0])
        if tokens >= GROUP:
            yield group
            group, tokens = [], 0
    if group:
        yield group


class Store:
    """A token store, open for reading: `store[i]` gives the ids of document i, int32 [T], without a leading `</s>`.

    `lengths` is the length table, mapped from the file; `longest` the length of the longest document, and
    `has_prompts` whether any document is an instruction.
    """

    def __init__(self, directory: str | Path) -> None:
        """Open a store; ValueError if there is none or if it is damaged (sizes and counts; `verify` reads it all)."""
        self.directory = Path(directory)
        path = self.directory / "manifest.json"
        if not path.is_file():
            if any(self.directory.glob("part-*-of-*")):
                raise ValueError(f"{directory} holds parts of a store: put them together with {_MERGE} {directory}")
            raise ValueError(f"{directory} is no token store: it has no manifest.json; make one with {_COMMAND}")
        try:
            self.manifest: dict[str, Any] = json.loads(path.read_text())
            self.lengths = self._map_lengths()
            shards = self.manifest["shards"]
            sizes = [(self.directory / s["file"]).stat().st_size for s in shards]
            damaged = [s["file"] for s, size in zip(shards, sizes, strict=True) if s["bytes"] != size]
            self._dtype = np.dtype(self.manifest["dtype"])
            tokens, self.longest, self.has_prompts = self._scan()
            agree = (
                self.lengths.shape == (self.manifest["documents"], 2)
                and sum(s["documents"] for s in shards) == self.manifest["documents"]
                and tokens == self.manifest["tokens"] == sum(self.manifest["counts"].values())
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

    @property
    def identity(self) -> str:
        """Sixteen hex digits that change with any token of any document: tables that belong to a store name it so."""
        told = [self.manifest["fingerprint"], *(shard["sha256"] for shard in self.manifest["shards"])]
        return hashlib.sha256(" ".join(told).encode()).hexdigest()[:16]

    def check(self, space: TokenSpace) -> None:
        """ValueError if the store was made with another tokenizer than that of `space`."""
        made = self.manifest["fingerprint"]
        if made != space.fingerprint:
            raise ValueError(
                f"store {self.directory} was made with another tokenizer (fingerprint {made}, "
                f"expected {space.fingerprint}): tokenize again with {_COMMAND}"
            )

    def verify(self) -> None:
        """Read every byte; ValueError names a file whose checksum is wrong."""
        files = {shard["file"]: shard["sha256"] for shard in self.manifest["shards"]}
        for file, written in (files | {"lengths.npy": self.manifest.get("lengths_sha256")}).items():
            if sha256(self.directory / file) != written:
                raise ValueError(f"store {self.directory}: {file} is damaged: tokenize again with {_COMMAND}")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_shards": {}, "lengths": None}  # open files do not travel to worker processes

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self.lengths = self._map_lengths()

    def _map_lengths(self) -> np.ndarray:
        """The length table, uint32 [documents, 2]; processes that read the same store share its memory."""
        path = self.directory / "lengths.npy"
        return np.asarray(np.load(path, mmap_mode="r"))  # a view without memmap's own slow indexing

    def _scan(self) -> tuple[int, int, bool]:
        """Sum and largest of the lengths, and whether there is a prompt, in one pass without copies of the table."""
        tokens, longest, prompts = 0, 0, False
        for start in range(0, len(self.lengths), SCAN):
            length, prompt = self.lengths[start : start + SCAN].T
            tokens, longest = tokens + int(length.sum(dtype=np.int64)), max(longest, int(length.max()))
            prompts |= bool(prompt.any())
        return tokens, longest, prompts

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
            reader = ArrayRecordReader(str(path), READER)
            self._shards[shard] = reader.read_all() if self._small else reader
        held = self._shards[shard]
        # By its range, which costs microseconds; a list of rows starts readers of its own and costs fifty times that.
        return held[row] if self._small else held.read(row, row + 1)[0]


_COMMAND = "python -m jam_jax.data tokenize"
_MERGE = "python -m jam_jax.data merge"


def sha256(path: Path) -> str:
    """The checksum of a file, as a manifest has it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
