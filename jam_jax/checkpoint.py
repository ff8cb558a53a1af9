"""Model directories and training checkpoints: the only door to Orbax.

A model directory describes itself, so every command takes one and needs nothing else:

    model.json            kind and config of the model
    tokenizer/            the tokenizer that its ids belong to
    checkpoints/STEP/params       parameters: float32, or, of an import, the type in which they came
    checkpoints/STEP/opt_state    optimizer state (training runs only)

A training run adds config.json, metrics.jsonl and tensorboard/. Converted and fused models have the one step 0.
"""

import contextlib
import dataclasses
import functools
import gc
import glob
import json
import shutil
import sys
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from logging import LogRecord, getLogger
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import preservation_policy as preservation

from jam_jax import checkpoint_blocks, hosts, progress, streaming
from jam_jax.config import ClipConfig, InceptionConfig, ModelConfig, VqganConfig, model_from_dict, save_json
from jam_jax.models import clip, inception, model, vqgan
from jam_jax.streaming import BLOCK_BYTES, Leaf
from jam_jax.trees import paths

logging.set_verbosity(logging.ERROR)  # Orbax reports every file it touches


def shapes(config: ModelConfig) -> dict:
    """Parameter tree of a config as ShapeDtypeStructs."""
    return jax.tree.map(lambda leaf: leaf, _traced(config))  # a tree of the caller's own


@functools.lru_cache(maxsize=32)
def _traced(config: ModelConfig) -> dict:
    # Tracing a VQGAN takes a second, and a command asks for the shapes of one several times.
    if isinstance(config, VqganConfig):
        return jax.eval_shape(lambda: vqgan.init(config, jax.random.key(0)))
    if isinstance(config, ClipConfig):
        return jax.eval_shape(lambda: clip.init(config, jax.random.key(0)))
    if isinstance(config, InceptionConfig):
        return inception.shapes(config)
    return model.shapes(config)


def save_model(
    directory: str | Path, config: ModelConfig, params: dict, *, tokenizer: str | Path | None = None
) -> None:
    """Write a model directory, whole or not at all.

    Raises ValueError when `directory` already holds something, OSError when the disk is full or not writable.
    """
    with new_directory(directory) as aside:
        describe(aside, config, tokenizer)
        with manager(aside) as checkpoints:
            save(checkpoints, 0, params)


def save_leaves(
    directory: str | Path,
    config: ModelConfig,
    leaves: dict,
    *,
    tokenizer: str | Path | None = None,
    task: str = "write",
) -> None:
    """Write a model directory from a tree of leaves (`streaming`), whole or not at all, a few blocks in memory.

    `task` names the progress line. Raises as `save_model`, and what reading a leaf raises.
    """
    blocks = sum(1 for leaf in paths(leaves).values() for _ in streaming.blocks(leaf))
    mine = -(-blocks // jax.process_count())
    with new_directory(directory) as aside, progress.bar(task, mine) as advance:
        if hosts.first():
            describe(aside, config, tokenizer)
        handler = checkpoint_blocks.LeafHandler(advance)
        checkpoints = ocp.CheckpointManager(
            aside.absolute() / "checkpoints", item_handlers={"params": checkpoint_blocks.tree_handler(handler)}
        )
        with checkpoints, _clear_errors(f"could not save to {directory}", unless=handler):
            checkpoints.save(0, args=ocp.args.Composite(params=ocp.args.PyTreeSave(leaves)))
            checkpoints.wait_until_finished()


def open_leaves(directory: str | Path, *, step: int | None = None) -> tuple[ModelConfig, dict]:
    """Config and parameters of a model directory as a tree of leaves, nothing of which is read yet.

    ValueError as `load_model`.
    """
    config = read_model_config(directory)
    expected = shapes(config)
    path = _item(directory, "params", step)
    args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=Leaf), expected)
    _check_params(path, expected)
    handler = checkpoint_blocks.tree_handler(checkpoint_blocks.LeafHandler())
    with ocp.Checkpointer(handler) as checkpointer, _clear_errors(f"{path} is missing or damaged", ValueError):
        return config, checkpointer.restore(path, ocp.args.PyTreeRestore(restore_args=args))


def check_vacant(directory: str | Path) -> None:
    """ValueError if `directory` is there and is not an empty directory: nothing is overwritten."""
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory} already exists: remove it or choose another target")


