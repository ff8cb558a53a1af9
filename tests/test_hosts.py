"""Two processes do together what one does alone."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jam_jax import checkpoint, hosts
from jam_jax.fuse.__main__ import main
from jam_jax.models import model
from tests.tiny import DECODER, randomise


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.mark.long
def test_a_fusion_by_two_processes_is_that_of_one_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "BLOCK_BYTES", 1000)  # so that there is work for both
    for seed, name in enumerate(("llm", "img"), 1):
        params = randomise(model.shapes(DECODER), seed)
        checkpoint.save_model(tmp_path / name, DECODER, params)
    command = ["uniform", "--llm", str(tmp_path / "llm"), "--img", str(tmp_path / "img"), "--target"]
    main([*command, str(tmp_path / "one")])
    settings = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "jam_jax.fuse", *command, str(tmp_path / "two")],
            env=os.environ | settings | {"JAX_PROCESS_ID": str(i), "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "JAM-Uniform" in said[0]
    assert "JAM-Uniform" not in said[1]
    written = [path for path in (tmp_path / "two").rglob("d/*") if "process_1" in str(path)]
    assert written  # the second wrote its share
    one, two = (checkpoint.load_model(tmp_path / name)[1] for name in ("one", "two"))
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_half_a_description_of_the_processes_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    with pytest.raises(ValueError, match="needs JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID in the environment too"):
        hosts.start()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES in the environment must be a whole number, got 'two'"),
        ({"JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID goes from 0 to JAX_NUM_PROCESSES - 1, got 2 of 2"),
        ({"JAM_JAX_START_TIMEOUT": "-1"}, "JAM_JAX_START_TIMEOUT in the environment must be a whole number, got '-1'"),
    ],
)
def test_a_number_that_is_none_is_one_line(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    for name, value in (right | environment).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        hosts.start()


def test_a_slice_finds_its_machines_and_says_in_one_line_that_it_could_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAM_JAX_DISTRIBUTED", "1")
    asked = []

    def initialize(*args: object, **kwargs: object) -> None:
        asked.append(args)
        raise RuntimeError("no coordinator\nand more")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(ValueError, match="the processes of this run cannot find each other: no coordinator$"):
        hosts.start()
    assert asked == [(None, None, None)]  # JAX asks the cloud
