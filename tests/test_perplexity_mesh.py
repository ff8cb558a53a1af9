"""Perplexity on meshes and by several processes: what a plain loop finds, whoever holds model and documents.

The long ones, `python -m pytest -m long tests/test_perplexity_mesh.py`, take some minutes on two cores.
"""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jam_jax import hosts, sharding
from jam_jax.config import MeshConfig
from jam_jax.data import store
from jam_jax.evaluate import scoring
from jam_jax.evaluate.sums import GROUPS
from tests import measured
from tests.measured import CROSS, SPACE, TOWER
from tests.training import devices_of, finish, start

NAMES = ("data", "fsdp", "tensor", "sequence")

# Each option list is measured by this process with its eight devices; told is what part of each leaf a device holds.
SCRIPT = """
import json, sys
import jax
from jam_jax.evaluate import scoring
from jam_jax.evaluate.__main__ import main

score, parts = scoring._score, set()

def spy(config, chunk, params, tokens, modality):
    parts.update(leaf.addressable_shards[0].data.size / leaf.size for leaf in jax.tree.leaves(params))
    return score(config, chunk, params, tokens, modality)

scoring._score = spy
for options, expected in json.loads(sys.argv[1]):
    parts.clear()
    main(options)
    assert sorted(parts) == expected, (options, parts)
"""


def case(root: Path, config=TOWER) -> tuple[list[str], dict]:
    """Options that measure a model and a store, and what a plain loop finds."""
    records = measured.some_records()
    options = measured.write_case(root, config, records)
    return options, measured.plain(config, measured.random_params(config), records)


def mesh(*sizes: int) -> list[str]:
    return [part for name, size in zip(NAMES, sizes, strict=True) for part in (f"--mesh.{name}", str(size))]


def agrees(path: Path, expected: dict) -> None:
    found = json.loads(path.read_text())
    assert found["targets"] == dict(zip(GROUPS, expected["count"], strict=True))
    for name, of in (("nll", "nll"), ("nll_within_modality", "within")):
        np.testing.assert_allclose([found[name][group] for group in GROUPS], expected[of], rtol=1e-5)


@pytest.mark.parametrize("kind", ["decoder", pytest.param("cross", marks=pytest.mark.long)])
def test_any_mesh_of_one_process_finds_what_a_plain_loop_does(tmp_path: Path, kind: str) -> None:
    odd = dataclasses.replace(TOWER, max_positions=23)  # which two devices cannot share
    options, expected = case(tmp_path, CROSS if kind == "cross" else odd)
    sizes = {(1, 8, 1, 1): [1 / 8], (2, 1, 2, 2): [1 / 2, 1]}
    if kind == "cross":
        sizes |= {(8, 1, 1, 1): [1], (1, 2, 2, 2): [1 / 4, 1 / 2]}
    runs = [
        ([*options, *mesh(*of), "--batch-tokens", "48", "--out", str(tmp_path / f"{i}.json")], parts)
        for i, (of, parts) in enumerate(sizes.items())
    ]
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(runs)],
        env=devices_of(8),
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    for i in range(len(sizes)):
        agrees(tmp_path / f"{i}.json", expected)


@pytest.mark.long
def test_two_processes_find_what_a_plain_loop_does(tmp_path: Path) -> None:
    options, expected = case(tmp_path)
    together = [*options, *mesh(1, 2, 2, 1), "--batch-tokens", "30", "--out", str(tmp_path / "out.json")]
    first, second = finish(start(together, module="evaluate", processes=2, devices=2))
    agrees(tmp_path / "out.json", expected)
    assert "12 documents): perplexity text" in first
    assert "perplexity" not in second


def test_processes_that_share_any_rows_are_of_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = sharding.make_mesh(MeshConfig())
    monkeypatch.setattr(jax, "process_count", lambda: 5)
    for rows, of, leaders, places in [
        ([[0], [1], [2], [3], [4]], [0, 1, 2, 3, 4], (0, 1, 2, 3, 4), ((0,), (1,), (2,), (3,), (4,))),
        ([[0], [0, 1], [1], [2], [2]], [0, 0, 0, 1, 1], (0, 3), ((0, 1), (2,))),
        ([[0, 1], [2], [1, 3], [2], [3]], [0, 1, 0, 1, 0], (0, 1), ((0, 1, 3), (2,))),
    ]:
        monkeypatch.setattr(scoring, "local_rows", lambda placed, batch, process, rows=rows: np.array(rows[process]))
        for process, index in enumerate(of):
            monkeypatch.setattr(hosts, "number", lambda process=process: process)
            assert scoring.group(mesh) == scoring.Group(index, len(leaders), leaders, places)


MESHES = [
    (2, 4, (8, 1, 1, 1)),
    (2, 4, (1, 2, 2, 2)),
    (2, 2, (1, 1, 2, 2)),  # both processes hold parts of every row
    (4, 2, (1, 8, 1, 1)),
    (4, 2, (2, 1, 4, 1)),  # two and two hold the same rows
    (4, 1, (4, 1, 1, 1)),
    (4, 1, (2, 2, 1, 1)),
]


@pytest.mark.long
@pytest.mark.parametrize(("processes", "devices", "sizes"), MESHES)
def test_processes_on_any_mesh_find_what_a_plain_loop_does(tmp_path: Path, processes, devices, sizes) -> None:
    options, expected = case(tmp_path)
    together = [*options, *mesh(*sizes), "--batch-tokens", "30", "--out", str(tmp_path / "out.json")]
    finish(start(together, module="evaluate", processes=processes, devices=devices))
    agrees(tmp_path / "out.json", expected)


@pytest.mark.long
def test_a_document_that_one_process_reads_stops_both_with_one_line(tmp_path: Path) -> None:
    """An id that the model lacks, in a store whose manifest was made to fit."""
    options, _ = case(tmp_path)
    wider = [np.array([5, 2], np.int32), np.array([5, SPACE.vocab_size + 3, 2], np.int32)]
    store.write_ids(tmp_path / "odd", [(ids, 0) for ids in wider], dataclasses.replace(SPACE, vocab_size=60))
    manifest = tmp_path / "odd/manifest.json"
    values = json.loads(manifest.read_text()) | {"fingerprint": SPACE.fingerprint}
    manifest.write_text(json.dumps(values))
    both = start([*options[:3], "--store", str(tmp_path / "odd")], module="evaluate", processes=2)
    said = [process.communicate(timeout=120)[0] for process in both]
    for process, text in zip(both, said, strict=True):
        assert process.returncode == 1
        assert f"error: a document holds id {SPACE.vocab_size + 3}, but the model has" in text
