"""What a run is: frozen dataclasses, read from a Python file and overridden on the command line.

A config file holds `get_config() -> Config`. `tyro` turns the fields into typed options (`--optim.learning-rate 1e-4`);
the resolved config is saved as JSON beside every checkpoint. No jax here, so that every `--help` is quick.
"""

import dataclasses
import importlib.util
import json
import math
import os
import re
import signal
import sys
import threading
import types
import typing
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from jam_jax.model_config import (
    ClipConfig,
    CrossConfig,
    DecoderConfig,
    InceptionConfig,
    ModelConfig,
    VqganConfig,
    at_least,
)


def check_seed(seed: int) -> None:
    """ValueError for a seed that the random generators of jax and NumPy do not both take."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"a seed is a whole number from 0 to {2**32 - 1}, got {seed}")


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One token store of a mixture, and how blocks are cut from it."""

    store: str  # directory of a token store
    weight: float = 1.0  # share of the blocks, relative to the other sources
    # "stream": documents one after another, cut anywhere (the original); "picture": the same, but never inside a
    # picture, with padding before one that moves to the next block; "document": one document a block, padded; "packed":
    # as many whole documents as fit, each of which sees itself alone.
    cut: Literal["stream", "picture", "document", "packed"] = "stream"
    within_documents: bool = False  # True: a stream's documents see themselves alone, with positions from 0
    cm3: float = 1.0  # share of the blocks that pass through the CM3 objective; the rest stay causal
    cm3_segments: float = 0.0  # share of those in which whole texts or pictures are masked in place of spans
    # Share of the pairs whose whole caption is masked, or left out after retrieved documents: what guidance contrasts
    # with, without these documents and with them.
    mask_caption: float = 0.0
    prompt_loss: bool = True  # False: no loss on the prompt of an instruction
    neighbours: str = ""  # neighbour table of the store: documents of its bank go before each document; empty: none do
    retrieved: int = 2  # documents that go before one, where its neighbours are that many
    too_similar: float = 0.9  # neighbours that score above it against the document are skipped

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"a source's weight is a number from 0 on, got {self.weight}")
        for name in ("cm3", "cm3_segments", "mask_caption"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share from 0 to 1, got {getattr(self, name)}")
        at_least(self, 1, "retrieved")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The blocks that a run trains on, or the pictures, for an image tokenizer."""

    sources: tuple[SourceConfig, ...] = ()
    block: int = 4097  # tokens in a block: inputs are the first block - 1, targets the last
    cm3_mean: float = 1.0  # Poisson mean of the number of spans
    cm3_mask_loss: bool = True  # False: no loss on <mask:i>, as in the CM3 paper; JAM's code has it
    pictures: tuple[str, ...] = ()  # for an image tokenizer: TFDS directories or image folders
    workers: int = 0  # Grain's reader processes; 0 reads in the training process

    def __post_init__(self) -> None:
        at_least(self, 2, "block")
        at_least(self, 0, "cm3_mean", "workers")


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW. Where the paper is silent the defaults are OPT's."""

    learning_rate: float = 3e-5  # peak
    warmup: int = 500  # steps
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    final_share: float = 0.1  # of the peak, at the last step
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1  # on matrices only
    clip: float = 1.0  # global norm of the gradient
    state: Literal["float32", "bfloat16"] = "float32"  # in which Adam's moments are kept
    # What is trained, as patterns of whole parameter paths; the rest is frozen and has no optimizer state. Empty: all.
    # A token table may end in @text, @image or @special: its rows of that modality. ("cross/.*", "embed/tokens@image")
    train_only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, got {getattr(self, name)}")
        if self.state == "bfloat16" and self.beta2 > 0.98:
            raise ValueError(
                f"beta2={self.beta2} needs optim.state=float32: a moment in bfloat16 does not move by less than a "
                "256th of itself"
            )
        at_least(self, 0, "warmup")
        if not 0 <= self.final_share <= 1:
            raise ValueError(f"final_share is a share from 0 to 1, got {self.final_share}")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Next-token cross entropy, a mean over the targets, each with its weight."""

    z: float = 0.0  # weight of the mean squared log of the softmax's denominator, which keeps logits from drifting
    text: float = 1.0  # weights of targets by what they are: of texts
    image: float = 1.0  # of pictures' codes
    special: float = 1.0  # of all others: breaks, ends, masks
    chunk: int = 2048  # tokens per device whose logits are held at once

    def __post_init__(self) -> None:
        at_least(self, 0, "z", "text", "image", "special")
        at_least(self, 1, "chunk")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh's axes; -1 takes the devices that the others leave."""

    data: int = -1  # replicas
    fsdp: int = 1  # shards of parameters and optimizer state
    tensor: int = 1  # shards of heads and feed-forward width
    sequence: int = 1  # shards of a row's length, for long contexts


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What a run measures and shows of itself while it trains."""

    every: int = 0  # steps; each evaluation is also a checkpoint, the best of which is kept; 0: never
    stores: tuple[str, ...] = ()  # held-out token stores
    documents: int = 200  # of each store, the first ones
    prompts: tuple[str, ...] = ()  # what documents are made of to look at
    mode: Literal["answer", "picture", "text"] = "answer"  # what a prompt is: a question, a caption, a text's begin

    def __post_init__(self) -> None:
        at_least(self, 0, "every")
        at_least(self, 1, "documents")
        if self.every and not (self.stores or self.prompts):
            raise ValueError("evaluate.every needs something to evaluate: give --evaluate.stores or --evaluate.prompts")


@dataclasses.dataclass(frozen=True)
class Config:
    """One training run."""

    out: str = ""  # directory of the run: checkpoints, metrics, the resolved config
    model: ModelConfig | None = None  # None: the model of `init`
    init: str = ""  # checkpoint to start from; empty: random parameters
    tokenizer: str = ""  # tokenizer's directory, kept with the checkpoint; empty: the one of `init`
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    mesh: MeshConfig = MeshConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    steps: int = 1000
    batch: int = 8  # blocks in a step, over all devices
    accumulate: int = 1  # parts of a batch that are computed one after another, to save memory
    seed: int = 0
    log_every: int = 20  # steps
    save_every: int = 0  # steps between checkpoints; 0: only the last
    keep: int = 1  # checkpoints kept, the latest ones
    keep_every: int = 0  # checkpoints of steps that this divides are kept for good; 0: none
    keep_epochs: bool = False  # also save at the end of each epoch of the first source, and keep that for good
    max_skipped: int = 10  # steps in a row that may be skipped, their gradient not being finite, before the run stops
    profile: str = ""  # FIRST:LAST, steps during which a profile is taken for TensorBoard, into `out`/profile
    # "auto": go on from the last checkpoint in `out`, if there is one
    resume: Literal["never", "auto"] = "never"

    def __post_init__(self) -> None:
        at_least(self, 1, "steps", "batch", "accumulate", "log_every", "keep", "max_skipped")
        at_least(self, 0, "save_every", "keep_every")
        if self.batch % self.accumulate:
            raise ValueError(f"batch {self.batch} does not divide into {self.accumulate} parts: choose --accumulate")
        if self.profile and not re.fullmatch(r"[1-9]\d*:[1-9]\d*", self.profile):
            raise ValueError(f"profile is FIRST:LAST, such as 10:15, got {self.profile}")
        if self.profile and int(self.profile.split(":")[0]) > int(self.profile.split(":")[1]):
            raise ValueError(f"profile is FIRST:LAST, and the last step comes before the first in {self.profile}")
        check_seed(self.seed)


MODELS: dict[str, type] = {
    "decoder": DecoderConfig,
    "cross": CrossConfig,
    "vqgan": VqganConfig,
    "clip": ClipConfig,
    "inception": InceptionConfig,
}

T = TypeVar("T")


def to_dict(config: Any) -> Any:
    """A config as plain JSON values; a model config carries its `kind`."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        kind = [k for k, t in MODELS.items() if type(config) is t]
        return ({"kind": kind[0]} if kind else {}) | {
            f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)
        }
    return [to_dict(v) for v in config] if isinstance(config, tuple | list) else config


