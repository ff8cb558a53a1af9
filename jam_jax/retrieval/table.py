"""Neighbour tables: for every document of a store, the documents of a bank that training then draws from.

The format is `data.neighbours`'; written by one process, or each shard by a process of its own. A shard holds what the
whole would hold there: what is dropped from a query depends on its document alone.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from jam_jax import progress
from jam_jax.data import neighbours
from jam_jax.data.neighbours import DROPOUT, NONE
from jam_jax.data.parts import Part
from jam_jax.data.store import Store
from jam_jax.retrieval import pieces
from jam_jax.retrieval.bank import Bank
from jam_jax.retrieval.choose import LIMIT
from jam_jax.retrieval.encode import Encoder, unit
from jam_jax.retrieval.items import Items

By = Literal["both", "text"]  # what of a document is the query
Rows = tuple[np.ndarray, np.ndarray]


def rows(
    bank: Bank,
    encoder: Encoder,
    store: Store,
    items: Iterable[Items],
    numbers: range,
    *,
    queries: int,
    count: int,
    dropout: float = DROPOUT,
    limit: float = LIMIT,
    by: By = "both",
    seed: int = 0,
    picture_last: bool = False,
) -> Iterator[Rows]:
    """What a table holds of the documents `numbers`: neighbours' numbers and scores, [n, queries, count] both.

    The strategy is applied to all `count`, so that the first of them are what it would take alone. A query without text
    is its pictures alone, and one without anything (by text only) has no neighbours.
    """
    bank.check(encoder)
    own = bank.store().identity == store.identity
    at = numbers.start
    with progress.bar("neighbours", len(numbers)) as advance:
        for batch in items:
            size = len(batch.texts)
            tokens = encoder.tokenizer.encode(batch.texts, encoder.config.context)
            said = np.array([bool(text.strip()) for text in batch.texts])
            seen = encoder.means(batch.pictures) if by == "both" else np.zeros((size, encoder.width), np.float32)
            found = np.full((size, queries, count), NONE, np.int64)
            scores = np.full((size, queries, count), -np.inf, np.float32)
            for query in range(queries):
                rngs = [np.random.default_rng((seed, at + i, query)) for i in range(size)] if dropout else []
                asked = encoder.dropped(tokens, dropout, rngs) if dropout else tokens
                vectors = unit(np.where(said[:, None], encoder.rows(asked), 0) + seen).astype(np.float32)
                some = np.flatnonzero(vectors.any(axis=1))
                without = at + some if own else None
                which, score = bank.retrieve(
                    vectors[some], count, limit=limit, without=without, picture_last=picture_last
                )
                found[some, query] = np.where(which < 0, NONE, which)
                scores[some, query] = score
            yield found, scores
            at += size
            advance(size)


def write(target: str | Path, store: Store, bank: Bank, batches: Iterable[Rows], part: Part, settings: dict) -> bool:
    """Write a table, or one shard of it; gives whether the table is whole now.

    Shards lie in a directory beside the table's, `NAME.shards`, which is of no use when the table is there.
    """
    target = Path(target)
    if part.of == 1:
        neighbours.write(target, store, bank.store(), batches, query_dropout=settings["dropout"])
        return True
    shards = _shards(target)
    shared = {
        "what": "neighbours",
        "store": store.identity,
        "bank": bank.store().identity,
        "encoder": bank.fingerprint,
        "settings": settings,
    }

    def fill(aside: Path) -> dict:
        held = list(batches)
        for i, name in enumerate(("documents", "scores")):
            np.save(aside / f"{name}.npy", np.concatenate([batch[i] for batch in held]).astype(("<u4", "<f2")[i]))
        return {"paths": {"store": str(store.directory.resolve()), "bank": str(bank.directory.resolve())}}

    pieces.write(shards, part, shared, fill)
    if absent := pieces.missing(shards):
        print(f"{target}: {len(absent)} of {part.of} shards are not there yet")
        return False
    if not (target / "manifest.json").is_file():
        merge(target)
    return True


def merge(target: str | Path) -> None:
    """Make a neighbour table of its shards; ValueError if one is missing or differs."""
    shards = _shards(Path(target))
    held = pieces.whole(shards, ("store", "bank", "encoder", "settings"))
    paths, settings = held[0][1]["paths"], held[0][1]["settings"]
    store, bank = Store(paths["store"]), Bank(paths["bank"]).store()

    def batches() -> Iterator[Rows]:
        for part, _ in held:
            files = pieces.read(shards / part.name, "shard", "write it again")["files"]
            yield tuple(np.load(shards / part.name / name, mmap_mode="r") for name in sorted(files))

    neighbours.write(target, store, bank, batches(), query_dropout=settings["dropout"])


def is_shards(target: str | Path) -> bool:
    """Whether shards of a neighbour table lie beside a directory."""
    return any(_shards(Path(target)).glob("part-*-of-*/manifest.json"))


def _shards(target: Path) -> Path:
    return target.with_name(f"{target.name}.shards")
