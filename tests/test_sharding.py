"""Every parameter of every model matches one row of the table, and rows name axes that divide it."""

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
    assert sharding.spec("batch", "length") == PartitionSpec(("data", "fsdp"), None)


@pytest.mark.parametrize(("mesh", "sizes"), [(MeshConfig(), (8, 1, 1)), (MeshConfig(2, -1, 2), (2, 2, 2))])
def test_one_size_may_be_left_open(mesh: MeshConfig, sizes: tuple[int, ...]) -> None:
    assert tuple(sharding.make_mesh(mesh, [jax.devices()[0]] * 8).shape.values()) == sizes


@pytest.mark.parametrize(
    "mesh", [MeshConfig(3, 1, 1), MeshConfig(-1, 3, 1), MeshConfig(-1, -1, 1), MeshConfig(0, 8, 1)]
)
def test_sizes_that_do_not_multiply_to_the_devices_are_told(mesh: MeshConfig) -> None:
    with pytest.raises(ValueError, match=r"does not fit 8 devices: the product of the sizes must be their number"):
        sharding.make_mesh(mesh, [jax.devices()[0]] * 8)
