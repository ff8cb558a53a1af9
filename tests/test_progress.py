"""Progress in a log file."""

import re

import pytest

from jam_jax import progress
from jam_jax.progress import bar


def test_every_note_is_a_line_and_counts_what_was_done_before(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("run", 10, 4) as advance:
        advance(2, "loss 3")
        advance(1, "loss 2")
        advance(2)
        advance(1)
    lines = [re.sub(r"\d+ s", "N s", line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "run  6/10  N s, N s left  loss 3",
        "run  7/10  N s, N s left  loss 2",
        "run  10/10  N s, N s left",
    ]


def test_time_left_is_by_what_this_run_did(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 8.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with bar("run", 100, 90) as advance:
        advance(2, "x")
    assert capsys.readouterr().out == "run  92/100  8 s, 32 s left  x\n"
