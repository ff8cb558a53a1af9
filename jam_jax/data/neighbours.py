"""Neighbour tables: which documents of a bank may go before each document of a store, found once, chosen from later.

A directory with, for each document of the store and each of several queries made of it, up to K documents of the bank,
the most similar first:

- `documents.npy`, uint32 [documents, queries, K]: their numbers in the bank, NONE where there are fewer;
- `scores.npy`, float16 of the same shape: the inner product of the query's and the document's normalised embeddings;
- `manifest.json`: `store` and `bank`, each with its `identity` and its `path` from here; `query_dropout`.

The queries of a document are the document's own text and picture, from each of which another `query_dropout` of the
text's tokens was left out (`drop`), so that epochs see different neighbours (arXiv 2211.12561 section 3.2). Documents
of one query that are near-duplicates of each other are the writer's to leave out, since only it holds embeddings;
those too similar to the query stay in the table and are skipped here, by their score.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from jam_jax.data.store import Store

NONE = 2**32 - 1  # in place of a document's number
DROPOUT = 0.2  # of the query's tokens
Rows = tuple[np.ndarray, np.ndarray]  # documents and scores, [n, queries, K] both


class Neighbours:
    """A neighbour table, open for reading; `bank` is the store that its documents are in."""

    def __init__(self, directory: str | Path, store: Store) -> None:
        """Open the table of `store`; ValueError if it is none, damaged, or of another store or bank."""
        self.directory = Path(directory)
        path = self.directory / "manifest.json"
        if not path.is_file():
            raise ValueError(f"{directory} is no neighbour table: it has no manifest.json")
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            made_for, bank = manifest["store"]["identity"], manifest["bank"]
            bank_directory, bank_identity = self.directory / bank["path"], bank["identity"]
            self._map()
        except (ValueError, OSError, KeyError, TypeError) as error:
            raise ValueError(f"neighbour table {directory} is damaged ({error}): write it again") from error
        shape = self._documents.shape
        if len(shape) != 3 or shape != self._scores.shape or 0 in shape[1:]:
            raise ValueError(f"neighbour table {directory} is damaged (its arrays' shapes are wrong): write it again")
        if made_for != store.identity or shape[0] != len(store):
            raise ValueError(f"neighbour table {directory} was made for another store than {store.directory}")
        try:
            self.bank = Store(bank_directory)
        except ValueError as error:
            raise ValueError(f"the bank of neighbour table {directory} cannot be opened: {error}") from error
        if self.bank.identity != bank_identity:
            raise ValueError(f"neighbour table {directory} was made with another bank than {self.bank.directory}")
        self._is_bank = bank_identity == made_for

    @property
    def queries(self) -> int:
        """How many queries were made of each document."""
        return self._documents.shape[1]

    def counted(self) -> tuple[float, int]:
        """How many neighbours a document's first query has in the mean, and how many documents have none."""
        counts = (self._documents[:, 0] != NONE).sum(axis=1)
        return float(counts.mean()), int((counts == 0).sum())

    def choose(self, documents: np.ndarray, query: int, count: int, limit: float) -> np.ndarray:
        """The best `count` neighbours of each document, int [n] → int64 [n, count], -1 where there are fewer.

        Documents that score above `limit` against the query, and the document itself, are skipped.
        """
        found = self._documents[documents, query].astype(np.int64)
        good = (found != NONE) & (self._scores[documents, query] <= limit)
        if self._is_bank:
            good &= found != documents[:, None]
        place = np.where(good, good.cumsum(axis=1), 0)
        chosen = np.full((len(documents), count), -1, np.int64)
        for k in range(count):
            row, column = np.nonzero(place == k + 1)
            chosen[row, k] = found[row, column]
        return chosen

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k not in ("_documents", "_scores")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ |= state
        self._map()

    def _map(self) -> None:
        self._documents, self._scores = (
            np.asarray(np.load(self.directory / f"{name}.npy", mmap_mode="r")) for name in ("documents", "scores")
        )


def write(
    directory: str | Path, store: Store, bank: Store, rows: Iterable[Rows], *, query_dropout: float = DROPOUT
) -> None:
    """Write the neighbour table of `store` from the rows of its documents, in their order and in batches of any size.

    ValueError if the directory holds something, if the rows do not fit one another or the store, or if there is a
    document that the bank lacks; then nothing is written.
    """
    from jam_jax.checkpoint import new_directory

    directory = Path(directory)
    shape: tuple[int, ...] = ()
    count = 0
    with new_directory(directory) as aside:
        with (aside / "documents.npy").open("wb") as numbers, (aside / "scores.npy").open("wb") as scores:
            for found, score in rows:
                if found.ndim != 3 or found.shape != score.shape or shape not in ((), found.shape[1:]):
                    raise ValueError(f"rows are [n, queries, K], got {found.shape} and {score.shape} after {shape}")
                if (strange := found[(found != NONE) & ((found < 0) | (found >= len(bank)))]).size:
                    raise ValueError(f"the bank {bank.directory} has {len(bank)} documents, there is no {strange[0]}")
                for file, values, kind in ((numbers, found, "<u4"), (scores, score, "<f2")):
                    if not shape:
                        about = {"descr": kind, "fortran_order": False, "shape": (len(store), *found.shape[1:])}
                        np.lib.format.write_array_header_1_0(file, about)
                    file.write(values.astype(kind).tobytes())
                shape, count = found.shape[1:], count + len(found)
        if count != len(store):
            raise ValueError(f"the store {store.directory} has {len(store)} documents, got the rows of {count}")
        told = {
            name: {"path": os.path.relpath(s.directory.resolve(), directory.resolve()), "identity": s.identity}
            for name, s in (("store", store), ("bank", bank))
        }
        text = json.dumps(told | {"query_dropout": query_dropout}, indent=1) + "\n"
        (aside / "manifest.json").write_text(text, encoding="utf-8")


def drop(rng: np.random.Generator, tokens: np.ndarray, share: float = DROPOUT) -> np.ndarray:
    """A query's tokens without a random `share` of them (to the nearest whole token), in their order."""
    kept = rng.choice(len(tokens), len(tokens) - round(share * len(tokens)), replace=False)
    return tokens[np.sort(kept)]
