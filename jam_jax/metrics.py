"""The metrics of a run: one line of JSON per log step, and the same as TensorBoard files."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from jam_jax import hosts
from jam_jax.config import write_whole


class MetricsLog:
    """metrics.jsonl and tensorboard/ of a run's directory; a resumed run drops what it is about to write again."""

    def __init__(self, out: Path, start: int = 0) -> None:
        """Open the log of a run that goes on after step `start`; of several processes the first writes it."""
        from tensorboardX import SummaryWriter

        self.board = None
        if not hosts.first():
            return
        self.path = out / "metrics.jsonl"
        kept = [values for values in values_of(self.path) if values["step"] <= start]
        write_whole(self.path, "".join(json.dumps(values) + "\n" for values in kept))
        self.board = SummaryWriter(str(out / "tensorboard"), purge_step=start + 1 if start else None)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """One line and one point per metric."""
        if self.board is None:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | metrics) + "\n")
        for name, value in metrics.items():
            self.board.add_scalar(name, value, step)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.board is not None:
            self.board.close()


def values_of(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl that can be read: a run that is killed while it writes leaves half of one."""
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else ():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and isinstance(values.get("step"), int):
            yield values
