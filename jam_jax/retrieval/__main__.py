"""Retrieval: `python -m jam_jax.retrieval embed | train | build | neighbours | merge | search`, stores to banks."""

import dataclasses
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jam_jax import config
from jam_jax.data.settings import ReadSettings

if TYPE_CHECKING:
    from jam_jax.data.parts import Part
    from jam_jax.data.store import Store
    from jam_jax.retrieval.items import Items

SHARD = "0/1"  # the whole


@dataclasses.dataclass(frozen=True)
class Embed(ReadSettings):
    """Write the vectors of a store's documents."""

    clip: str  # model directory of a CLIP
    store: str  # token store
    target: str  # directory of the embeddings
    source: str = ""  # the data that the store was made of, whose pictures are better than its tokens; empty: the store
    split: str = "train"  # of the source
    tokenizer: str = ""  # tokenizer directory; empty: the one the store was made with
    shard: str = SHARD  # I/N: only part I of the parts 0 to N - 1, for N processes; the last to end merges them


@dataclasses.dataclass(frozen=True)
class Train:
    """Train what the shards of an ivfpq bank share: its centres and codes. A bank built in one piece needs it not."""

    embeddings: str  # directory that `embed` wrote
    target: str  # directory of the trained index


@dataclasses.dataclass(frozen=True)
class Build:
    """Build a bank from embeddings."""

    embeddings: str  # directory that `embed` wrote
    target: str  # directory of the bank
    # auto: exact up to a million documents, hnsw up to ten million, ivfpq beyond
    kind: Literal["auto", "exact", "hnsw", "ivfpq"] = "auto"
    probes: int = 0  # lists of an ivfpq bank that a search looks into: more find more and take longer; 0: by its size
    trained: str = ""  # directory that `train` wrote, for the shards of an ivfpq bank
    shard: str = SHARD  # I/N: only part I of the parts 0 to N - 1, for N processes; the last to end merges them

    def __post_init__(self) -> None:
        if self.probes < 0:
            raise ValueError(f"--probes must be 0 (by the number of documents) or more, got {self.probes}")


@dataclasses.dataclass(frozen=True)
class Neighbours(ReadSettings):
    """Write a store's neighbour table: the documents of a bank that training draws from."""

    bank: str  # directory of the bank
    store: str  # token store whose documents ask; the bank's own, or another with the same tokenizer
    target: str  # directory of the table
    queries: int = 4  # made of each document, by dropping other tokens: what is drawn changes with the epochs
    count: int = 4  # documents kept for each query, at most
    dropout: float = 0.2  # share of a query's tokens that are dropped
    limit: float = 0.9  # scores above which two documents are the same one
    by: Literal["both", "text"] = "both"  # what of a document asks: text and pictures, or its text alone
    seed: int = 0
    source: str = ""  # the data that the store was made of; empty: the store
    split: str = "train"  # of the source
    clip: str = ""  # the CLIP that made the bank, if it has moved
    tokenizer: str = ""  # tokenizer directory; empty: the one the store was made with
    shard: str = SHARD  # I/N: only part I of the parts 0 to N - 1, for N processes; the last to end merges them

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queries < 1 or self.count < 1:
            raise ValueError(f"--queries and --count must be at least 1, got {self.queries} and {self.count}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"--dropout is a share from 0 to less than 1, got {self.dropout}")
        config.check_seed(self.seed)


@dataclasses.dataclass(frozen=True)
class Merge:
    """Put the shards of embeddings, a bank or a neighbour table together, if the last process did not."""

    target: str  # the directory that they were written to; may be given first, without --target


@dataclasses.dataclass(frozen=True)
class Search:
    """Find the documents of a bank that are like a text, a picture, or both: a table, and a page of their pictures."""

    bank: str  # directory of the bank; may be given first, without --bank
    text: str = ""  # may be given second, without --text
    picture: str = ""  # a picture file
    count: int = 8  # documents, at most
    html: str = ""  # page to write; empty: a new one, runs/search-N.html
    clip: str = ""  # the CLIP that made the bank, if it has moved
    tokenizer: str = ""  # tokenizer directory; empty: the one the bank's store was made with
    check: bool = False  # read the whole bank first and compare its checksums

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"--count must be at least 1, got {self.count}")
        if not self.text.strip() and not self.picture:
            raise ValueError(
                'there is nothing to search for: give a text (search BANK "a red circle") or --picture FILE'
            )
        if self.picture and not Path(self.picture).is_file():
            raise ValueError(f"there is no picture file {self.picture}")


