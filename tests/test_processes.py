"""Runs of several processes, and runs that are killed and told to stop: nothing of them is lost.

The long ones, `python -m pytest -m long tests/test_processes.py`, take about ten minutes on two cores.
"""

import json
import signal
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jam_jax import checkpoint, tokens
from jam_jax.data.store import write_ids
from jam_jax.train import main
from tests import training
from tests.models import make_model
from tests.training import finish, losses, start


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return training.make_run(tmp_path_factory.mktemp("processes"))


def same(a: Path, b: Path, items: tuple[str, ...] = ("params", "opt_state")) -> None:
    """The last checkpoints of two runs are equal to the bit, and so are their logs."""
    assert losses(a) == losses(b)
    read = [checkpoint.ocp.StandardCheckpointer() for _ in items]
    for item, checkpointer in zip(items, read, strict=True):
        trees = [checkpointer.restore(checkpoint._item(out, item, None)) for out in (a, b)]
        jax.tree.map(np.testing.assert_array_equal, *trees)


def test_told_to_stop_it_saves_and_ends_well_and_goes_on_to_the_same_end(run: list[str], tmp_path: Path) -> None:
    options = [*run, "--steps", "250"]
    parts = [*options, "--out", str(tmp_path / "parts"), "--resume", "auto"]
    main([*options, "--out", str(tmp_path / "whole")])
    process = start(parts)
    wait_for(tmp_path / "parts/metrics.jsonl", process[0])
    process[0].send_signal(signal.SIGTERM)
    said = finish(process)[0]
    held = checkpoint.steps(tmp_path / "parts")
    assert len(held) == 1 and 0 < held[0] < 250
    assert f"told to stop, saved step {held[0]}; go on with --resume auto" in said
    main(parts)
    same(tmp_path / "parts", tmp_path / "whole")


def wait_for(path: Path, process: subprocess.Popen, timeout: float = 120) -> None:
    """Until a file is there that holds something."""
    end = time.monotonic() + timeout
    while not (path.exists() and path.stat().st_size):
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.02)


def test_a_process_that_does_not_come_is_told_of(run: list[str], tmp_path: Path) -> None:
    first = start([*run, "--out", str(tmp_path / "run")], processes=2, JAM_JAX_START_TIMEOUT="3")
    first[1].kill()
    first[1].communicate()
    said, _ = first[0].communicate(timeout=60)
    assert first[0].returncode != 0
    assert "not all processes of this run have started within 3 seconds" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.long
@pytest.mark.parametrize(
    ("processes", "mesh"), [(2, (2, 4, 1, 1)), (4, (1, 8, 1, 1)), (4, (1, 2, 2, 2)), (2, (1, 2, 2, 2))]
)
def test_processes_train_as_one_over_fifty_steps(
    run: list[str], tmp_path: Path, processes: int, mesh: tuple[int, ...]
) -> None:
    names = ("data", "fsdp", "tensor", "sequence")
    options = [*run, "--steps", "50"]
    finish(start([*options, "--out", str(tmp_path / "one")]))
    sizes = [part for name, size in zip(names, mesh, strict=True) for part in (f"--mesh.{name}", str(size))]
    for count in (1, processes):
        out = tmp_path / str(count)
        finish(start([*options, *sizes, "--out", str(out)], processes=count, devices=8 // count))
        np.testing.assert_allclose(losses(out), losses(tmp_path / "one"), rtol=1e-5)


@pytest.mark.long
def test_processes_draw_together_what_one_draws(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    space = tokens.load(checkpoint.tokenizer_dir(model))
    rng = np.random.default_rng(0)
    picture = [space.start_of_image, *rng.choice(space.image_ids, space.codes_per_image), space.end_of_document]
    write_ids(tmp_path / "store", [(np.array([300, 301, *picture], np.int32), 0)] * 8, space)
    source = f"SourceConfig({str(tmp_path / 'store')!r}, cut='document')"
    (tmp_path / "config.py").write_text(
        "from jam_jax.config import Config, DataConfig, SourceConfig\n\n"
        f"def get_config():\n    return Config(init={str(model)!r}, data=DataConfig(sources=({source},), block=33))\n"
    )
    asked = ["--evaluate.every", "2", "--evaluate.prompts", "a red circle", "a star", "--evaluate.mode", "picture"]
    options = ["--config", str(tmp_path / "config.py"), "--steps", "2", "--batch", "8", *asked]
    pages = []
    for count in (1, 2):
        out = tmp_path / str(count)
        finish(start([*options, "--mesh.fsdp", "4", "--out", str(out)], processes=count, devices=4 // count))
        pages.append(json.loads((out / "samples/00000002/answers.json").read_text())["answers"])
    assert pages[0] == pages[1] and len(pages[0]) == 2


@pytest.mark.long
@pytest.mark.parametrize("told", [0, 1])
def test_one_of_four_processes_is_told_to_stop_and_two_go_on(run: list[str], tmp_path: Path, told: int) -> None:
    options = [*run, "--steps", "60", "--mesh.data", "1", "--mesh.fsdp", "4"]
    finish(start([*options, "--out", str(tmp_path / "whole")], devices=4))
    parts = [*options, "--out", str(tmp_path / "parts"), "--resume", "auto"]
    four = start(parts, processes=4)
    wait_for(tmp_path / "parts/metrics.jsonl", four[0])
    four[told].send_signal(signal.SIGTERM)
    finish(four)
    held = checkpoint.steps(tmp_path / "parts")
    assert len(held) == 1 and held[0] < 60
    finish(start(parts, processes=2, devices=2))
    np.testing.assert_allclose(losses(tmp_path / "parts"), losses(tmp_path / "whole"), rtol=1e-5)
