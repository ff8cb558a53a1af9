"""Does a run fit a pod that is not there? Compiles the real training step for it, and says what the compiler found.

    python -m jam_jax.plan --config configs/paper/cross_every_2.py --hardware a100-80gb --devices 256

It needs no device, but the compiler of the hardware: jax[cuda12] or jax[tpu] of the installed jax's version. Options of
`jam_jax.train` override the config's values here too (`--batch 256 --mesh.tensor 2`). A config that takes its model
from a checkpoint (instruction tuning) borrows one with `--like configs/paper/cross_every_2.py`.
"""

import contextlib
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jam_jax import config as configs
from jam_jax import flops, hlo
from jam_jax.config import Config
from jam_jax.hardware import HARDWARE, Hardware

if TYPE_CHECKING:
    Known = str
else:
    Known = Literal[tuple(HARDWARE)]
USABLE = 0.95  # of a device's memory: the rest is the driver's and the communication library's


@dataclasses.dataclass(frozen=True)
class Options:
    """Compile a config's training step for hardware that need not be there; what follows are options of the run."""

    hardware: Known = "a100-80gb"  # what the run is planned for
    devices: int = 256  # of it
    like: str = ""  # config file whose model is meant, for a config that has none
    search: bool = True  # also look for the largest part of a batch that fits, by compiling others
    json: str = ""  # a file for the figures


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the compiler found; bytes are of one device."""

    parameters: int  # of the model
    tokens: int  # of a step
    rows: int  # that a device computes at a time
    seconds_to_compile: float
    memory: dict[str, int]  # by kind
    limit: int  # of memory
    collectives: dict[str, dict[str, float]]  # by kind: how many run in a step, bytes, seconds at the links' speed
    largest_gather: int  # bytes
    rematerialisations: int  # warnings of the partitioner that it must make an array whole to lay it out anew
    model_flops: int  # of a step over all devices, by the convention of `flops`
    program_flops: int  # with what is recomputed and what a mask hides
    compute_seconds: float  # of the program at the devices' peak
    link_seconds: float  # of the collectives at the links' speed

    @property
    def peak(self) -> int:
        """Bytes that a device needs at once."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether it needs no more than can be had."""
        return self.peak <= USABLE * self.limit


def main(args: Sequence[str] | None = None) -> None:
    """The command."""
    options, rest = configs.cli_first(Options, args, prog="python -m jam_jax.plan", description=__doc__ or "")
    config = configs.cli(Config, rest, prog="python -m jam_jax.plan", description=__doc__ or "")
    if config.model is None and options.like:
        config = dataclasses.replace(config, model=configs.read_config(options.like).model)
    plan = compiled(config, options.hardware, options.devices)
    print(described(config, options, plan), flush=True)
    largest = (config.accumulate, plan) if not options.search else search(config, options, plan)
    if options.search:
        print(suggestion(config, largest))
    if options.json:
        values = {"hardware": options.hardware, "devices": options.devices} | dataclasses.asdict(plan)
        Path(options.json).write_text(json.dumps(values | {"peak": plan.peak}, indent=1) + "\n", encoding="utf-8")


