"""The memory bank: documents that can be found by their vectors. `build` makes it, `Bank` opens it memory-mapped.

A directory in parts (`pieces`): the vectors of its documents, float32 where every one is compared and float16 where an
index gives candidates, the index, and a manifest.json with the encoder's fingerprint, the store whose documents they
are, the metric, the counts, and the sizes and checksums of all files. It needs the embeddings that it was built from
no more.
"""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jam_jax import progress
from jam_jax.data.parts import Part
from jam_jax.data.store import Store
from jam_jax.retrieval import index as indices
from jam_jax.retrieval import pieces
from jam_jax.retrieval.choose import COUNT, LIMIT, choose
from jam_jax.retrieval.encode import Encoder
from jam_jax.retrieval.index import Kind, Plan
from jam_jax.retrieval.vectors import SHARED, Embeddings, Vectors, join, named, write_part

METRIC = "inner product of vectors of length 1"
CANDIDATES = 64  # of an index, at least, that are compared again
DEEPEST = 1 << 16  # candidates that are looked at for a query, at most
ROWS = 1 << 16  # vectors that are added at once
HELD = 1 << 22  # candidates of several queries whose numbers and scores are held at once
CACHED = 1 << 18  # numbers of candidates' vectors that stay in a processor's cache
BUILD = "build it again with python -m jam_jax.retrieval build"
NONE = -1  # in place of a document's number


