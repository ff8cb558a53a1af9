"""Feeding: each process makes the rows of its devices, the batch is one array, and waiting is told."""

import os
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from jam_jax import sharding
from jam_jax.config import MeshConfig
from jam_jax.data.feed import Feed, local_rows
from tests.training import devices_of


class Counting:
    """Blocks that say their number, after some time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def __getitem__(self, n: int) -> dict[str, np.ndarray]:
        time.sleep(self.seconds)
        return {"tokens": np.full(3, n, np.int32)}


class _Device:
    """As much of a device as is asked here."""

    def __init__(self, process_index: int) -> None:
        self.process_index = process_index


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 4, 2), (2, 1, 4), (1, 1, 8)])
def test_processes_make_the_rows_of_their_devices_and_all_rows_together(
    processes: int, shape: tuple[int, int, int]
) -> None:
    # Eight devices in the order of the mesh, as many in each process; the batch runs over data and fsdp.
    batch, spread = 16, shape[0] * shape[1]
    size = batch // spread
    held = [(_Device(d * processes // 8), (slice(d // shape[2] * size, (d // shape[2] + 1) * size),)) for d in range(8)]
    placed: Any = SimpleNamespace(devices_indices_map=lambda _: dict(held))
    rows = [local_rows(placed, batch, process) for process in range(processes)]
    assert set(np.concatenate(rows).tolist()) == set(range(batch))
    for process, found in enumerate(rows):
        expected = {r for d, (s,) in held if d.process_index == process for r in range(s.start, s.stop)}
        assert found.tolist() == sorted(expected)  # each once, in order


def test_batches_are_arrays_on_the_mesh_in_order_from_any_step() -> None:
    placed = sharding.batch_sharding(sharding.make_mesh(MeshConfig()))
    with Feed(Counting(), 4, placed, start_step=5) as feed:
        for step in (5, 6, 7):
            found = feed.next()["tokens"]
            assert found.sharding.is_equivalent_to(placed, found.ndim)
            assert found[:, 0].tolist() == [step * 4 + i for i in range(4)]


def test_what_devices_wait_for_is_told_and_what_they_work_is_not() -> None:
    placed = sharding.batch_sharding(sharding.make_mesh(MeshConfig()))
    done: Any = jax.numpy.zeros(())
    busy: Any = SimpleNamespace(block_until_ready=lambda: time.sleep(1.0))
    with Feed(Counting(0.1), 2, placed) as feed:
        feed.next()
        assert feed.waited() == 0  # for the first batch everyone waits
        for _ in range(12):  # more than are made ahead
            feed.running(done)
            feed.next()
        assert feed.waited() > 0.4
        assert feed.waited() == 0  # since it was last asked
    with Feed(Counting(0.1), 2, placed) as feed:
        feed.next()
        feed.running(busy)
        for _ in range(3):
            feed.next()  # the loop waits, the devices have work
        assert feed.waited() == 0


@pytest.mark.long
def test_two_processes_make_one_array() -> None:
    from test_hosts import free_port  # here, because the processes import this file too

    script = f"""
        import sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from jam_jax import hosts, sharding
        from jam_jax.config import MeshConfig
        from jam_jax.data.feed import Feed
        from test_feed import Counting
        hosts.start()
        import jax
        assert jax.process_count() == 2 and jax.device_count() == 4
        mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=4))
        with Feed(Counting(), 8, sharding.batch_sharding(mesh), start_step=3, workers=jax.process_index()) as feed:
            for _ in range(2):
                found = feed.next()["tokens"]
                assert found.shape == (8, 3)
                for part in found.addressable_shards:
                    print(part.index[0].start, part.data[:, 0].tolist(), file=sys.stderr)
    """
    settings = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script)],
            env=devices_of(2) | settings | {"JAX_PROCESS_ID": str(i)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    for i, text in enumerate(said):
        lines = [line for line in text.splitlines() if line[:1].isdigit() and line.endswith("]")]
        expected = [(first, 8 * step + first) for step in (3, 4) for first in (4 * i, 4 * i + 2)]
        assert lines == [f"{first} {[n, n + 1]}" for first, n in expected], text
