"""A token store that several processes write: each its part, in any order and on any machine, put together at the end.

Part 3 of 64 is the directory `part-00003-of-00064` inside the store's, itself a store of the documents of that part;
it appears when it is whole, so a process that was stopped is simply started again. `merge` joins the tables of all
parts and writes the one manifest, which makes the directory a store; the parts' token files stay where they are.
"""

import dataclasses
import json
import re
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jam_jax.config import write_whole
from jam_jax.data.formats.tfds import full_disk
from jam_jax.data.store import Store, sha256, write_store

if TYPE_CHECKING:
    from jam_jax.data.documents import Document
    from jam_jax.data.tokenizers import Tokenizer

SHARED = ("source", "settings", "fingerprint", "dtype")  # in what the manifests of all parts agree


@dataclasses.dataclass(frozen=True)
class Part:
    """One of the parts of a store, counted from 0."""

    index: int
    of: int

    @staticmethod
    def parse(text: str) -> "Part":
        """`3/64` is part 3 of the parts 0 to 63; ValueError for anything else."""
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        part = Part(*map(int, found.groups())) if found else None
        if not part or not part.index < part.of:
            raise ValueError(f"--shard is I/N, one of the shards 0 to N - 1 (0/64 to 63/64 of 64), got {text!r}")
        return part

    @property
    def name(self) -> str:
        """The directory inside the store's."""
        return f"part-{self.index:05d}-of-{self.of:05d}"

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"


def is_written(directory: str | Path, part: Part, tokenizer: "Tokenizer", about: dict[str, Any]) -> bool:
    """Whether a part is there already; ValueError if a store of anything else is there.

    `about` holds the `source` and the `settings` that it was read with.
    """
    directory = Path(directory)
    if (directory / "manifest.json").is_file() and not _present(directory):
        raise ValueError(f"{directory} is a store that was written in one piece: remove it or choose another target")
    for other in _present(directory)[:1]:  # `merge` compares them all
        if other.of != part.of:
            raise ValueError(f"{directory} holds shard {other}, which does not go with {part}: use the same number")
        there = Store(directory / other.name).manifest
        wanted = {"source": about["source"], "settings": about["settings"], "fingerprint": tokenizer.space.fingerprint}
        for name, value in wanted.items():
            if there[name] != value:
                raise ValueError(
                    f"{directory} holds shard {other} with another {name} ({there[name]}, not {value}): choose another "
                    "target, or remove what is there"
                )
    return (directory / part.name / "manifest.json").is_file()


def write_part(
    directory: str | Path,
    part: Part,
    documents: "Iterable[Document]",
    tokenizer: "Tokenizer",
    *,
    total: int | None = None,
    **about: Any,
) -> Store:
    """Tokenize `documents`, those of one part, which may be none, into that part of a store.

    `about` goes into its manifest: `source`, `settings`, and `records` (how many were read, damaged, left out). Errors:
    `write_store`.
    """
    return write_store(Path(directory) / part.name, documents, tokenizer, total=total, may_be_empty=True, **about)


def missing(directory: str | Path) -> list[Part]:
    """The parts that are not there yet; ValueError if there is none at all, or if two numbers of parts are mixed."""
    present = _present(Path(directory))
    if not present:
        raise ValueError(f"{directory} holds no parts of a store: write them with tokenize --shard 0/N to N-1/N")
    if len({part.of for part in present}) > 1:
        raise ValueError(f"{directory} holds shards {present[0]} and {present[-1]}: remove those of one of the two")
    return [part for i in range(present[0].of) if (part := Part(i, present[0].of)) not in present]


def merge(directory: str | Path) -> Store:
    """Make one store of all parts; once more does no harm, even at the same time.

    ValueError if parts are missing or damaged, disagree, or hold no document together, or if more records than are
    tolerated were damaged in all of them; OSError if the disk is full.
    """
    directory = Path(directory)
    if absent := missing(directory):
        told = ", ".join(map(str, absent[:8])) + (", …" if len(absent) > 8 else "")
        raise ValueError(f"{len(absent)} of {absent[0].of} shards of {directory} are not there: write {told} first")
    parts = sorted(_present(directory), key=lambda part: part.index)
    stores = [Store(directory / part.name) for part in parts]
    first = stores[0].manifest
    for part, store in zip(parts, stores, strict=True):
        if differing := [name for name in SHARED if store.manifest[name] != first[name]]:
            raise ValueError(f"shard {part} of {directory} was written with another {differing[0]} than {parts[0]}")
    total = sum(map(len, stores))
    if not total:
        raise ValueError(f"no document in any of the {len(parts)} shards of {directory}")
    records = _sums([store.manifest["records"] for store in stores])
    # Each shard was judged alone, without knowing of what the others skip.
    if records["damaged"] > (share := first["settings"]["damaged"]) * records["read"]:
        raise ValueError(
            f"{records['damaged']} of {records['read']} records of all shards of {directory} are damaged, more than "
            f"{100 * share:g}%: mend the source, or write the shards again with a larger --damaged"
        )
    with full_disk(directory):
        _join_lengths(directory / "lengths.npy", [store.lengths for store in stores], total)
        manifest = _join_manifests(parts, [store.manifest for store in stores])
        manifest["lengths_sha256"] = sha256(directory / "lengths.npy")
        write_whole(directory / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return Store(directory)


def _present(directory: Path) -> list[Part]:
    """The parts that are there, by number of parts, then by place."""
    found = (re.fullmatch(r"part-(\d{5,})-of-(\d{5,})", p.parent.name) for p in directory.glob("part-*/manifest.json"))
    return sorted((Part(*map(int, f.groups())) for f in found if f), key=lambda part: (part.of, part.index))


def _join_lengths(path: Path, tables: list[np.ndarray], total: int) -> None:
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with aside.open("wb") as file:
            about = {"descr": "<u4", "fortran_order": False, "shape": (total, 2)}
            np.lib.format.write_array_header_1_0(file, about)
            for table in tables:
                file.write(table.tobytes())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _sums(counts: list[dict[str, int]]) -> dict[str, int]:
    return {name: sum(count[name] for count in counts) for name in counts[0]}


def _join_manifests(parts: list[Part], manifests: list[dict[str, Any]]) -> dict[str, Any]:
    first = manifests[0]
    shards = [
        shard | {"file": f"{part.name}/{shard['file']}"}
        for part, manifest in zip(parts, manifests, strict=True)
        for shard in manifest["shards"]
    ]
    return first | {
        "parts": len(parts),
        "documents": sum(m["documents"] for m in manifests),
        "tokens": sum(m["tokens"] for m in manifests),
        "counts": _sums([m["counts"] for m in manifests]),
        "records": _sums([m["records"] for m in manifests]),
        "shards": shards,
    }
