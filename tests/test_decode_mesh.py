"""Decoding with heads, feed-forward widths and vocabulary spread over a mesh of eight devices that the CPU plays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

START = """
import dataclasses
import jax
import numpy as np
from jam_jax import sharding
from jam_jax.config import CrossConfig, MeshConfig
from jam_jax.decode import engine, score, weights
from tests import uncached
from tests.uncached import GUIDED, JAM, PROMPTS

wide = dataclasses.replace(uncached.TINY, heads=8, head_size=4)
"""

SCRIPTS = {
    "decoder": """
mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=1, tensor=4))
shape, params = weights.prepare(wide, uncached.random_params(wide))
alone = engine.generate(shape, params, JAM, PROMPTS, GUIDED, seed=1)
spread = jax.device_put(params, sharding.parameter_shardings(mesh, params))
with jax.set_mesh(mesh):
    assert engine.generate(shape, spread, JAM, PROMPTS, GUIDED, seed=1) == alone
""",
    # Which two devices cannot share.
    "a row alone, and a score": """
mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=1, tensor=4))
shape, params = weights.prepare(wide, uncached.random_params(wide))
alone = engine.generate(shape, params, JAM, PROMPTS[:1], GUIDED, seed=1)
spread = jax.device_put(params, sharding.parameter_shardings(mesh, params))
with jax.set_mesh(mesh):
    assert engine.generate(shape, spread, JAM, PROMPTS[:1], GUIDED, seed=1) == alone
    spread_nll = score.nll(shape, spread, [2, 5, 9, 7, 2])
np.testing.assert_allclose(spread_nll, score.nll(shape, params, [2, 5, 9, 7, 2]), atol=1e-4)
with jax.set_mesh(sharding.make_mesh(MeshConfig(data=1, fsdp=1, sequence=2, tensor=4))):
    try:
        engine.generate(shape, params, JAM, PROMPTS[:1], GUIDED)
    except ValueError as error:
        assert "make a mesh of sequence=1, not 2" in str(error), error
    else:
        raise AssertionError("a mesh that spreads lengths decoded")
""",
    "cross": """
cross = CrossConfig(wide, wide)
shape, params = weights.prepare(cross, uncached.random_params(cross), "int8")
alone = engine.generate(shape, params, JAM, PROMPTS, GUIDED, seed=1)
mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=1, tensor=8))
spread = jax.device_put(params, sharding.parameter_shardings(mesh, params))
parts = {leaf.addressable_shards[0].data.size / leaf.size for leaf in jax.tree.leaves(spread)}
assert parts == {1.0, 1 / 8}, parts
with jax.set_mesh(mesh):
    assert engine.generate(shape, spread, JAM, PROMPTS, GUIDED, seed=1) == alone
""",
}


LONG = ("a row alone, and a score", "cross")


@pytest.mark.parametrize("name", ["decoder", *(pytest.param(name, marks=pytest.mark.long) for name in LONG)])
def test_a_mesh_decodes_what_one_device_does(name: str) -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags}  # and conftest.py's settings
    root = Path(__file__).parents[1]
    found = subprocess.run(
        [sys.executable, "-c", START + SCRIPTS[name] + 'print("equal")'],
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert found.stdout == "equal\n", found.stderr[-2000:]
