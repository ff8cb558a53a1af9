"""A tiny run that tests of the trainer share: a tokenizer, a store of pairs, a config, and processes that train it."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jam_jax import tokens
from jam_jax.data.store import write_ids

SPACE = tokens.jam(text=40, codes=8, codes_per_image=4, sentinels=11, pad_to=32)
CONFIG = """
from jam_jax.config import *

def get_config():
    return Config(
        model=DecoderConfig(
            vocab_size=64, layers=2, width=16, heads=4, head_size=4, ffn_width=32, max_positions=24, init_std=0.1
        ),
        data=DataConfig(sources=(SourceConfig("{store}", cut="document", mask_caption=0.2),), block=17),
        optim=OptimConfig(learning_rate=1e-2, warmup=2, schedule="linear"),
        steps=4, batch=8, log_every=1,
    )
"""


def make_run(root: Path) -> list[str]:
    """Write what a run needs; gives the options that all runs share."""
    (root / "tokenizer").mkdir()
    (root / "tokenizer/tokens.json").write_text(SPACE.to_json())
    rng = np.random.default_rng(0)
    brk, codes = SPACE.start_of_image, SPACE.image_ids

    def records() -> object:
        for _ in range(50):
            caption = rng.integers(4, 40, rng.integers(2, 7))
            yield np.array([*caption, brk, *rng.choice(codes, 4), SPACE.end_of_document], np.int32), 0

    write_ids(root / "store", records(), SPACE)  # type: ignore[arg-type]
    (root / "config.py").write_text(CONFIG.format(store=root / "store"))
    return ["--config", str(root / "config.py"), "--tokenizer", str(root / "tokenizer")]


def losses(out: Path) -> list[float]:
    """Of every step of a run."""
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def devices_of(count: int) -> dict[str, str]:
    """The environment of a process that sees so many devices of a CPU, and compiles as the tests do (conftest.py)."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def start(
    options: Sequence[str], *, module: str = "train", processes: int = 1, devices: int = 1, **more: str
) -> list[subprocess.Popen]:
    """Processes that train one run together, with `devices` of a CPU each; `more` goes into their environment.

    With another `module` of jam_jax they run that together.
    """
    environment = devices_of(devices) | more
    if processes > 1:
        environment |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": str(processes)}
    return [
        subprocess.Popen(
            [sys.executable, "-m", f"jam_jax.{module}", *options],
            env=environment | ({"JAX_PROCESS_ID": str(i)} if processes > 1 else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(processes)
    ]


def finish(started: Sequence[subprocess.Popen], timeout: float = 300) -> list[str]:
    """What the processes said, when all have ended with code 0."""
    said = [process.communicate(timeout=timeout)[0] for process in started]
    assert [process.returncode for process in started] == [0] * len(started), "\n---\n".join(said)
    return said
