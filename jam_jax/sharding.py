"""Where arrays live on the mesh: one table for parameters, one for what an axis means. Only this file knows the mesh.

Models say what an axis is (`shard(x, "batch", "length", "embed")`); AXES says which mesh axes it is spread over.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jam_jax.config import MeshConfig
from jam_jax.trees import like, paths

# In the order in which the devices are dealt out: neighbours, which have the fastest links, share a tensor.
NAMES = ("data", "fsdp", "sequence", "tensor")

# Logical axis → mesh axes. Activations' batch runs over data and fsdp; parameters' `embed` over fsdp.
AXES: dict[str | None, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "replicas": "data",  # a batch whose rows all devices of an fsdp group hold, each a part of the width
    "length": "sequence",
    "whole_length": None,
    "embed": None,
    "heads": "tensor",
    "kv_heads": "tensor",
    "heads_of_whole": ("tensor", "sequence"),  # in attention, which needs the whole length
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
    (r"embed/tokens_step|unembed_step", ("vocab",)),
    (r"(text/|image/)?embed/positions|image/embed/patches", (None, "param_embed")),
    (r".*attn/q", ("param_embed", "heads", "head")),
    (r".*attn/[kv]", ("param_embed", "kv_heads", "head")),
    (r".*attn/o", ("heads", "head", "param_embed")),
    (r".*attn/q_(bias|step)|.*attn/q_norm/(scale|bias)", ("heads", "head")),
    (r".*attn/[kv]_(bias|step)|.*attn/k_norm/(scale|bias)", ("kv_heads", "head")),
    (r".*ffn/(up|gate)", ("param_embed", "ffn")),
    (r".*ffn/down", ("ffn", "param_embed")),
    (r".*ffn/(up|gate)_(bias|step)", ("ffn",)),
    (r".*attn/o_step|.*ffn/down_step|project_step", (None,)),
    (r".*attn/o_bias|.*ffn/down_bias|(.*/)?(attn|ffn|embed|final)_norm/(scale|bias)|image/embed/class_token", (None,)),
    (r"project", ("project_in", "param_embed")),
    (r"(text|image)/project", ("param_embed", None)),
    (r"logit_scale", ()),
)


def make_mesh(config: MeshConfig, devices: list | None = None) -> Mesh:
    """The mesh of all devices with the axes NAMES; ValueError when the sizes do not multiply to their number."""
    devices = jax.devices() if devices is None else devices
    sizes = [getattr(config, name) for name in NAMES]
    known = 1
    for size in sizes:
        known *= size if size > 0 else 1
    if sizes.count(-1) == 1 and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
        known = len(devices)
    if known != len(devices) or min(sizes) < 1:
        given = " ".join(f"{name}={getattr(config, name)}" for name in NAMES)
        raise ValueError(
            f"mesh {given} does not fit {len(devices)} devices: "
            "the product of the sizes must be their number (one size may be -1)"
        )
    return jax.make_mesh(tuple(sizes), NAMES, (AxisType.Auto,) * len(NAMES), devices=devices)


def platform() -> str:
    """What computes here, "cpu", "gpu" or "tpu": the devices of the mesh in force, which need not be there."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    name = device.platform if device else jax.default_backend()
    return "gpu" if name == "cuda" else name


def lone_cpu() -> bool:
    """Whether what is computed here runs on one CPU device, without a mesh."""
    return jax.default_backend() == "cpu" and jax.sharding.get_abstract_mesh().empty


def spec(*axes: str | None) -> PartitionSpec:
    """Logical axes → PartitionSpec."""
    return PartitionSpec(*(AXES[a] for a in axes))


