"""Rows in batches: equal to one row at a time in float64, whatever batch and order; greedy text step by step."""

import dataclasses
import functools
import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jam_jax import sharding, tokens
from jam_jax.config import CrossConfig, DecoderConfig, MeshConfig
from jam_jax.evaluate import batched
from jam_jax.evaluate.batched import Batched
from jam_jax.models import model
from tests import training
from tests.tiny import randomise

SPACE = tokens.jam(text=40, codes=8, codes_per_image=4, sentinels=3, pad_to=4)
TOWER = DecoderConfig(SPACE.vocab_size, 2, 16, 2, 8, 32, max_positions=40)


@functools.cache
def params_of(config):
    return randomise(model.shapes(config))


def of(config, batch_tokens=160, params=None):
    mesh = sharding.make_mesh(MeshConfig())
    return Batched(config, params or params_of(config), SPACE, mesh, batch_tokens)


@functools.cache
def one_by_one(config):
    return jax.jit(functools.partial(model.forward, config))


def logits_of(config, ids):
    """float64 [len(ids), V], of a row alone, padded behind to one shape."""
    row = np.full((1, config.max_positions), SPACE.pad, np.int32)
    row[0, : len(ids)] = ids
    return np.asarray(one_by_one(config)(params_of(config), row)[0][0], np.float64)[: len(ids)]


def plain(config, row, targets):
    logits = logits_of(config, row[:-1])
    nll = [
        np.log(np.exp(line - line.max()).sum()) + line.max() - line[i] for line, i in zip(logits, row[1:], strict=True)
    ]
    return -math.fsum(nll[-targets:]), bool((logits.argmax(-1)[-targets:] == row[-targets:]).all())


def rows_of(count, seed=0):
    rng = np.random.default_rng(seed)
    rows = [[2, *rng.integers(4, 40, int(n)).tolist()] for n in rng.integers(1, 40, count)]
    return rows, [int(rng.integers(1, len(row))) for row in rows]


@pytest.mark.parametrize(
    "config",
    [pytest.param(TOWER, marks=pytest.mark.long), CrossConfig(TOWER, TOWER, every=1)],
    ids=["decoder", "cross"],
)
def test_equals_one_row_at_a_time_in_float64(config, monkeypatch):
    monkeypatch.setattr(batched, "CHUNK", 48)  # several parts of a row, the last of which is not whole
    rows, targets = rows_of(20)
    # What the model would write itself is the likeliest.
    for row, count in zip(rows[:4], targets[:4], strict=True):
        for at in range(len(row) - count, len(row)):
            row[at] = int(logits_of(config, row[:at])[-1].argmax())
    done = []
    found = of(config).likelihoods(rows, targets, done.append)
    wanted = [plain(config, np.array(row), count) for row, count in zip(rows, targets, strict=True)]
    np.testing.assert_allclose([value for value, _ in found], [value for value, _ in wanted], rtol=1e-5)
    assert [likeliest for _, likeliest in found] == [likeliest for _, likeliest in wanted]
    assert all(likeliest for _, likeliest in found[:4]) and not all(likeliest for _, likeliest in found)
    assert sum(done) == len(rows)


@pytest.mark.parametrize("batch_tokens", [pytest.param(1, marks=pytest.mark.long), 4000])
def test_batches_and_order_change_nothing(batch_tokens):
    rows, targets = rows_of(12, seed=1)
    wanted = of(TOWER).likelihoods(rows, targets)
    found = of(TOWER, batch_tokens).likelihoods(rows[::-1], targets[::-1])[::-1]
    np.testing.assert_allclose([a for a, _ in found], [a for a, _ in wanted], rtol=1e-5)
    assert [b for _, b in found] == [b for _, b in wanted]


def greedy(config, row, most):
    """The definition: the likeliest of text and the end, one forward pass an id."""
    allowed = SPACE.modality == tokens.TEXT
    allowed[SPACE.end_of_document] = True
    written = []
    while len(written) < most:
        chosen = int(np.where(allowed, logits_of(config, [*row, *written])[-1], -np.inf).argmax())
        if chosen == SPACE.end_of_document:
            break
        written.append(chosen)
    return written


