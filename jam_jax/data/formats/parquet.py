"""Parquet files as rows, a few pages of each column at a time: memory does not grow with the file or its row groups."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jam_jax.data.formats.rows import Row
from jam_jax.data.formats.source import part

BATCH = 64  # rows that are decoded together
BUFFER = 1 << 20  # bytes of a column that are read together


@dataclasses.dataclass(frozen=True)
class Parquet:
    """Parquet files. A shard is a range of rows, counted over all of the files; a place counts a file's from 0."""

    files: Sequence[Path]
    kind: str = "Parquet"

    def rows(self, shard: int = 0, of: int = 1, needs: Sequence[str] = ()) -> Iterator[Row]:
        """See `rows.Table`. ValueError for a file that is no Parquet.

        What is left of a row group that is damaged inside is damaged rows; so is a row whose text is no UTF-8.
        """
        wanted, first = part(sum(self._counts), shard, of), 0
        for path, count in zip(self.files, self._counts, strict=True):
            start, stop = max(wanted.start - first, 0), min(wanted.stop - first, count)
            if start < stop:
                with _open(path) as file:
                    yield from _rows(path, file, start, stop, needs)
            first += count

    @functools.cached_property
    def _counts(self) -> list[int]:
        """Rows of each file."""
        counts = []
        for path in self.files:
            with _open(path) as file:
                counts.append(file.metadata.num_rows)
        return counts


def _open(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} is no Parquet file that can be read: {error}") from error


def _rows(path: Path, file: Any, start: int, stop: int, needs: Sequence[str]) -> Iterator[Row]:
    """The rows of a file that are in a range."""
    columns = [name for name in file.schema_arrow.names if not needs or name in needs]
    first = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        if first < stop and first + count > start:
            yield from _group(path, file, group, columns, range(first, first + count), start, stop)
        first += count


def _group(
    path: Path, file: Any, group: int, columns: list[str], numbers: range, start: int, stop: int
) -> Iterator[Row]:
    """The rows of one row group, which are `numbers` of the file, that are in a range."""
    import pyarrow

    done, fault = numbers.start, "the row group is shorter than it says"
    try:
        for batch in file.iter_batches(BATCH, row_groups=[group], columns=columns, use_threads=False):
            first, done = done, done + len(batch)
            if done > start and first < stop:
                low = max(start - first, 0)
                values = _values(batch.slice(low, min(stop, done) - first - low))
                for i, (value, wrong) in enumerate(values, first + low):
                    yield _row(path, i, value, wrong)
            if done >= stop:
                return
    except (pyarrow.ArrowException, OSError) as error:
        fault = f"the row group is damaged: {error}"
    for i in range(max(done, start), min(numbers.stop, stop)):
        yield _row(path, i, {}, fault)


def _row(path: Path, i: int, values: dict[str, Any], fault: str) -> Row:
    return Row(path, i, functools.partial("{} row {}".format, path.name, i), values, fault)


def _values(batch: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """The rows of a batch as Python values, each with its fault."""
    import pyarrow

    unreadable = (pyarrow.ArrowException, ValueError, OverflowError)  # no UTF-8; a date that Python cannot hold
    try:
        values = batch.to_pylist()
    except unreadable:
        for i in range(len(batch)):  # one by one, to find the one that is damaged
            try:
                yield batch.slice(i, 1).to_pylist()[0], ""
            except unreadable as error:
                yield {}, f"the row cannot be read: {error}"
    else:
        yield from ((value, "") for value in values)