def compiled(config: Config, name: str, count: int) -> Plan:
    """Compile the step of a config for `count` devices of a kind of HARDWARE.

    ValueError if the config has no model, does not fit the mesh, or if the compiler for that hardware is missing.
    """
    if config.model is None:
        raise ValueError("this config takes its model from a checkpoint: borrow one with --like configs/paper/FILE.py")
    hardware = HARDWARE[name]
    devices = topology(hardware, count)
    import jax
    import numpy as np

    from jam_jax import sharding, train_step
    from jam_jax.models import model
    from jam_jax.models.model import require_language

    language = require_language(config.model, "the config's model")
    mesh = sharding.make_mesh(config.mesh, devices)
    run = train_step.prepare(config, language, np.arange(language.vocab_size, dtype=np.int8) % 3, mesh)
    length = config.data.block - 1
    placed = sharding.batch_sharding(mesh)
    batch = {
        "tokens": jax.ShapeDtypeStruct((config.batch, length + 1), np.int32, sharding=placed),
        "positions": jax.ShapeDtypeStruct((config.batch, length), np.int32, sharding=placed),
        "weights": jax.ShapeDtypeStruct((config.batch, length), np.float32, sharding=placed),
    }
    state = [_with(run.shapes, run.placed), _with(run.state_shapes, run.state_placed)]
    start = time.monotonic()
    with jax.set_mesh(mesh), _said_by_compiler() as said:
        traced = run.step.trace(*state, batch)
        program = traced.lower(lowering_platforms=(hardware.platform,)).compile(COMPILER[hardware.platform])
    seconds = time.monotonic() - start
    found = program.memory_analysis()
    parameters, optimizer = (_bytes_per_device(tree) for tree in state)
    memory = {
        "parameters": parameters,
        "optimizer state": optimizer,
        "batch": _bytes_per_device(batch),
        "gradients, activations, buffers": found.temp_size_in_bytes,
        "results": found.output_size_in_bytes - found.alias_size_in_bytes,
        "program": found.generated_code_size_in_bytes,
    }
    try:
        moves = hlo.collectives(program.as_text())
    except RuntimeError as error:
        raise ValueError(
            f"jax {jax.__version__} cannot read what the compiler for {hardware.platform} made, so it is of another "
            f"version ({_first_line(error)}): {_install(hardware)}"
        ) from error
    kinds: dict[str, dict[str, float]] = {}
    for move in moves:
        kind = kinds.setdefault(move.kind, {"count": 0, "bytes": 0, "seconds": 0.0})
        kind["count"] += move.times
        kind["bytes"] += move.times * move.bytes
        kind["seconds"] += move.times * seconds_of(move, hardware, count)
    computed = flops.of_program(traced.jaxpr, count)
    tokens = config.batch * length
    return Plan(
        parameters=model.count(language),
        tokens=tokens,
        rows=config.batch // config.accumulate // (mesh.shape["data"] * mesh.shape["fsdp"]),
        seconds_to_compile=seconds,
        memory=memory,
        limit=hardware.memory,
        collectives=kinds,
        largest_gather=max((move.bytes for move in moves if move.kind == "all-gather"), default=0),
        rematerialisations=said().count("Involuntary full rematerialization"),
        model_flops=tokens * flops.per_token(language, length, run.frozen),
        program_flops=computed,
        compute_seconds=computed / count / hardware.peak,
        link_seconds=sum(kind["seconds"] for kind in kinds.values()),
    )


# What the compiler must do without: it has no device to try products on, nor to time them.
COMPILER: dict[str, dict[str, int | bool]] = {
    "cuda": {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False},
    "tpu": {},
}
INSTALL = {"cuda": 'pip install "jax[cuda12]=={version}"', "tpu": 'pip install "jax[tpu]=={version}"'}


