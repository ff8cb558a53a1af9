"""Documents to measure on, and which of them each process reads: a store's, a dataset's, or a list's.

Shares are for groups of processes (`scoring.group`); share i of n is the same whoever reads it.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from jam_jax.data import retrieved
from jam_jax.data.documents import Document
from jam_jax.data.formats.source import Source
from jam_jax.data.neighbours import Neighbours
from jam_jax.data.store import Store
from jam_jax.data.tokenizers import Tokenizer
from jam_jax.retrieval.choose import LIMIT
from jam_jax.tokens import TEXT, TokenSpace

NOTHING = np.empty(0, np.int32)  # no context


class Records(Protocol):
    """Records of ids by number, int32 [n] each, as a store has them: no leading `</s>`, a closing one."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Share:
    """The documents of one group of processes, read when they are asked for, each perhaps several times."""

    count: int
    read: Callable[[int], tuple[np.ndarray, np.ndarray]]  # its record, and the ids that stand before it
    first: int | None = None  # number of its first document among all; None: follows from the counts of those before
    step: int = 1  # from one of its documents to the next


Documents = Callable[[int, int], Share]  # (index, of) → share; ValueError or OSError where one cannot be read


def of_records(
    records: Records, contexts: Callable[[int], np.ndarray] | None = None, count: int | None = None
) -> Documents:
    """The first `count` of some records, which all processes have: every `of`th is of a share.

    `contexts` gives the ids that stand before a record, after the start of its document; they are read and are no
    targets: retrieved documents.
    """
    total = len(records) if count is None else min(count, len(records))

    def share(index: int, of: int) -> Share:
        def read(i: int) -> tuple[np.ndarray, np.ndarray]:
            number = index + i * of
            return records[number], NOTHING if contexts is None else contexts(number)

        return Share(len(range(index, total, of)), read, index, of)

    return share


def neighbours(
    directory: str, store: Store, space: TokenSpace, most: int, positions: int
) -> Callable[[int], np.ndarray]:
    """What stands before each document of a store: those of its neighbour table, as many as fit, `most` at most.

    ValueError if the table is damaged, of another store, or of a bank of another tokenizer.
    """
    table = Neighbours(directory, store)
    table.bank.check(space)

    def before(i: int) -> np.ndarray:
        chosen = table.choose(np.array([i]), 0, most, LIMIT)[0].tolist()
        room = positions - int(store.lengths[i, 0])
        return retrieved.before(space, (table.bank[n] for n in chosen if n >= 0), room)

    return before


def of_source(source: Source, tokenizer: Tokenizer, limit: int = 0) -> Documents:
    """The documents of a dataset, tokenized when a share is asked for, and held in memory.

    A share is an unbroken part of the dataset, of which nothing else is read; or, of the first `limit` documents,
    every `of`th, for which all of these are read.
    """

    def share(index: int, of: int) -> Share:
        documents: Iterator[Document]
        if limit:
            documents = itertools.islice(source.documents(check=tokenizer.check), limit)
            documents = itertools.islice(documents, index, None, of)
        else:
            documents = source.documents(index, of, check=tokenizer.check)
        held = [ids for ids, _ in tokenizer.encode_documents(documents)]

        def read(i: int) -> tuple[np.ndarray, np.ndarray]:
            return held[i], NOTHING

        return Share(len(held), read, *((index, of) if limit else (None, 1)))

    return share


def text_bytes(tokenizer: Tokenizer) -> Callable[[np.ndarray], int]:
    """A function: ids of a record → bytes in UTF-8 of its texts, each unbroken run of text ids decoded by itself."""
    is_text = (tokenizer.space.modality == TEXT).astype(np.int8)

    def count(ids: np.ndarray) -> int:
        edges = np.flatnonzero(np.diff(is_text[ids], prepend=0, append=0)).reshape(-1, 2)
        return sum(len(tokenizer.decode_text(ids[a:b]).encode()) for a, b in edges.tolist())

    return count