@contextlib.contextmanager
def new_directory(directory: str | Path) -> Iterator[Path]:
    """A directory written aside that takes its name when the block ends, and vanishes when the block fails.

    Several processes share it: the first makes and names it, when all have come to the block's begin and end. Of
    runs that know nothing of each other the one that began last writes it, and the others fail (OSError, ValueError).
    """
    directory = Path(directory)
    check_vacant(directory)
    hosts.wait("directory looked at")
    run = "run" if jax.process_count() > 1 else uuid.uuid4().hex[:8]  # so that no two write into one directory
    aside = directory.with_name(f".{directory.name}.{run}.partial")
    if hosts.first():
        _clear_aside(directory)
        aside.mkdir(parents=True)
    try:
        hosts.wait("directory made")
        yield aside
        hosts.wait("directory written")
        if hosts.first():
            check_vacant(directory)
            if directory.exists():
                directory.rmdir()
            aside.rename(directory)
        hosts.wait("directory named")
    except BaseException as error:
        if isinstance(error, OSError) and not aside.exists():
            raise OSError(f"another process has begun to write {directory} since: this one has stopped") from error
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _clear_aside(directory: Path) -> None:
    """Remove what other runs that were to write this directory left, or are about to name."""
    for suffix in ("partial", "gone"):
        for left in directory.parent.glob(f".{glob.escape(directory.name)}.*.{suffix}"):
            gone = left.with_suffix(".gone")
            with contextlib.suppress(FileNotFoundError):  # its run was quicker
                left.rename(gone)  # at once, so that its run names all of it or nothing
            shutil.rmtree(gone, ignore_errors=True)


def describe(directory: Path, config: ModelConfig, tokenizer: str | Path | None) -> None:
    """Write what makes a model directory describe itself: model.json and a copy of the tokenizer."""
    directory.mkdir(parents=True, exist_ok=True)
    save_json(config, directory / "model.json")
    if tokenizer and not (directory / "tokenizer").exists():
        shutil.rmtree(directory / ".tokenizer", ignore_errors=True)  # of a run that was killed here
        shutil.copytree(tokenizer, directory / ".tokenizer")
        (directory / ".tokenizer").rename(directory / "tokenizer")


def read_model_config(directory: str | Path) -> ModelConfig:
    """The config of a model directory; ValueError if it is none."""
    path = Path(directory) / "model.json"
    if not path.is_file():
        what = "has no model.json" if Path(directory).is_dir() else "does not exist"
        raise ValueError(f"{directory} is no model directory: it {what}")
    try:
        return model_from_dict(json.loads(path.read_text()))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def tokenizer_dir(directory: str | Path) -> Path:
    """The tokenizer kept in a model directory; ValueError if there is none."""
    path = Path(directory) / "tokenizer"
    if not (path / "tokens.json").is_file():
        raise ValueError(f"{directory} holds no tokenizer: give one with --tokenizer")
    return path


@contextlib.contextmanager
def manager(
    directory: str | Path, *, keep: int | None = None, also: Callable[[int], bool] = lambda step: False
) -> Iterator[ocp.CheckpointManager]:
    """The checkpoints of a model directory; saves are asynchronous and finished when the block ends.

    Kept are the last `keep` (None: all), and those of other steps as long as `also` says so. What a save that was
    stopped has left is removed.
    """
    path = Path(directory).absolute() / "checkpoints"
    policy = preservation.AnyPreservationPolicy([preservation.LatestN(keep), _Chosen(also)])
    options = ocp.CheckpointManagerOptions(preservation_policy=policy, create=True, cleanup_tmp_directories=True)
    with ocp.CheckpointManager(path, options=options) as checkpoints:
        yield checkpoints
        with _clear_errors(f"could not save to {directory}"):
            checkpoints.wait_until_finished()


@dataclasses.dataclass
class _Chosen:
    """An Orbax policy: keeps the steps that it is told to."""

    chosen: Callable[[int], bool]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        return [self.chosen(found.step) for found in checkpoints]


def save(checkpoints: ocp.CheckpointManager, step: int, params: dict, opt_state: Any = None) -> None:
    """Save one step; the write goes on in the background."""
    items = {"params": _blocks(params)}
    if opt_state is not None:
        items["opt_state"] = _blocks(opt_state)
    with _clear_errors(f"could not save to {checkpoints.directory}"):
        checkpoints.save(step, args=ocp.args.Composite(**items))


def _blocks(tree: Any) -> ocp.args.StandardSave:
    """In blocks, so that whoever reads a part (another mesh, a fusion, an export) need not read a whole array."""
    return ocp.args.StandardSave(tree, jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=BLOCK_BYTES), tree))


