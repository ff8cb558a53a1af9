"""Progress that a person can read: a bar with time left on a terminal, a line now and then elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def bar(label: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """Give `advance(n=1, note="")` while the rest of `total` units of work is done, of which `done` were before.

    On a terminal a bar with the time left; in a log file a line for every note, one about every ten seconds where there
    are none, and one at the end.
    """
    with (_bar if sys.stdout.isatty() else _lines)(label, total, done) as advance:
        yield advance


@contextlib.contextmanager
def _bar(label: str, total: int, done: int) -> Iterator[Callable[..., None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}")) as progress:
        task, shown = progress.add_task(label, total=total, completed=done, note=""), ""

        def advance(n: int = 1, note: str = "") -> None:
            nonlocal shown
            shown = note or shown
            progress.update(task, advance=n, note=shown)

        yield advance


@contextlib.contextmanager
def _lines(label: str, total: int, done: int) -> Iterator[Callable[..., None]]:
    start = shown = time.monotonic()
    before = done

    def advance(n: int = 1, note: str = "") -> None:
        nonlocal done, shown
        done += n
        now = time.monotonic()
        if note or now - shown > 10 or done >= total > done - n:
            left = (now - start) / max(done - before, 1) * (total - done)
            print(f"{label}  {done}/{total}  {now - start:.0f} s, {left:.0f} s left  {note}".rstrip(), flush=True)
            shown = now

    yield advance
