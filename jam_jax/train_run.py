"""The directory of a training run: what a new run or one that goes on trains, and what describes it."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jam_jax import checkpoint, hosts, tokens
from jam_jax import config as configs
from jam_jax.config import Config
from jam_jax.data.mixture import Blocks
from jam_jax.models.model import LanguageConfig, computes_the_same, require_language
from jam_jax.train_eval import Evaluation
from jam_jax.train_step import Training

# Fields that a resumed run may change without becoming another run.
FREE_ON_RESUME = {
    *("steps", "accumulate", "mesh", "log_every", "evaluate", "profile", "resume", "out", "init", "tokenizer", "model"),
    *("save_every", "keep", "keep_every", "keep_epochs", "max_skipped"),
}
FREE_IN = {"data": ("workers",), "loss": ("chunk",)}  # the same inside other fields


class Kept:
    """Which steps of a run are saved, and which of the checkpoints stay beside the latest."""

    def __init__(self, config: Config, blocks: Blocks, evaluation: Evaluation) -> None:
        self._config, self._blocks, self._evaluation = config, blocks, evaluation

    def due(self, step: int) -> bool:
        """Whether a step is saved: the last, every `save_every`th, those that end an epoch, and those evaluated."""
        every = self._config.save_every
        regular = step == self._config.steps or bool(every and step % every == 0)
        return regular or self._ends_epoch(step) or self._evaluation.due(step)

    def for_good(self, step: int) -> bool:
        """Whether a checkpoint stays: every `keep_every`th, those of epochs, and the best evaluated so far."""
        every = self._config.keep_every
        return bool(every and step % every == 0) or self._ends_epoch(step) or step == self._evaluation.best

    def _ends_epoch(self, step: int) -> bool:
        return self._config.keep_epochs and self._epochs(step) > self._epochs(step - 1)

    def _epochs(self, step: int) -> int:
        """Whole epochs of the first source after a step."""
        return int(next(iter(self._blocks.epochs(step * self._config.batch).values())))


def subject(config: Config, out: Path, *, resumed: bool) -> tuple[LanguageConfig, Path]:
    """The model to train and its tokenizer; ValueError where config, `init` and what `out` holds contradict.

    `resumed`: whether `out` holds a checkpoint. What a run left that was killed before its first is begun again.
    """
    if resumed and config.resume == "never":
        raise ValueError(f"{out} already holds a run: go on with --resume auto, or choose another --out")
    # A name that begins with a dot is of a file that was being written when a run was killed.
    if not resumed and out.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
        if config.resume == "never" or not (out / "config.json").is_file():
            raise ValueError(f"{out} is not empty and holds no finished checkpoint: remove it, or choose another --out")
        require_same_run(config, out)
    if config.model is None and not config.init:
        raise ValueError("nothing to train: give a model in the config, or a checkpoint with --init DIR")
    origin = str(out) if resumed else config.init
    found = checkpoint.read_model_config(origin) if origin else config.model
    assert found is not None
    language = require_language(found, origin or "the config's model")
    if config.model and not computes_the_same(found, config.model):
        raise ValueError(f"{origin} holds another model than this config describes")
    if origin and config.tokenizer and tokens.load(config.tokenizer) != tokens.load(checkpoint.tokenizer_dir(origin)):
        raise ValueError(f"{origin} was made with another tokenizer than {config.tokenizer}: leave --tokenizer out")
    if resumed:
        require_same_run(config, out)
    tokenizer = Path(config.tokenizer) if config.tokenizer else checkpoint.tokenizer_dir(origin)
    # The config's own says how to run it: dtype, rematerialisation.
    return require_language(config.model, "the config's model") if config.model else language, tokenizer


def restored(out: Path, run: Training) -> tuple[dict, Any]:
    """Parameters and optimizer state of a run's last checkpoint; ValueError, with a way out, where it is damaged."""
    try:
        params = checkpoint.restore(out, "params", run.shapes, shardings=run.placed)
        return params, checkpoint.restore(out, "opt_state", run.state_shapes, shardings=run.state_placed)
    except ValueError as error:
        *before, last = checkpoint.steps(out)
        if not before:
            raise
        path = out / "checkpoints" / str(last)
        raise ValueError(f"{error}; to go on from step {before[-1]} remove {path}") from error


def require_same_run(config: Config, out: Path) -> None:
    """ValueError, with what differs, if the run in a directory was of another config."""
    written = json.loads((out / "config.json").read_text(encoding="utf-8"))
    before = configs.to_dict(configs.from_dict(Config, written))  # with the defaults of fields that came later
    now = configs.to_dict(config)
    changed = [
        name
        for name in now
        if name not in FREE_ON_RESUME
        and _without(before[name], FREE_IN.get(name, ())) != _without(now[name], FREE_IN.get(name, ()))
    ]
    if changed:
        raise ValueError(f"{out} was run with another {', '.join(changed)}: resume with the same, or change --out")


def _without(values: Any, names: tuple[str, ...]) -> Any:
    return {k: v for k, v in values.items() if k not in names} if isinstance(values, dict) else values


@contextlib.contextmanager
def run_directory(out: Path, config: Config, model_config: LanguageConfig, tokenizer: Path) -> Iterator[None]:
    """Describe the run in its directory; a run that ends before its first checkpoint leaves nothing behind.

    The first process does both. ValueError on every process if the directory cannot be made or written to.
    """
    hosts.wait("run looked at")  # by all, before the first makes anything
    try:
        reason = ""
        if hosts.first():
            try:
                # First of all what tells, if this process is killed now, that the directory is of this run.
                out.mkdir(parents=True, exist_ok=True)
                configs.save_json(dataclasses.replace(config, model=model_config), out / "config.json")
                checkpoint.describe(out, model_config, tokenizer)
            except OSError as error:
                reason = f" ({error})"
        if not hosts.all_say(not reason) or not hosts.all_say(os.access(out, os.W_OK)):
            raise ValueError(f"{out} cannot be written to by every process of the run{reason}: choose another --out")
        yield
    except BaseException:
        if hosts.first() and not checkpoint.steps(out):
            shutil.rmtree(out, ignore_errors=True)
        raise
