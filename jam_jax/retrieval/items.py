"""What a store's documents say and show, for an encoder: from their tokens, or from the data that they were made of.

A store's own pictures have gone through its image tokenizer. The data's are better, and must be the same documents in
the same order: their texts are compared with the store's.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jam_jax.data.documents import Document
from jam_jax.data.parts import Part
from jam_jax.data.store import Store
from jam_jax.data.tokenizers import Tokenizer
from jam_jax.tokens import TEXT, TokenSpace

if TYPE_CHECKING:
    from jam_jax.retrieval.encode import Picture

AT_ONCE = 256  # documents


@dataclasses.dataclass(frozen=True)
class Items:
    """Some documents, one after another."""

    texts: list[str]  # of each document, its question included; "" for none
    pictures: "list[Sequence[Picture]]"  # of each document; none where they were left out
    text_last: np.ndarray  # bool [n]: whether it ends in a text


def of_store(store: Store, tokenizer: Tokenizer, numbers: range, *, pictures: bool = True) -> Iterator[Items]:
    """Documents of a store as its tokenizer reads them, in batches; without `pictures` none is decoded."""
    for batch in _batches(store, tokenizer.space, numbers):
        readings = [tokenizer.read_document(ids) for ids in batch]
        codes = [run for reading in readings for run in reading.pictures] if pictures else []
        drawn = iter(tokenizer.decode_codes(np.stack(codes)) if codes else ())
        shown: list[Sequence[Picture]] = [list(itertools.islice(drawn, len(r.pictures))) for r in readings]
        texts = [_joined([r.question, *(run for run in r.runs if isinstance(run, str))]) for r in readings]
        yield Items(texts, shown, _text_last(batch, tokenizer.space))


def of_documents(store: Store, tokenizer: Tokenizer, numbers: range, documents: Iterable[Document]) -> Iterator[Items]:
    """The documents that a store was made of, in batches; `documents` begin with the first of `numbers`.

    ValueError if they are others than the store's, or fewer.
    """
    given, at = iter(documents), numbers.start
    for batch in _batches(store, tokenizer.space, numbers):
        found = list(itertools.islice(given, len(batch)))
        for i, ids in enumerate(batch):
            if i == len(found):
                raise ValueError(f"the source ends before document {at + i} of {len(store)} of {store.directory}")
            _require_same(tokenizer, found[i], ids, f"document {at + i} of {store.directory}")
        texts = [_joined([d.question, *d.texts]) for d in found]
        yield Items(texts, [d.pictures for d in found], _text_last(batch, tokenizer.space))
        at += len(batch)


def numbers_of(store: Store, part: Part) -> range:
    """The documents of one part of a store: those of the store's own part if it was written in as many.

    ValueError if there are more parts than documents.
    """
    if part.of > len(store):
        raise ValueError(f"{store.directory} has {len(store)} documents: {part.of} shards are too many")
    counts = own_parts(store, part.of)
    ends = [0, *itertools.accumulate(counts)] if counts else [len(store) * i // part.of for i in range(part.of + 1)]
    return range(ends[part.index], ends[part.index + 1])


def own_parts(store: Store, parts: int) -> list[int]:
    """The numbers of documents of a store's own parts, if it was written in so many and none is empty; else nothing."""
    if parts == 1 or store.manifest.get("parts") != parts:
        return []
    counts = [0] * parts
    for shard in store.manifest["shards"]:
        counts[int(shard["file"].split("-")[1])] += shard["documents"]
    return counts if all(counts) else []


def _batches(store: Store, space: TokenSpace, numbers: range) -> Iterator[list[np.ndarray]]:
    store.check(space)
    for start in range(numbers.start, numbers.stop, AT_ONCE):
        yield [store[i] for i in range(start, min(start + AT_ONCE, numbers.stop))]


def _text_last(batch: list[np.ndarray], space: TokenSpace) -> np.ndarray:
    return np.array([len(ids) > 1 and space.modality[ids[-2]] == TEXT for ids in batch], bool)


def _joined(texts: Sequence[str]) -> str:
    return " ".join(text.strip() for text in texts if text.strip())


def _require_same(tokenizer: Tokenizer, document: Document, ids: np.ndarray, what: str) -> None:
    """ValueError if a document's texts are not those of its tokens, or its pictures not as many."""
    reading = tokenizer.read_document(ids)
    held = [reading.question, *(run for run in reading.runs if isinstance(run, str))]
    given = [tokenizer.decode_text(tokenizer.encode_text(text)) for text in (document.question, *document.texts)]
    if given != held or len(document.pictures) != len(reading.pictures):
        raise ValueError(
            f"{what} says {_joined(held)[:60]!r}, the source {_joined(given)[:60]!r}: "
            "name the source and the options that the store was made with, or leave --source out"
        )
