"""Indices over vectors, on FAISS: which documents have the largest inner product with a query. The one door to FAISS.

"exact" compares with every vector and needs no index. "hnsw" walks a graph of neighbours (arXiv 1603.09320) over
vectors of a byte a number. "ivfpq" looks into the lists of the nearest of many centres and compares there with codes
of a byte for eight numbers (arXiv 1102.3828 and Jégou et al., PAMI 2011); its lists stay on the disk, memory-mapped.
The latter two give candidates, which the bank compares again with the vectors themselves.
"""

import contextlib
import dataclasses
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np

Kind = Literal["exact", "hnsw", "ivfpq"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MOST: dict[Kind, int] = {"exact": 10**6, "hnsw": 10**7}  # documents up to which a kind is chosen

LINKS = 32  # of a document in the graph; twice as many on its lowest floor
BUILDING, SEARCHING = 80, 128  # documents that a walk through the graph remembers
NUMBERS = 8  # of a vector, for one byte of its code
PER_LIST = 64  # vectors that a centre is trained on
LEAST = 256  # vectors that codes of a byte can be trained on

FILE, LISTS = "index.faiss", "index.ivfdata"


class Index(Protocol):
    """Search among the documents of one index, whose numbers begin at 0."""

    def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Queries float32 [n, E] → inner products float32 [n, count] and numbers int64 [n, count], -1 for none."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """An index's kind and its sizes, which follow from the number of documents."""

    kind: Kind
    lists: int = 0  # centres
    code: int = 0  # bytes of a document's code
    probes: int = 0  # lists that a search looks into


def plan(documents: int, width: int, kind: Kind | None = None, probes: int = 0) -> Plan:
    """The index for so many documents, of a kind or of the one that suits their number.

    `probes`: lists that a search looks into; 0: as many as found nine of ten on made-up vectors (docs/benchmarks.md).
    ValueError if there are too few documents for codes, or probes for an index without lists.
    """
    suits: Kind = next((k for k, most in MOST.items() if documents <= most), "ivfpq")
    kind = kind or suits
    if kind != "ivfpq":
        if probes:
            raise ValueError(f"an index of the kind {kind} has no lists to look into: leave --probes out")
        return Plan(kind)
    if documents < LEAST:
        raise ValueError(f"an index of codes (ivfpq) needs {LEAST} documents or more, there are {documents}: use exact")
    lists = 1 << int(math.log2(max(1, min(4 * documents**0.5, documents / PER_LIST))))
    code = next(m for m in range(max(1, width // NUMBERS), 0, -1) if width % m == 0)
    return Plan(kind, lists, code, min(lists, probes or max(1, round(4 + lists**0.5 / 10))))


def sample(plan: Plan, documents: int) -> np.ndarray:
    """The documents that an index is trained on, evenly spread, int64 [n]."""
    most = max(PER_LIST * plan.lists, LEAST * LEAST)
    return np.unique(np.linspace(0, documents - 1, min(documents, most)).round().astype(np.int64))


def train(plan: Plan, vectors: np.ndarray) -> Any:
    """An index without documents, trained on vectors float32 [n, E]."""
    import faiss

    width = vectors.shape[1]
    if plan.kind == "hnsw":
        index = faiss.IndexHNSWSQ(width, faiss.ScalarQuantizer.QT_8bit, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = BUILDING
    else:
        # Compared with all centres, which takes less time than the lists do; a graph of centres misses too many.
        centres = faiss.IndexFlatIP(width)
        index = faiss.IndexIVFPQ(centres, width, plan.lists, plan.code, 8, faiss.METRIC_INNER_PRODUCT)
        # Fewer than FAISS would like is the user's choice, and its warning is not in our words.
        index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
        index.own_fields = True
        centres.this.disown()
    index.train(vectors)
    return index


def write(index: Any, path: Path) -> None:
    """Write an index to a file."""
    import faiss

    faiss.write_index(index, str(path))


def read(path: Path) -> Any:
    """Read an index into memory, to add to it; ValueError if there is none or it is damaged."""
    return _read(path, 0)


def merge(parts: list[Path], target: Path) -> None:
    """Put the documents of several ivfpq indices, trained alike, into one in the directory `target`, on the disk."""
    import faiss

    # Mapped with their centres, which every part holds.
    opened = [_read(path, faiss.IO_FLAG_MMAP_IFC) for path in parts]
    lists = [faiss.extract_index_ivf(index).invlists for index in opened]
    whole = _read(parts[0], faiss.IO_FLAG_MMAP)
    inner = faiss.extract_index_ivf(whole)
    joined = faiss.OnDiskInvertedLists(inner.nlist, inner.code_size, str(target / LISTS))
    vector = faiss.InvertedListsPtrVector()
    for one in lists:
        vector.push_back(one)
    with _quiet():
        total = joined.merge_from_multiple(vector.data(), vector.size(), True)
    whole.ntotal = inner.ntotal = total
    inner.replace_invlists(joined, True)
    joined.this.disown()
    write(whole, target / FILE)


class Exact:
    """Every vector compared, in as many files as there are."""

    def __init__(self, parts: list[np.ndarray]) -> None:
        """Parts float32 [documents, E], memory-mapped."""
        self._parts = parts

    def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Index`."""
        import faiss

        metric = faiss.METRIC_INNER_PRODUCT
        return _best(
            [faiss.knn(queries, part, min(count, len(part)), metric) for part in self._parts],
            [len(part) for part in self._parts],
            count,
        )


class Approximate:
    """One index file, or several that are searched one after another; memory-mapped."""

    def __init__(self, paths: list[Path], plan: Plan) -> None:
        """Open the files; ValueError if one is damaged or no such index."""
        import faiss

        flags = faiss.IO_FLAG_MMAP_IFC if plan.kind == "hnsw" else faiss.IO_FLAG_MMAP
        if len(paths) == 1 and (paths[0].parent / LISTS).exists():
            flags = faiss.IO_FLAG_ONDISK_SAME_DIR
        self._parts = [_read(path, flags) for path in paths]
        wanted = faiss.IndexHNSWSQ if plan.kind == "hnsw" else faiss.IndexIVFPQ
        if wrong := [path for path, part in zip(paths, self._parts, strict=True) if not isinstance(part, wanted)]:
            raise ValueError(f"{wrong[0]} is damaged: it holds no {plan.kind} index")
        self._plan = plan
        self.documents = sum(part.ntotal for part in self._parts)

    def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Index`."""
        import faiss

        if self._plan.kind == "hnsw":
            params = faiss.SearchParametersHNSW(efSearch=max(SEARCHING, count))
        else:
            params = faiss.SearchParametersIVF(nprobe=self._plan.probes)
        found = [part.search(queries, min(count, part.ntotal), params=params) for part in self._parts]
        return _best(found, [part.ntotal for part in self._parts], count)


def _best(found: list[tuple[np.ndarray, np.ndarray]], sizes: list[int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """The best `count` of what several indices found, each with numbers of its own from 0 on."""
    if len(found) == 1:
        return found[0]
    firsts = np.cumsum([0, *sizes])
    scores = np.concatenate([score for score, _ in found], axis=1)
    numbers = np.concatenate(
        [np.where(number < 0, -1, number + first) for (_, number), first in zip(found, firsts, strict=False)], axis=1
    )
    order = np.argsort(np.where(numbers < 0, np.inf, -scores), axis=1, kind="stable")[:, :count]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(numbers, order, 1)


def _read(path: Path, flags: int) -> Any:
    import faiss

    try:
        with _quiet():
            return faiss.read_index(str(path), flags)
    except RuntimeError as error:
        reason = str(error).split(": Error: ")[-1].split("\n")[0][:200]
        raise ValueError(f"{path} is damaged or no index ({reason}): build the bank again") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that FAISS prints of files it maps."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
