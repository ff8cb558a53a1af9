"""A table's rows as documents: any kind of table with any layout of its rows, split and divided into shards."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jam_jax.data.documents import Document
from jam_jax.data.formats.files import BY_OPTION, Folder, named_folder
from jam_jax.data.formats.rows import PEEKED, Row, Table, peek
from jam_jax.data.formats.source import Record, Source
from jam_jax.data.formats.splits import check_split, is_held_out
from jam_jax.data.settings import ReadSettings

Values = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the columns of a row mean. Its functions raise ValueError for a row that is not laid out so."""

    taken_for: str  # "LIMA conversations"
    documents: Callable[[Values, Folder], Sequence[Document]]
    key: Callable[[Values], Any]  # rows that agree in it are in one split
    needs: tuple[str, ...] = ()  # columns that are looked at; none: any
    # Of all rows of the split, before any is read: which are taken. It may raise ValueError as `documents` does.
    choose: Callable[[Iterable[Values]], Callable[[Values], bool]] | None = None


def open_table(
    path: Path, table: Table, layout: Callable[[list[Values]], Layout], split: str, whole: bool, settings: ReadSettings
) -> Source:
    """The documents of a split of a table; `whole` where the table is that split and nothing else.

    `path` is what the user named: paths of pictures start from the file that names them (or from `settings.images`)
    and must not leave it. `layout` is told the first rows. ValueError if none of them can be read.
    """
    rows = peek(table)
    if not rows:
        raise ValueError(f"{path}: {_why_none(table)}; expected {table.kind}")
    laid_out = layout(rows)
    if not whole:
        check_split(split, path, settings.held_out)
    images = named_folder(settings.images) if settings.images else None
    root = (path if path.is_dir() else path.parent).resolve()

    def documents(row: Row, chosen: Callable[[Values], bool] | None) -> Sequence[Document]:
        if row.fault:
            raise ValueError(row.fault)
        if chosen is not None and not chosen(row.values):
            return []
        return laid_out.documents(row.values, images or Folder(row.file.parent, root, BY_OPTION))

    def of_split(shard: int, of: int) -> Iterator[Row]:
        for row in table.rows(shard, of, laid_out.needs):
            if whole or _held_out(row, laid_out, settings.held_out) == (split == "test"):
                yield row

    def records(shard: int, of: int) -> Iterator[Record]:
        chosen = None
        if laid_out.choose:
            chosen = laid_out.choose(row.values for row in of_split(0, 1) if not row.fault)
        for row in of_split(shard, of):
            yield Record(row.place, functools.partial(documents, row, chosen))

    return Source(f"{path} ({split})", f"{laid_out.taken_for}, {table.kind}", records, settings.damaged)


def _why_none(table: Table) -> str:
    for row in table.rows():
        return f"none of the first {PEEKED} records can be read, the first ({row.place()}) because of {row.fault}"
    return "there are no records"


def _held_out(row: Row, layout: Layout, share: float) -> bool:
    """Whether a row is in the test split; a damaged one by where it stands, as it has no key."""
    where = [row.file.name, row.at]
    try:
        return is_held_out(where if row.fault else layout.key(row.values), share)
    except (ValueError, RecursionError):
        return is_held_out(where, share)
