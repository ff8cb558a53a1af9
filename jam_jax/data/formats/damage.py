"""Damaged records of a user's data: a few are skipped and reported with their place, more stop the reading."""

import sys
from collections.abc import Callable, Iterable, Iterator

from jam_jax.data.documents import Document

TOLERATED = 0.01  # share of a source's records


def skip_damaged(source: str, total: int, records: Iterable[tuple[str, Callable[[], Document]]]) -> Iterator[Document]:
    """The documents of `records` (the place of each of `total` records, and how to read it) that can be read.

    A record whose reading raises ValueError, OSError or KeyError is skipped; how many and where the first one stands
    goes to stderr at the end. ValueError as soon as more than 1% of the records are damaged.
    """
    damaged, first = 0, ""
    for place, read in records:
        try:
            document = read()
        except (ValueError, OSError, KeyError) as error:
            damaged += 1
            first = first or f"{place}: {error}"
            if damaged > TOLERATED * total:
                raise ValueError(
                    f"{source}: at least {damaged} of {total} records are damaged, more than 1%; first {first}"
                ) from error
            continue
        yield document
    if damaged:
        print(f"{source}: skipped {damaged} of {total} records, damaged; first {first}", file=sys.stderr)