def from_dict(cls: type[T], values: dict[str, Any]) -> T:
    """Inverse of `to_dict`; ValueError names unknown fields, so an old or foreign file never half-loads."""
    values = {k: v for k, v in values.items() if k != "kind"}
    hints = typing.get_type_hints(cls)
    if unknown := sorted(set(values) - set(hints)):
        raise ValueError(f"{cls.__name__} has no field {', '.join(unknown)}")
    return cls(**{k: _value(hints[k], v) for k, v in values.items()})


def model_from_dict(values: dict[str, Any]) -> ModelConfig:
    """The model config that `to_dict` wrote, by its `kind`."""
    if values.get("kind") not in MODELS:
        raise ValueError(f"unknown kind of model {values.get('kind')!r}; known: {', '.join(MODELS)}")
    return from_dict(MODELS[values["kind"]], values)


def _value(hint: Any, value: Any) -> Any:
    if isinstance(value, dict):
        return model_from_dict(value) if "kind" in value else from_dict(hint, value)
    if isinstance(value, list):
        item = typing.get_args(hint)[0]
        return tuple(_value(item, v) for v in value)
    return value


def read_config(path: str | Path, kind: type = Config) -> Any:
    """`get_config()` of a Python file; ValueError if there is none, if it fails, or if it gives no `kind`.

    Annotated as Any, so that a config file may build on the model of another whatever its kind.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no config file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        found = module.get_config() if hasattr(module, "get_config") else None
    except Exception as error:  # whatever a user's Python raises
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    if not hasattr(module, "get_config"):
        raise ValueError(f"{path} has no get_config()")
    if not isinstance(found, kind):
        raise ValueError(f"{path}: get_config() must give a {kind.__name__}, it gives {type(found).__name__}")
    return found


def save_json(config: Any, path: Path) -> None:
    """Write a config as indented JSON."""
    write_whole(path, json.dumps(to_dict(config), indent=1) + "\n")


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file aside and rename it: a full disk or a stop leaves what was there. A text is written as UTF-8."""
    # A name of its own: the processes of a run on several machines write the same description.
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