def topology(hardware: Hardware, count: int) -> list[Any]:
    """Devices that can be compiled for and nothing else; ValueError if their compiler or such a slice is missing."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # else libtpu asks a machine that is none for its slice
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from jax.experimental import topologies

    try:
        if hardware.platform == "tpu":
            slices = dict(hardware.slices)
            if count not in slices:
                raise ValueError(f"known slices of this TPU have {', '.join(map(str, slices))} devices, not {count}")
            return list(topologies.get_topology_desc(slices[count], "tpu").devices)
        node = min(hardware.node, count)
        if count % node:
            raise ValueError(f"{count} devices do not fill nodes of {node}")
        shape = f"{count // node}x{node}x1"
        described = {"target_config": hardware.description, "topology": shape}
        return list(topologies.get_topology_desc("", "cuda", **described).devices)
    except (RuntimeError, ImportError, KeyError, NotImplementedError) as error:
        how, reason = _install(hardware), _first_line(error)
        if "lockfile" in reason:
            how = "libtpu serves one program at a time: wait for the other one to end"
        raise ValueError(f"cannot compile for {hardware.platform} here ({reason}): {how}") from error


def _install(hardware: Hardware) -> str:
    """How to get the compiler that goes with the installed jax."""
    import jax

    return INSTALL[hardware.platform].format(version=jax.__version__)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]


def seconds_of(move: hlo.Collective, hardware: Hardware, count: int) -> float:
    """How long a collective takes at the links' full speed, all groups at once."""
    members = move.members or count
    share = {"all-reduce": 2 * (members - 1) / members, "collective-permute": 1.0}.get(
        move.kind, (members - 1) / members
    )
    group = move.groups[0] if move.groups else range(count)
    nodes: dict[int, int] = {}
    for device in group:
        nodes[device // hardware.node] = nodes.get(device // hardware.node, 0) + 1
    # What goes to other nodes is shared by the members on a node, each through its own link.
    speed = hardware.links if len(nodes) == 1 else min(hardware.links, max(nodes.values()) * hardware.between)
    return move.bytes * share / speed


def search(config: Config, options: Options, plan: Plan) -> tuple[int, Plan] | None:
    """The fewest parts of a batch that fit, and what they need; by halving or doubling from the config's own."""
    import jax  # noqa: F401 - opened before, by `compiled`

    spread = config.batch // config.accumulate // plan.rows
    best = (config.accumulate, plan) if plan.fits else None
    parts = config.accumulate
    while True:
        parts = parts // 2 if best else parts * 2
        if parts < 1 or config.batch % (parts * spread) or (best and parts * 2 != best[0]):
            return best
        tried = compiled(dataclasses.replace(config, accumulate=parts), options.hardware, options.devices)
        print(f"accumulate {parts}: {tried.rows} rows at a time, {_gb(tried.peak)} a device", flush=True)
        if tried.fits:
            grew = best is not None
            best = (parts, tried)
            if not grew:
                return best
        elif best:
            return best


def described(config: Config, options: Options, plan: Plan) -> str:
    """A plan in words."""
    sizes = " x ".join(f"{name} {getattr(config.mesh, name)}" for name in ("data", "fsdp", "sequence", "tensor"))
    both = plan.compute_seconds + plan.link_seconds
    lines = [
        f"{options.devices} x {options.hardware}, mesh {sizes}; compiled in {plan.seconds_to_compile:.0f} s",
        f"{plan.parameters / 1e9:.2f}B parameters, {plan.tokens / 1e6:.2f}M tokens a step, "
        f"{plan.rows} rows of {config.data.block - 1} tokens on a device at a time, accumulate {config.accumulate}",
        f"memory of a device: {_gb(plan.peak)} of {_gb(plan.limit)}: {'fits' if plan.fits else 'DOES NOT FIT'}",
        *(f"    {name:32} {_gb(size)}" for name, size in plan.memory.items()),
        "collectives of a step:",
        *(
            f"    {kind:20} {found['count']:6.0f} times  {_gb(found['bytes'])}  {found['seconds']:.2f} s"
            for kind, found in plan.collectives.items()
        ),
        f"    the largest gathers {_gb(plan.largest_gather)}; {plan.rematerialisations} arrays made whole to move them",
        f"operations of a step: {plan.model_flops / 1e15:.1f} PFLOP of the model (causal attention counted half), "
        f"{plan.program_flops / 1e15:.1f} PFLOP of the program",
        f"a step takes at least {max(plan.compute_seconds, plan.link_seconds):.1f} s: products at the devices' peak "
        f"{plan.compute_seconds:.1f} s, collectives at the links' speed {plan.link_seconds:.1f} s; {both:.1f} s if "
        "neither hides behind the other",
        f"that is at most {plan.tokens / options.devices / max(plan.compute_seconds, plan.link_seconds):,.0f} tokens/s "
        f"a device",
    ]
    return "\n".join(lines)


def suggestion(config: Config, found: tuple[int, Plan] | None) -> str:
    """The largest part of a batch that fits, in words."""
    if found is None:
        return (
            "no part of the batch fits: take more devices, a larger --mesh.fsdp or --mesh.tensor, or --model.remat full"
        )
    parts, plan = found
    return f"largest that fits: {plan.rows} rows at a time, with --accumulate {parts} ({_gb(plan.peak)} a device)"


def _with(shapes: Any, placed: Any) -> Any:
    import jax

    return jax.tree.map(lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), shapes, placed)


def _bytes_per_device(tree: Any) -> int:
    import jax
    import numpy as np

    leaves = jax.tree.leaves(tree)
    return sum(int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize for leaf in leaves)


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


@contextlib.contextmanager
def _said_by_compiler() -> Iterator[Any]:
    """What the compiler, which is C++, writes to the standard error meanwhile; it is passed on if the block fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:

        def said() -> str:
            file.seek(0)
            return file.read().decode(errors="replace")

        text = ""
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: text
        except BaseException:
            os.dup2(kept, 2)
            sys.stderr.write(said())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            text = said()


if __name__ == "__main__":
    configs.run(main)
