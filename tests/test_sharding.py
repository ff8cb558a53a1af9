"""Every parameter of every model matches one row of the table, and rows name axes that divide it."""

import os
import subprocess
import sys

import jax
import pytest
from jax.sharding import PartitionSpec

from jam_jax import sharding
from jam_jax.config import MeshConfig
from jam_jax.models import model
from jam_jax.trees import paths
from tests.tiny import CROSS, FAMILIES


@pytest.mark.parametrize("name", [*FAMILIES, "cross"])
def test_every_parameter_matches_exactly_one_row(name: str) -> None:
    shapes = paths(model.shapes(CROSS if name == "cross" else FAMILIES[name]))
    for path, leaf in shapes.items():
        axes = sharding.parameter_axes(path, leaf.ndim)
        assert len(axes) == leaf.ndim
        assert (axes[0] == "layers") == ("layers/" in path or "cross/" in path)


def test_a_parameter_without_a_row_is_named() -> None:
    with pytest.raises(ValueError, match="parameter layers/attn/gate matches 0 rows"):
        sharding.parameter_axes("layers/attn/gate", 3)


def test_rows_become_mesh_axes() -> None:
    assert sharding.spec(*sharding.parameter_axes("llm/layers/attn/q", 4)) == PartitionSpec(
        None, "fsdp", "tensor", None
    )
    assert sharding.spec("batch", "length") == PartitionSpec(("data", "fsdp"), "sequence")


@pytest.mark.parametrize(("mesh", "sizes"), [(MeshConfig(), (8, 1, 1, 1)), (MeshConfig(1, -1, 2, 2), (1, 2, 2, 2))])
def test_one_size_may_be_left_open(mesh: MeshConfig, sizes: tuple[int, ...]) -> None:
    assert tuple(sharding.make_mesh(mesh, [jax.devices()[0]] * 8).shape.values()) == sizes


@pytest.mark.parametrize(
    "mesh", [MeshConfig(3, 1, 1), MeshConfig(-1, 3, 1), MeshConfig(-1, -1, 1), MeshConfig(0, 8, 1)]
)
def test_sizes_that_do_not_multiply_to_the_devices_are_told(mesh: MeshConfig) -> None:
    with pytest.raises(ValueError, match=r"does not fit 8 devices: the product of the sizes must be their number"):
        sharding.make_mesh(mesh, [jax.devices()[0]] * 8)


def test_no_device_has_the_parameters_whole_while_they_are_made() -> None:
    """Nor is what a device computes with, on the way to its eighth of them, of the model's size."""
    command = """if True:
        import dataclasses, functools, jax
        from jam_jax import sharding
        from jam_jax.config import CrossConfig, MeshConfig
        from jam_jax.hlo import collectives
        from jam_jax.models import model
        from tests.tiny import DECODER
        jax.config.update("jax_disable_most_optimizations", True)
        sizes = dict(vocab_size=512, width=64, heads=8, head_size=8, ffn_width=256, layers=4, max_positions=62)
        wide = dataclasses.replace(DECODER, **sizes)
        mesh = sharding.make_mesh(MeshConfig(1, 4, 2))
        config = CrossConfig(wide, wide, 2)
        placed = sharding.parameter_shardings(mesh, model.shapes(config))
        init = jax.jit(functools.partial(model.init, config), out_shardings=placed)
        program = init.lower(jax.random.key(0)).compile()
        whole, found = 4 * model.count(config), program.memory_analysis()
        # An eighth, and a little for the positions, which lie on both devices of a tensor.
        assert found.output_size_in_bytes < 0.13 * whole, (found.output_size_in_bytes, whole)
        assert found.temp_size_in_bytes < 0.2 * whole, (found.temp_size_in_bytes, whole)
        assert not [move for move in collectives(program.as_text()) if move.bytes > 1000]
    """
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