def shard(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrain an activation to the mesh in force (`jax.set_mesh`); without one, x itself."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec(*axes))


def sizes(*axes: str) -> tuple[int, ...]:
    """Over how many devices of the mesh in force each logical axis is spread; ones without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return tuple(_size(mesh.shape, axis) for axis in axes)


def _size(shape: Any, axis: str | None) -> int:
    names = AXES[axis] or ()
    size = 1
    for name in (names,) if isinstance(names, str) else names:
        size *= shape.get(name, 1)
    return size


def per_device(
    f: Callable, inputs: tuple[tuple[str | None, ...], ...], outputs: Any, *, check: bool = True
) -> Callable:
    """f on each device's own part: `inputs` and `outputs` name the logical axes of its arguments and results.

    What f must sum or gather it asks of `sum_over` and the others below. On one device, or without a mesh, f itself.
    `check`: whether JAX follows what is the same on several devices; kernels that it cannot look into need False.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return f
    outs = jax.tree.map(lambda axes: spec(*axes), outputs, is_leaf=_is_axes)
    return jax.shard_map(f, in_specs=tuple(spec(*axes) for axes in inputs), out_specs=outs, check_vma=check)


def _is_axes(node: Any) -> bool:
    return isinstance(node, tuple) and all(axis is None or isinstance(axis, str) for axis in node)


def _manual(axis: str) -> tuple[str, ...]:
    """The mesh axes of a logical axis over which `per_device` runs; none outside of it."""
    names = AXES[axis] or ()
    names = (names,) if isinstance(names, str) else names
    return tuple(name for name in names if name in jax.sharding.get_abstract_mesh().manual_axes)


def sum_over(axis: str, x: jax.Array) -> jax.Array:
    """Inside `per_device`: x summed over the devices that share a logical axis."""
    names = _manual(axis)
    return jax.lax.psum(x, names) if names else x


def max_over(axis: str, x: jax.Array) -> jax.Array:
    """Inside `per_device`: the largest x of the devices that share a logical axis; not to be differentiated."""
    names = _manual(axis)
    return jax.lax.pmax(x, names) if names else x


def whole(axis: str, x: jax.Array, at: int) -> jax.Array:
    """Inside `per_device`: the parts of a logical axis, which is number `at` of x, put together."""
    names = _manual(axis)
    return jax.lax.all_gather(x, names, axis=at, tiled=True) if names else x


def place_on(axis: str) -> jax.Array | int:
    """Inside `per_device`: which part of a logical axis this device holds."""
    names = _manual(axis)
    return jax.lax.axis_index(names) if names else 0


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


def gathered(params: dict, dtype: str) -> dict:
    """Parameters of one layer for its computation: matrices in the compute dtype, and whole but for the tensor axis.

    They are cast before they travel, and their gradients travel in the compute dtype too, straight to the devices that
    keep them: what XLA finds by itself is sometimes to send activations instead, or to sum gradients everywhere.
    """

    def of(path: str, leaf: jax.Array) -> jax.Array:
        axes = parameter_axes(path, leaf.ndim)
        return _gathered(leaf, axes, dtype, str(leaf.dtype)) if "param_embed" in axes else leaf

    return like(params, {path: of(path, leaf) for path, leaf in paths(params).items()})


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gathered(leaf: jax.Array, axes: tuple[str | None, ...], dtype: str, stored: str) -> jax.Array:
    cast = shard(leaf.astype(dtype), *axes)
    return shard(cast, *("embed" if axis == "param_embed" else axis for axis in axes))


def _gathered_forward(leaf: jax.Array, axes: tuple[str | None, ...], dtype: str, stored: str) -> tuple[jax.Array, None]:
    return _gathered(leaf, axes, dtype, stored), None


def _gathered_backward(
    axes: tuple[str | None, ...], dtype: str, stored: str, _: None, gradient: jax.Array
) -> tuple[jax.Array]:
    return (shard(gradient, *axes).astype(stored),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


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
            split = mesh.shape["tensor"] * mesh.shape["sequence"]
            if axis in ("heads", "kv_heads") and size % split:
                raise ValueError(
                    f"{path} has {size} heads, which mesh.tensor x mesh.sequence = {split} does not divide: attention "
                    "is computed by heads, each over the whole length"
                )


def require_rows(mesh: Mesh, batch: int, accumulate: int = 1) -> None:
    """ValueError when the rows of one of `accumulate` parts of a batch do not divide over the devices that share it."""
    spread = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch // accumulate % spread:
        parts = f" / accumulate {accumulate}" if accumulate > 1 else ""
        raise ValueError(f"batch {batch}{parts} does not divide over the {spread} devices of data x fsdp")


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """For arrays whose first axis is the batch."""
    return NamedSharding(mesh, spec("batch"))