def embed(options: Embed) -> None:
    """The `embed` command."""
    from jam_jax.data.parts import Part
    from jam_jax.data.store import Store
    from jam_jax.retrieval import embed as embedding
    from jam_jax.retrieval import items, pieces, vectors
    from jam_jax.retrieval.encode import Encoder

    part, store = Part.parse(options.shard), Store(options.store)
    numbers = items.numbers_of(store, part)
    found = _items(options, store, part, numbers)
    embedding.embed(options.target, store, Encoder(options.clip), found, numbers, part)
    if absent := pieces.missing(options.target):
        print(f"{options.target}: {len(absent)} of {part.of} shards are not there yet")
        return
    made = vectors.merge(options.target)
    print(f"{options.target}: {len(made)} vectors of {made.vectors.width} numbers")


def _items(options: Embed | Neighbours, store: "Store", part: "Part", numbers: range) -> "Iterable[Items]":
    """The documents of a store, or those of its source, as options say."""
    from itertools import islice

    from jam_jax.data import formats
    from jam_jax.retrieval import items
    from jam_jax.retrieval.sheet import tokenizer_of

    tokenizer = tokenizer_of(store, options.tokenizer)
    if not options.source:
        only_texts_ask = isinstance(options, Neighbours) and options.by == "text"
        return items.of_store(store, tokenizer, numbers, pictures=not only_texts_ask)
    source = formats.open_source(options.source, options.split, options)
    print(f"{source.name}: taken for {source.taken_for}")
    # A store that was written in as many shards has its own boundaries, and reading begins there.
    if items.own_parts(store, part.of):
        documents = source.documents(part.index, part.of, check=tokenizer.check)
    else:
        documents = islice(source.documents(check=tokenizer.check), numbers.start, None)
    return items.of_documents(store, tokenizer, numbers, documents)


def train(options: Train) -> None:
    """The `train` command."""
    from jam_jax.retrieval import bank
    from jam_jax.retrieval.vectors import Embeddings

    plan = bank.train_index(options.target, Embeddings(options.embeddings))
    print(f"{options.target}: {plan.lists} lists, {plan.code} bytes a document")


def build(options: Build) -> None:
    """The `build` command."""
    from jam_jax.data.parts import Part
    from jam_jax.retrieval import bank, pieces
    from jam_jax.retrieval.vectors import Embeddings

    kind = None if options.kind == "auto" else options.kind
    part = Part.parse(options.shard)
    bank.build(options.target, Embeddings(options.embeddings), kind, part, options.trained, options.probes)
    if absent := pieces.missing(options.target):
        print(f"{options.target}: {len(absent)} of {part.of} shards are not there yet")
    else:
        _tell(bank.merge(options.target))


def _tell(found: Any) -> None:
    print(f"{found.directory}: a bank of {len(found)} documents, {found.plan.kind}")