def test_continues_greedily_to_the_end_or_the_limit(monkeypatch):
    monkeypatch.setattr(batched, "TURN", 3)
    rows = [row[:-1] or row for row in rows_of(30, seed=2)[0] if len(row) < 30]
    wanted = [greedy(TOWER, row, 11) for row in rows]
    assert {len(ids) for ids in wanted} >= {11} and min(map(len, wanted)) < 11  # some end by themselves
    done = []
    assert of(TOWER).continuations(rows, 11, lambda i, ids: False, done.append) == wanted
    assert sum(done) == len(rows)
    # Told to stop it stops at the next turn.
    stopped = of(TOWER).continuations(rows, 11, lambda i, ids: len(ids) >= 4)
    assert stopped == [ids[:6] for ids in wanted]


def test_what_is_no_number_and_what_does_not_fit_end_in_one_line():
    broken = jax.tree.map(lambda leaf: leaf * np.nan, params_of(TOWER))
    with pytest.raises(ValueError, match="not a number"):
        of(TOWER, params=broken).likelihoods([[2, 5, 6]], [1])
    with pytest.raises(ValueError, match="not a number"):
        of(TOWER, params=broken).continuations([[2, 5]], 4, lambda i, ids: False)
    other = dataclasses.replace(TOWER, vocab_size=60)
    with pytest.raises(ValueError, match="60 vocabulary rows, the tokenizer 56"):
        of(other)


SCRIPT = """
import json, sys
from jam_jax import hosts
hosts.start()
import jax
from jam_jax import sharding
from jam_jax.config import MeshConfig
from jam_jax.evaluate.batched import Batched
from tests import test_batched as t

mesh = sharding.make_mesh(MeshConfig(*json.loads(sys.argv[1])))
params = t.params_of(t.TOWER)
placed = sharding.parameter_shardings(mesh, params)
params = jax.tree.map(lambda x, s: jax.make_array_from_callback(x.shape, s, lambda i: x[i]), params, placed)
batched = Batched(t.TOWER, params, t.SPACE, mesh, 160)
if hosts.first():
    found = batched.likelihoods(*t.rows_of(20))
    written = []
    if mesh.shape["sequence"] == 1:
        written = batched.continuations([r for r in t.rows_of(9)[0] if len(r) < 30], 11, lambda i, ids: False)
    batched.together.release()
    with open(sys.argv[2], "w") as file:
        json.dump([found, written], file)
else:
    batched.together.follow()
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("processes", "mesh"), [(1, (2, 2, 1, 1)), (2, (1, 2, 1, 2)), (2, (2, 1, 2, 1)), (4, (1, 2, 2, 1))]
)
def test_a_mesh_and_several_processes_change_nothing(tmp_path, processes, mesh):
    environment = training.devices_of(4 // processes)
    if processes > 1:
        environment |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{training.free_port()}"}
        environment |= {"JAX_NUM_PROCESSES": str(processes)}
    training.finish(
        [
            subprocess.Popen(
                [sys.executable, "-c", SCRIPT, json.dumps(mesh), str(tmp_path / "found.json")],
                env=environment | ({"JAX_PROCESS_ID": str(i)} if processes > 1 else {}),
                cwd=Path(__file__).parents[1],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for i in range(processes)
        ]
    )
    found, written = json.loads((tmp_path / "found.json").read_text())
    wanted = of(TOWER).likelihoods(*rows_of(20))
    np.testing.assert_allclose([a for a, _ in found], [a for a, _ in wanted], rtol=1e-4)
    assert [b for _, b in found] == [b for _, b in wanted]
    if mesh[3] == 1:
        rows = [row for row in rows_of(9)[0] if len(row) < 30]
        assert written == of(TOWER).continuations(rows, 11, lambda i, ids: False)
