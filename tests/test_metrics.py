"""The log of a run: what a resumed run keeps of it, also when the last one was killed while it wrote."""

import json
from pathlib import Path

import pytest

from jam_jax.metrics import MetricsLog


@pytest.mark.parametrize("half", ["", '{"step": 6, "lo', '{"step": 6, "lo\n{"step": 7}\n', "\0\0\0", "17\n"])
def test_a_resumed_run_keeps_what_came_before_it_and_drops_half_a_line(tmp_path: Path, half: str) -> None:
    with MetricsLog(tmp_path) as log:
        for step in (2, 4, 6):
            log.write(step, {"loss": 1 / step})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + half)
    with MetricsLog(tmp_path, start=4) as log:
        log.write(6, {"loss": 0.5})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"step": 2, "loss": 0.5}, {"step": 4, "loss": 0.25}, {"step": 6, "loss": 0.5}]


def test_a_run_from_the_start_begins_its_log_anew(tmp_path: Path) -> None:
    for _ in range(2):
        with MetricsLog(tmp_path) as log:
            log.write(1, {"loss": 2.0})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 2.0}\n'