def neighbours(options: Neighbours) -> None:
    """The `neighbours` command."""
    from jam_jax.data import neighbours as neighbour_tables
    from jam_jax.data.parts import Part
    from jam_jax.data.retrieved import separates_texts
    from jam_jax.data.store import Store
    from jam_jax.retrieval import items, table
    from jam_jax.retrieval.bank import Bank
    from jam_jax.retrieval.sheet import tokenizer_of

    part, store, bank = Part.parse(options.shard), Store(options.store), Bank(options.bank)
    if (Path(options.target) / "manifest.json").exists():
        raise ValueError(f"{options.target} already exists: remove it or choose another target")
    space = tokenizer_of(store, options.tokenizer).space
    bank.store().check(space)
    numbers = items.numbers_of(store, part)
    names = ("queries", "count", "dropout", "limit", "by", "seed")
    settings: dict[str, Any] = {name: getattr(options, name) for name in names}
    found = _items(options, store, part, numbers)
    encoder = bank.encoder(options.clip)
    last = not separates_texts(space)
    batches = table.rows(bank, encoder, store, found, numbers, **settings, picture_last=last)
    if table.write(options.target, store, bank, batches, part, settings):
        count, without = neighbour_tables.Neighbours(options.target, store).counted()
        found_none = f", {without} of them without any" if without else ""
        print(f"{options.target}: {count:.1f} neighbours of each of {len(store)} documents in the mean{found_none}")


def merge(options: Merge) -> None:
    """The `merge` command."""
    from jam_jax.retrieval import bank, pieces, table, vectors

    target = Path(options.target)
    if table.is_shards(target):
        table.merge(target)
        print(f"{target}: a neighbour table")
        return
    what = pieces.whole(target, ("what",))[0][1].get("what")
    if what == "bank":
        _tell(bank.merge(target))
    elif what == "embeddings":
        print(f"{target}: {len(vectors.merge(target))} vectors")
    else:
        raise ValueError(f"{target} holds shards of something else than embeddings, a bank or a neighbour table")


def search(options: Search) -> None:
    """The `search` command."""
    from jam_jax.retrieval import sheet
    from jam_jax.retrieval.bank import Bank

    bank = Bank(options.bank)
    if options.check:
        bank.verify()
    store = bank.store()
    tokenizer = sheet.tokenizer_of(store, options.tokenizer)
    pictures = [Path(options.picture).read_bytes()] if options.picture else []
    query = bank.encoder(options.clip).documents([options.text], [pictures])
    numbers, scores = bank.search(query, options.count)
    found = zip(numbers[0].tolist(), scores[0].tolist(), strict=True)
    hits = sheet.read_hits(tokenizer, [(number, score, store[number]) for number, score in found if number >= 0])
    asked = " and ".join(filter(None, (options.text.strip(), options.picture)))
    sheet.show(hits, asked)
    if len(hits) < options.count:
        print(f"{options.bank} has {len(bank)} documents, fewer than the {options.count} asked for")
    path = Path(options.html) if options.html else _new_page()
    path.parent.mkdir(parents=True, exist_ok=True)
    note = f"{len(hits)} of {len(bank)} documents of {options.bank} ({bank.plan.kind})"
    config.write_whole(path, sheet.contact_sheet(hits, asked, note))
    print(f"page: {path}")


def _new_page() -> Path:
    number = 1
    while (path := Path("runs") / f"search-{number}.html").exists():
        number += 1
    return path


def main(args: Sequence[str] | None = None) -> None:
    """The command."""
    args = _named(list(sys.argv[1:] if args is None else args))
    options = config.cli(
        Embed | Train | Build | Neighbours | Merge | Search,
        args,
        prog="python -m jam_jax.retrieval",
        description=__doc__ or "",
    )
    commands: dict[type, Any] = {
        Embed: embed,
        Train: train,
        Build: build,
        Neighbours: neighbours,
        Merge: merge,
        Search: search,
    }
    commands[type(options)](options)


def _named(args: list[str]) -> list[str]:
    """Arguments with the names of those that may be given by their place: `search BANK "a red circle"`."""
    places = {"merge": ["--target"], "search": ["--bank", "--text"]}.get(args[0], []) if args else []
    at = 1
    for name in places:
        if at >= len(args) or args[at].startswith("-"):
            break
        args[at : at + 1] = [f"{name}={args[at]}"]
        at += 1
    return args


if __name__ == "__main__":
    config.run(main)
