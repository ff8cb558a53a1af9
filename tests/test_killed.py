"""Runs that are killed with SIGKILL, at moments that nobody chose, go on to the end that the unbroken run has.

The long ones, `python -m pytest -m long tests/test_killed.py`, take some minutes on two cores.
"""

import random
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from jam_jax import checkpoint
from jam_jax.metrics import values_of
from jam_jax.train import main
from tests import training
from tests.test_processes import same
from tests.training import finish, losses, start

HEARTBEAT = 100  # seconds after which JAX's processes know of each other's end


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return training.make_run(tmp_path_factory.mktemp("killed"))


def steps_of(out: Path) -> list[int]:
    """The steps in a run's log."""
    return [line["step"] for line in values_of(out / "metrics.jsonl")]


def text_of(out: Path) -> str:
    """The log of a run."""
    path = out / "metrics.jsonl"
    return path.read_text() if path.exists() else ""


def wait_for_step(
    out: Path, step: int, processes: Sequence[subprocess.Popen], before: str = "", timeout: float = 300
) -> None:
    """Until the log of a run has come to a step; `before` is what it held when the processes were started."""
    end = time.monotonic() + timeout
    while text_of(out) == before or max(steps_of(out), default=0) < step:
        assert time.monotonic() < end and all(process.poll() is None for process in processes), finish(processes)
        time.sleep(0.01)


def kill(processes: Sequence[subprocess.Popen]) -> None:
    """SIGKILL to all, none of which has ended by itself."""
    assert [process.poll() for process in processes] == [None] * len(processes)
    for process in processes:
        process.kill()
    for process in processes:
        process.communicate()


@pytest.mark.long
def test_killed_between_two_saves_it_goes_on_to_the_same_end(run: list[str], tmp_path: Path) -> None:
    options = [*run, "--steps", "120", "--save-every", "7", "--keep", "2"]
    parts = [*options, "--out", str(tmp_path / "parts"), "--resume", "auto"]
    process = start(parts)
    wait_for_step(tmp_path / "parts", random.Random(0).randrange(10, 40), process)
    kill(process)
    held = checkpoint.steps(tmp_path / "parts")
    assert held and held[-1] < 120
    main([*options, "--out", str(tmp_path / "whole")])
    main(parts)
    same(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.long
def test_killed_at_ten_moments_it_goes_on_to_the_same_end(run: list[str], tmp_path: Path) -> None:
    options = [*run, "--steps", "400", "--save-every", "7", "--keep", "2"]
    out = tmp_path / "parts"
    parts = [*options, "--out", str(out), "--resume", "auto"]
    programs = str(tmp_path / "programs")  # kept, so that what is killed in its start is not always compiling
    finish(start([*options, "--out", str(tmp_path / "whole")], JAX_COMPILATION_CACHE_DIR=programs))
    moments = random.Random()  # other ones each time; they are in the message of a failure
    targets = sorted(moments.sample(range(1, 350), 7))
    seen: list[tuple[int, float, int, list[int]]] = []
    startup = 1.0  # seconds
    for target in [0, *targets[:4], 0, *targets[4:], 0]:
        began, held, before = time.monotonic(), max(checkpoint.steps(out), default=0), text_of(out)
        process = start(parts, JAX_COMPILATION_CACHE_DIR=programs)
        if target:
            wait_for_step(out, held + 1, process, before)
            startup = time.monotonic() - began
            wait_for_step(out, target, process)
            delay = moments.uniform(0, 0.2)
        else:
            delay = moments.uniform(0, 1) * startup
        time.sleep(delay)
        kill(process)
        seen.append((target, delay, max(steps_of(out), default=0), checkpoint.steps(out)))
    print(*seen, sep="\n")
    assert len(seen) == 10 and len({tuple(held) for *_, held in seen}) > 5  # it went on in between
    finish(start(parts, JAX_COMPILATION_CACHE_DIR=programs))
    assert steps_of(out) == list(range(1, 401))
    same(out, tmp_path / "whole")


@pytest.mark.long
@pytest.mark.parametrize("dead", [0, 3])
def test_four_processes_of_which_one_is_killed_go_on_as_two(run: list[str], tmp_path: Path, dead: int) -> None:
    options = [*run, "--steps", "60", "--save-every", "5", "--keep", "2", "--mesh.data", "1", "--mesh.fsdp", "4"]
    finish(start([*options, "--out", str(tmp_path / "whole")], devices=4))
    out = tmp_path / "parts"
    parts = [*options, "--out", str(out), "--resume", "auto"]
    four = start(parts, processes=4)
    wait_for_step(out, 20, four)
    kill(four[dead : dead + 1])
    began = time.monotonic()
    for process in four[:dead] + four[dead + 1 :]:
        process.communicate(timeout=HEARTBEAT + 60)
    print(f"the others ended after {time.monotonic() - began:.0f} s: {[process.returncode for process in four]}")
    assert all(process.returncode for process in four)
    held = checkpoint.steps(out)
    assert 10 <= held[-1] < 60
    said = finish(start(parts, processes=2, devices=2))
    assert int(re.findall(r"(\d+)/60  ", said[0])[0]) > held[-1]  # no step is done again that was saved
    assert steps_of(out) == list(range(1, 61))
    np.testing.assert_allclose(losses(out), losses(tmp_path / "whole"), rtol=1e-5)