@typing.overload
def cli(cls: type[T], args: Sequence[str] | None = None, *, prog: str, description: str = "") -> T: ...
@typing.overload
def cli(cls: types.UnionType, args: Sequence[str] | None = None, *, prog: str, description: str = "") -> Any: ...
def cli(cls: Any, args: Sequence[str] | None = None, *, prog: str, description: str = "") -> Any:
    """Options on the command line as a dataclass; with `--config FILE` its `get_config()` gives the defaults.

    A union of dataclasses makes each of them a subcommand (`Import | Export`: `import` and `export`). An unknown or
    ill-typed option ends the program with one message, a suggestion and exit code 2.
    """
    import tyro

    args = list(sys.argv[1:] if args is None else args)
    default: Any = tyro.MISSING_NONPROP
    form: Any = cls
    if cls is Config:
        default = Config()
        path = _take_option(args, "--config")
        if path:
            default = read_config(path)
        description += "\n\n--config FILE  a Python file with get_config(); the options below override its fields"
        # The kind of model is the config file's choice; its fields are plain options (`--model.vocab-size 1024`).
        form = tyro.conf.AvoidSubcommands[Config]
    return tyro.cli(form, args=args, default=default, prog=prog, description=description)


def cli_first(
    cls: type[T], args: Sequence[str] | None = None, *, prog: str, description: str = ""
) -> tuple[T, list[str]]:
    """As `cli`, for a command with options of its own beside those of another class: these, and what is left."""
    import tyro

    args = list(sys.argv[1:] if args is None else args)
    if "--help" in args or "-h" in args:
        return tyro.cli(cls, args=["--help"], prog=prog, description=description), []
    return tyro.cli(cls, args=args, prog=prog, description=description, return_unknown_args=True)


def _take_option(args: list[str], name: str) -> str:
    """Remove `name VALUE` or `name=VALUE` from args and give the value, '' if absent."""
    for i, arg in enumerate(args):
        if arg.startswith(name + "="):
            return args.pop(i).split("=", 1)[1]
        if arg == name:
            if i + 1 == len(args):
                raise ValueError(f"{name} needs a file, e.g. {name} configs/world/llm.py")
            args.pop(i)
            return args.pop(i)
    return ""


def run(main: Any) -> None:
    """Run a command's `main()`; a user's mistake (ValueError) or a full disk ends in one line and exit code 1.

    With JAM_JAX_TRACEBACK set in the environment it ends in the traceback instead. A warning is one line too.
    """
    if threading.current_thread() is threading.main_thread():  # a scheduler's stop cleans up as Ctrl-C does
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr, flush=True)
    try:
        main()
    except (ValueError, OSError) as error:
        if os.environ.get("JAM_JAX_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
