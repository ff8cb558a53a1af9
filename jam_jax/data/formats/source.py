"""One split of a user's data, read record by record: which shard has which, and what becomes of damaged ones."""

import dataclasses
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from jam_jax.data.documents import Document

TOLD = 5  # damaged records that are told one by one
# Of a stream, whose length is not known, the share of damaged records is judged as if it were at least as long as this.
PATIENCE = 1000


@dataclasses.dataclass(frozen=True)
class Record:
    """What gives one document, several (the captions of a picture) or none (left out by a setting)."""

    place: Callable[[], str]  # where it stands, for people: `train.jsonl:17`
    read: Callable[[], Sequence[Document]]  # raises ValueError or OSError if the record is damaged


@dataclasses.dataclass(frozen=True)
class Source:
    """One split of a user's data, opened but not yet read."""

    name: str  # for messages
    taken_for: str  # what the data was recognised as, in one line
    records: Callable[[int, int], Iterable[Record]]  # (shard, of) → its records
    tolerated: float  # share of damaged records
    count: int = 0  # records in all; 0: not known
    documents_expected: int = 0  # how many there are if none is damaged; 0: not known

    def documents(
        self,
        shard: int = 0,
        of: int = 1,
        tally: Counter[str] | None = None,
        check: Callable[[Document], None] | None = None,
    ) -> Iterator[Document]:
        """The documents of one of `of` shards, in a fixed order; `tally` counts records `read`, `damaged`, `left_out`.

        The law: the shards 0, 1, … `of` - 1 one after another are the whole, so that every document is in exactly one
        of them and their stores, joined, are the store that one process would have written.

        A record whose reading raises ValueError or OSError, or with a document that `check` refuses by ValueError, is
        damaged: it is skipped and told with its place on stderr. ValueError if there is no such shard and, while
        reading, if there are no records or once more than the tolerated share of all records is damaged. Where their
        number is not known it is the share of the first thousand, then of those read so far; a shard of less than a
        thousand is judged as if it had a thousand, because it does not know of the others.
        """
        if not 0 <= shard < of:
            raise ValueError(f"there are shards 0 to {of - 1} of {of}, got shard {shard}")
        return self._read(self.records(shard, of), Counter() if tally is None else tally, check, whole=of == 1)

    def _read(
        self,
        records: Iterable[Record],
        tally: Counter[str],
        check: Callable[[Document], None] | None,
        whole: bool,
    ) -> Iterator[Document]:
        first = ""
        for record in records:
            tally["read"] += 1
            try:
                documents = record.read()
                if check:
                    for document in documents:
                        check(document)
            except (ValueError, OSError) as error:
                tally["damaged"] += 1
                if tally["damaged"] <= TOLD:  # to find the place of more takes too long
                    fault = f"{record.place()}: {' '.join(str(error).split())[:300]}"
                    first = first or fault
                self._judge(tally, self.count or max(tally["read"], PATIENCE), first)
                if tally["damaged"] <= TOLD:
                    print(f"{self.name}: skipped {fault}", file=sys.stderr)
                continue
            tally["left_out"] += not documents
            yield from documents
        seen = tally["read"]
        if whole:
            self._judge(tally, seen, first)
        if tally["damaged"]:
            print(f"{self.name}: skipped {tally['damaged']} of {seen} records, damaged", file=sys.stderr)
        if tally["left_out"]:
            print(f"{self.name}: left out {tally['left_out']} of {seen} records, as the settings say", file=sys.stderr)
        if whole and not seen:
            raise ValueError(f"{self.name} has no records; --held-out is the share that the split test has")

    def _judge(self, tally: Counter[str], of: int, first: str) -> None:
        """ValueError if the damaged ones are more than the tolerated share of `of` records."""
        damaged = tally["damaged"]
        if damaged > self.tolerated * of:
            share = f"{damaged} of {self.count}" if self.count else f"{damaged} of the first {tally['read']}"
            raise ValueError(
                f"{self.name}: at least {share} records are damaged, more than {100 * self.tolerated:g}% (--damaged); "
                f"first {first}"
            )


def part(count: int, shard: int, of: int) -> range:
    """The numbers below `count` that belong to a shard: an unbroken run, as long as the others' to within one."""
    return range(count * shard // of, count * (shard + 1) // of)


def numbered(
    name: str, taken_for: str, count: int, record: Callable[[int], Record], tolerated: float, documents: int = 0
) -> Source:
    """A source of `count` records that are made by their number, `documents` (0: as many) in all."""

    def records(shard: int, of: int) -> Iterator[Record]:
        return map(record, part(count, shard, of))

    return Source(name, taken_for, records, tolerated, count, documents or count)
