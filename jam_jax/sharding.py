"""Where arrays live on the mesh: one table for parameters, one for what an axis means. Only this file knows the mesh.

Models say what an axis is (`shard(x, "batch", "length", "embed")`); AXES says which mesh axes it is spread over.
"""

import re

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jam_jax.config import MeshConfig
from jam_jax.trees import paths

# Logical axis → mesh axes. Activations' batch runs over data and fsdp; parameters' `embed` over fsdp.
AXES: dict[str | None, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "length": None,
    "embed": None,
    "heads": "tensor",
    "kv_heads": "tensor",
    "head": None,
    "vocab": "tensor",
    "layers": None,
    "ffn": "tensor",
    "param_embed": "fsdp",
    "project_in": "tensor",
    None: None,
}

# Every parameter's path matches exactly one row: pattern → logical axes without the stacked layer axis.
PARAMETERS: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"(text/)?embed/tokens|unembed", ("vocab", "param_embed")),
    (r"(text/|image/)?embed/positions|image/embed/patches", (None, "param_embed")),
    (r".*attn/q", ("param_embed", "heads", "head")),
    (r".*attn/[kv]", ("param_embed", "kv_heads", "head")),
    (r".*attn/o", ("heads", "head", "param_embed")),
    (r".*attn/q_bias|.*attn/q_norm/(scale|bias)", ("heads", "head")),
    (r".*attn/[kv]_bias|.*attn/k_norm/(scale|bias)", ("kv_heads", "head")),
    (r".*ffn/(up|gate)", ("param_embed", "ffn")),
    (r".*ffn/down", ("ffn", "param_embed")),
    (r".*ffn/(up|gate)_bias", ("ffn",)),
    (r".*attn/o_bias|.*ffn/down_bias|(.*/)?(attn|ffn|embed|final)_norm/(scale|bias)|image/embed/class_token", (None,)),
    (r"project", ("project_in", "param_embed")),
    (r"(text|image)/project", ("param_embed", None)),
    (r"logit_scale", ()),
)


def make_mesh(config: MeshConfig, devices: list | None = None) -> Mesh:
    """The mesh (data, fsdp, tensor) over all devices; ValueError when the sizes do not multiply to their number."""
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor]
    known = 1
    for size in sizes:
        known *= size if size > 0 else 1
    if sizes.count(-1) == 1 and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
        known = len(devices)
    if known != len(devices) or min(sizes) < 1:
        raise ValueError(
            f"mesh data={config.data} fsdp={config.fsdp} tensor={config.tensor} does not fit {len(devices)} devices: "
            "the product of the sizes must be their number (one size may be -1)"
        )
    return jax.make_mesh(tuple(sizes), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3, devices=devices)


def spec(*axes: str | None) -> PartitionSpec:
    """Logical axes → PartitionSpec."""
    return PartitionSpec(*(AXES[a] for a in axes))


def shard(x: jax.Array, *axes: str) -> jax.Array:
    """Constrain an activation to the mesh in force (`jax.set_mesh`); without one, x itself."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec(*axes))


def parameter_axes(path: str, ndim: int) -> tuple[str | None, ...]:
    """Logical axes of one parameter; stacked ones get a leading layer axis. ValueError if no row fits exactly."""
    rows = [axes for pattern, axes in PARAMETERS if re.fullmatch(pattern, path)]
    if len(rows) != 1:
        raise ValueError(f"parameter {path} matches {len(rows)} rows of the sharding table, expected exactly one")
    return ("layers",) * (ndim - len(rows[0])) + rows[0]


def parameter_shardings(mesh: Mesh, tree: dict) -> dict:
    """NamedSharding for every leaf of a parameter tree (arrays or shapes), by the table."""

    def of(path: tuple, leaf: jax.Array) -> NamedSharding:
        name = "/".join(str(getattr(k, "key", k)) for k in path)
        return NamedSharding(mesh, spec(*parameter_axes(name, leaf.ndim)))

    return jax.tree_util.tree_map_with_path(of, tree)


def require_divisible(mesh: Mesh, tree: dict) -> None:
    """ValueError when the mesh does not divide an axis of a parameter; `tree` holds shapes."""
    for path, leaf in paths(tree).items():
        for size, axis in zip(leaf.shape, parameter_axes(path, leaf.ndim), strict=True):
            name = AXES[axis]
            if isinstance(name, str) and size % mesh.shape[name]:
                raise ValueError(
                    f"{path} has an axis of {size}, which mesh.{name}={mesh.shape[name]} does not divide: "
                    f"choose another --mesh.{name}"
                )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """For arrays whose first axis is the batch."""
    return NamedSharding(mesh, spec("batch"))