def steps(directory: str | Path) -> list[int]:
    """The steps that a model directory holds, finished ones only, in order."""
    folder = Path(directory) / "checkpoints"
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(n) for n in names if n.isdigit() and (folder / n / "params").is_dir())


def load_model(
    directory: str | Path, *, step: int | None = None, shardings: dict | None = None
) -> tuple[ModelConfig, dict]:
    """Config and parameters of a model directory: the last step, or `step`.

    `shardings` mirrors the parameters; every device then reads its own part only. Raises ValueError for a directory
    that is missing, damaged, or whose parameters are not those of its model.json.
    """
    config = read_model_config(directory)
    expected = shapes(config)
    return config, restore(directory, "params", expected, step=step, shardings=shardings)


def restore(directory: str | Path, item: str, expected: Any, *, step: int | None = None, shardings: Any = None) -> Any:
    """Restore one item ("params" or "opt_state") into the structure of `expected` (ShapeDtypeStructs)."""
    path = _item(directory, item, step)
    if shardings is None:
        one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda _: one, expected)
    target = jax.tree.map(lambda s, d: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=d), expected, shardings)
    if item == "params":
        _check_params(path, expected)
    with ocp.StandardCheckpointer() as checkpointer, _clear_errors(f"{path} is missing or damaged", ValueError):
        return checkpointer.restore(path, target)


def _item(directory: str | Path, item: str, step: int | None) -> Path:
    """Where an item of the last step, or of `step`, lies; ValueError if there is none."""
    held = steps(directory)
    if not held:
        raise ValueError(f"{directory} holds no finished checkpoint")
    if step is not None and step not in held:
        raise ValueError(f"{directory} has no step {step}; it has {', '.join(map(str, held))}")
    path = Path(directory).absolute() / "checkpoints" / str(held[-1] if step is None else step) / item
    if item == "opt_state" and not path.is_dir():
        raise ValueError(
            f"{directory} holds no optimizer state at step {path.parent.name}, so it cannot be resumed: "
            f"start from its parameters with --init {directory} and another --out"
        )
    return path


def _check_params(path: Path, expected: dict) -> None:
    """ValueError if the parameters on disk are not those of the model."""
    with ocp.StandardCheckpointer() as checkpointer, _clear_errors(f"{path} is missing or damaged", ValueError):
        found = paths(checkpointer.metadata(path).item_metadata.tree)
    expected = paths(expected)
    lists = {
        "only in the checkpoint": sorted(set(found) - set(expected)),
        "missing from it": sorted(set(expected) - set(found)),
        "of another shape": [
            f"{n} {tuple(found[n].shape)} instead of {expected[n].shape}"
            for n in sorted(set(found) & set(expected))
            if tuple(found[n].shape) != tuple(expected[n].shape)
        ],
    }
    if any(lists.values()):
        text = "; ".join(f"{what}: {', '.join(names)}" for what, names in lists.items() if names)
        raise ValueError(f"{path} does not hold the parameters of its model.json: {text}")


@contextlib.contextmanager
def _clear_errors(
    what: str, kind: type[Exception] = OSError, unless: checkpoint_blocks.LeafHandler | None = None
) -> Iterator[None]:
    """Orbax and TensorStore raise many types with long texts: one line, of one type.

    What is no fault of the files goes through as it is: memory that runs out, of the host or of a device, and what
    kept `unless` from reading the leaves that it was to write.
    """
    try:
        with _quiet():
            yield
    except Exception as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise
        _drop_coroutines(error)
        if unless is not None and unless.failure is not None:
            raise unless.failure from None
        full = "No space left" in str(error) or "ENOSPC" in str(error)
        reason = "no space left on the disk" if full else str(error).strip().split("\n")[0].split(". See ")[0][:200]
        raise kind(f"{what}: {reason}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the page that Orbax logs for every thread that fails: the error that is raised says it, and passes on."""
    level = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        yield
    except Exception:
        getLogger("asyncio").addFilter(_was_awaited)
        raise
    finally:
        logging.set_verbosity(level)


def _was_awaited(record: LogRecord) -> bool:
    """False for what asyncio says of the other writes of a failed save, when they are collected, at any time later."""
    return "exception was never retrieved" not in record.getMessage()


def _drop_coroutines(error: Exception) -> None:
    """Orbax leaves failed coroutines behind, each of which would print a page when it is collected: collect them."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        link: BaseException | None = error
        while link is not None:  # the frames of an error hold what they were waiting for
            traceback.clear_frames(link.__traceback__)
            link = link.__cause__ or link.__context__
        gc.collect()
    finally:
        sys.unraisablehook = hook
