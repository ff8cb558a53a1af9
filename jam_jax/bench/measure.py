"""What every benchmark measures with: commands in processes of their own, the machine's size, a table and JSON."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jam_jax.machine import machine


@dataclasses.dataclass(frozen=True)
class Run:
    """One process: its wall time, and the most memory that it held at once (pages of mapped files included)."""

    seconds: float
    peak_bytes: int


def command(*args: str) -> Run:
    """Run `python -m …` to its end; ValueError with its last lines if it fails."""
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ValueError(f"python -m {' '.join(args)} failed:\n{said[-2000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(time.monotonic() - start, usage.ru_maxrss * unit)


def report(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], figures: Any, path: str) -> None:
    """Print a table and write `figures` as JSON to `path`, if there is one."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, title=f"{title}\n{machine()}")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    if path:
        Path(path).write_text(json.dumps({"machine": machine()} | figures, indent=1) + "\n", encoding="utf-8")