class Bank:
    """A memory bank, open for searching."""

    def __init__(self, directory: str | Path) -> None:
        """Open a bank; ValueError if there is none, or if it is damaged or empty (`verify` reads it all)."""
        self.directory = Path(directory)
        self.manifest = pieces.read(self.directory, "bank", BUILD)
        try:
            self.plan = Plan(**self.manifest["index"])
            self.fingerprint: str = self.manifest["encoder"]["fingerprint"]
            self._store = self.manifest["store"]["path"], self.manifest["store"]["identity"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{directory} is no bank: {BUILD}") from error
        self.vectors = Vectors(self.directory, self.manifest)
        self._index: indices.Index
        if self.plan.kind == "exact":
            self._index = indices.Exact(self.vectors.parts)
        else:
            merged = (self.directory / indices.FILE).exists()
            where = [self.directory] if merged else [self.directory / name for name in self.manifest["parts"]]
            self._index = indices.Approximate([path / indices.FILE for path in where], self.plan)
            if self._index.documents != len(self):
                raise ValueError(f"bank {directory} is damaged (its index has another number of documents): {BUILD}")

    def __len__(self) -> int:
        return len(self.vectors)

    def verify(self) -> None:
        """Read every byte; ValueError names a file whose checksum is wrong."""
        if wrong := pieces.damaged(self.directory, self.manifest["files"]):
            raise ValueError(f"bank {self.directory} is damaged ({wrong[0]} is not what was written): {BUILD}")

    def store(self) -> Store:
        """The store whose documents it holds; ValueError if it is gone or another."""
        path, identity = self._store
        store = Store(self.directory / path)
        if store.identity != identity:
            raise ValueError(f"bank {self.directory} was made of another store than {store.directory}: {BUILD}")
        return store

    def encoder(self, directory: str | Path = "") -> Encoder:
        """The CLIP that made its vectors, or that of `directory`; ValueError if it is another."""
        encoder = Encoder(directory or self.directory / self.manifest["encoder"]["path"])
        self.check(encoder)
        return encoder

    def check(self, encoder: Encoder) -> None:
        """ValueError if its vectors were made by another encoder."""
        if encoder.fingerprint != self.fingerprint:
            raise ValueError(
                f"bank {self.directory} was made with another encoder (fingerprint {self.fingerprint}) than "
                f"{encoder.directory} ({encoder.fingerprint}): name the one it was made with, or build the bank again"
            )

    def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The most similar documents: queries float32 [n, E] of length 1 → numbers int64 and scores float32 [n, count].

        The most similar first, and of equals the one with the lower number; NONE and -inf where there are fewer.
        """
        self._require(queries)
        numbers = np.full((len(queries), count), NONE, np.int64)
        scores = np.full((len(queries), count), -np.inf, np.float32)
        for rows in self._chunks(len(queries), count):
            found, score = self._candidates(queries[rows], count)
            numbers[rows, : found.shape[1]], scores[rows, : found.shape[1]] = found, score
        return numbers, scores

    def retrieve(
        self,
        queries: np.ndarray,
        count: int = COUNT,
        *,
        limit: float = LIMIT,
        without: np.ndarray | None = None,
        picture_last: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The documents that the strategy (`choose`) takes: as `search`, fewer than `count` where fewer qualify.

        `without` int [n]: the number of each query's own document, never taken, or -1. `picture_last`: only documents
        that do not end in a text. If too few of the nearest qualify more are looked at, up to DEEPEST.
        """
        self._require(queries)
        own = np.full(len(queries), NONE) if without is None else without
        numbers = np.full((len(queries), count), NONE, np.int64)
        scores = np.full((len(queries), count), -np.inf, np.float32)
        waiting = np.arange(len(queries))
        depth, most = max(32, 8 * count), min(len(self), DEEPEST)
        while len(waiting):
            depth = min(depth, most)
            left = []
            for chunk in self._chunks(len(waiting), depth):
                rows = waiting[chunk]
                found, score = self._candidates(queries[rows], depth)
                open_ = (found != NONE) & (found != own[rows, None])
                if picture_last:
                    open_ &= ~self.vectors.text_last(np.maximum(found, 0))
                place = self._choose(found, np.where(open_, score, -np.inf), count, limit)
                numbers[rows] = np.where(place >= 0, np.take_along_axis(found, place, 1), NONE)
                scores[rows] = np.where(place >= 0, np.take_along_axis(score, place, 1), -np.inf)
                # What scores as little as the last candidate may have equals that are no candidates.
                least = np.where(found[:, -1] == NONE, -np.inf, score[:, -1] + TIE)
                left.append(rows[(scores[rows, -1] <= least) & (least > -np.inf)])
            waiting = np.concatenate(left) if depth < most else waiting[:0]
            depth *= 4
        return numbers, scores

    def _candidates(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and scores [n, C] of the nearest documents, in order; C is `count` or what there is."""
        found = self._index.search(queries, min(self._compared(count), len(self)))[1]
        if found.max(initial=NONE) >= len(self):
            raise ValueError(f"bank {self.directory} is damaged (its index names documents that it lacks): {BUILD}")
        scores = np.empty(found.shape, np.float32)
        for rows, vectors in self._vectors(found):
            # In float64, so that equal vectors score equally whatever their place in a matrix product was.
            scores[rows] = np.einsum("nce,ne->nc", vectors, queries[rows].astype(np.float64))
        scores[found == NONE] = -np.inf
        order = np.lexsort((found, -scores), axis=1)[:, :count]
        return np.take_along_axis(found, order, 1), np.take_along_axis(scores, order, 1)

    def _choose(self, found: np.ndarray, scores: np.ndarray, count: int, limit: float) -> np.ndarray:
        """As `choose`, of documents int [n, C]."""
        return np.concatenate([choose(scores[rows], held, count, limit) for rows, held in self._vectors(found)])

    def _vectors(self, found: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Vectors of candidates int [n, C], float64 [few, C, E]: of so few queries that they stay in the cache."""
        step = max(1, CACHED // (found.shape[1] * self.vectors.width))
        for start in range(0, len(found), step):
            rows = slice(start, start + step)
            yield rows, self.vectors.take(np.maximum(found[rows], 0), np.float64)

    def _compared(self, count: int) -> int:
        """How many documents are compared again for the best `count`; an exact search has compared them all."""
        return count if self.plan.kind == "exact" else max(CANDIDATES, 4 * count)

    def _chunks(self, queries: int, count: int) -> Iterator[slice]:
        step = max(1, HELD // self._compared(count))
        return (slice(i, i + step) for i in range(0, queries, step))

    def _require(self, queries: np.ndarray) -> None:
        if queries.ndim != 2 or queries.shape[1] != self.vectors.width:
            raise ValueError(
                f"queries of bank {self.directory} are [n, {self.vectors.width}], got {list(queries.shape)}"
            )


TIE = 1e-6  # of scores that may be equal but for rounding


def build(
    target: str | Path,
    embeddings: Embeddings,
    kind: Kind | None = None,
    part: Part = Part(0, 1),
    trained: str | Path = "",
    probes: int = 0,
) -> None:
    """Write one part of a bank of all documents of `embeddings`; `merge` makes the bank of the parts.

    `trained` is the directory of `train_index`, which the parts of an ivfpq index share; a bank in one part trains its
    own. ValueError for what the user can mend.
    """
    target, source = Path(target), embeddings.vectors
    plan = indices.plan(len(source), source.width, kind, probes)
    if part.of > len(source):
        raise ValueError(f"{embeddings.directory} has {len(source)} documents: {part.of} shards are too many")
    if plan.kind == "ivfpq" and part.of > 1 and not trained:
        raise ValueError(
            "the shards of an ivfpq index share its centres: make them once with python -m jam_jax.retrieval train, "
            "and name them with --trained"
        )
    if trained and plan.kind != "ivfpq":
        raise ValueError(f"an index of the kind {plan.kind} shares nothing among shards: leave --trained out")
    centres = _open_trained(Path(trained), embeddings, plan) if trained else None
    start, stop = len(source) * part.index // part.of, len(source) * (part.index + 1) // part.of
    about = embeddings.manifest
    shared = {
        "what": "bank",
        "metric": METRIC,
        "width": source.width,
        "documents": len(source),
        "index": dataclasses.asdict(plan),
        **{name: about[name] | {"path": _moved(embeddings, about[name], target)} for name in ("encoder", "store")},
    }

    def fill(aside: Path) -> dict:
        made = None
        if plan.kind == "hnsw":
            made = indices.train(plan, source.take(indices.sample(plan, stop - start) + start))
        elif plan.kind == "ivfpq":
            made = centres if centres is not None else indices.train(plan, _sampled(plan, source))

        def batches() -> Iterator[np.ndarray]:
            with progress.bar(f"build {target.name}", stop - start) as advance:
                for at in range(start, stop, ROWS):
                    batch = source.rows(at, min(at + ROWS, stop))
                    if made is not None:
                        made.add(batch)
                    yield batch
                    advance(len(batch))

        kept = "<f4" if plan.kind == "exact" else "<f2"
        last = [source.text_last(np.arange(start, stop))]
        write_part(aside, batches(), last, kept, (stop - start, source.width))
        if made is not None:
            indices.write(made, aside / indices.FILE)
        return {"first": start}

    pieces.write(target, part, shared, fill)


def train_index(target: str | Path, embeddings: Embeddings) -> Plan:
    """Train the centres and codes that the shards of an ivfpq bank of `embeddings` share; gives their plan."""
    from jam_jax.checkpoint import new_directory

    plan = indices.plan(len(embeddings), embeddings.vectors.width, "ivfpq")
    with new_directory(target) as aside:
        indices.write(indices.train(plan, _sampled(plan, embeddings.vectors)), aside / indices.FILE)
        pieces.save(aside, {"what": "trained index", "index": _trained(plan), **_of(embeddings)})
    return plan


def merge(directory: str | Path) -> Bank:
    """Make one bank of all its parts: the lists of an ivfpq index become one file; other indices stay as they are."""
    directory = Path(directory)
    held = pieces.whole(directory, (*SHARED, "index"))
    files: pieces.Manifest = {}
    if held[0][1]["index"]["kind"] == "ivfpq" and len(held) > 1:
        # The parts' own indices are of no more use, and may be removed.
        for _, manifest in held:
            del manifest["files"][indices.FILE]
        paths = [directory / part.name / indices.FILE for part, _ in held]
        aside = directory / ".merging"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        indices.merge(paths, aside)
        for name in (indices.FILE, indices.LISTS):
            files[name] = pieces.fingerprint((aside / name).rename(directory / name))
        aside.rmdir()
    join(directory, held, files)
    return Bank(directory)


def _sampled(plan: Plan, source: Vectors) -> np.ndarray:
    return source.take(indices.sample(plan, len(source)))


def _of(embeddings: Embeddings) -> dict[str, Any]:
    """What tells these embeddings from others."""
    held = embeddings.manifest
    return {"encoder": held["encoder"]["fingerprint"], "store": held["store"]["identity"]}


def _trained(plan: Plan) -> dict[str, Any]:
    """What training decides of a plan: how many lists a search looks into it does not."""
    return {name: value for name, value in dataclasses.asdict(plan).items() if name != "probes"}


def _open_trained(trained: Path, embeddings: Embeddings, plan: Plan) -> Any:
    manifest = pieces.read(trained, "trained index", "make it with python -m jam_jax.retrieval train")
    expected = {"what": "trained index", "index": _trained(plan), **_of(embeddings)}
    if wrong := [name for name, value in expected.items() if manifest.get(name) != value]:
        raise ValueError(f"{trained} was trained with another {wrong[0]} than {embeddings.directory}: train it again")
    return indices.read(trained / indices.FILE)


def _moved(embeddings: Embeddings, about: dict[str, Any], target: Path) -> str:
    """A path that the embeddings' manifest names, as the bank's names it."""
    return named(embeddings.directory / about["path"], target)
