"""Zero-shot accuracy as in Table 1 (arXiv 2309.15564), measured by EleutherAI's harness on local files.

A task whose files are missing or damaged is told of in one line, and the others go on.
"""

import dataclasses
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jam_jax import config, hosts
from jam_jax.config import MeshConfig
from jam_jax.evaluate import paper, task_files
from jam_jax.evaluate.task_files import TASKS, Item, TaskName

if TYPE_CHECKING:
    from jam_jax.evaluate.batched import Batched

Figures = dict[TaskName, dict[str, Any]]  # what was measured of a task
Faults = dict[TaskName, str]  # why a task was not


@dataclasses.dataclass(frozen=True)
class ZeroShot:
    """Zero-shot accuracy on the tasks of the paper's Table 1, beside its rows."""

    model: str  # model directory, with its tokenizer
    tasks: str  # directory with a folder of published files for each task (docs/zero_shot.md)
    out: str = ""  # JSON file to write; empty: print only
    only: tuple[TaskName, ...] = ()  # tasks to measure; none named: all
    # What opens a document stands before every context, as in training. False: only where there is no context, as a
    # tokenizer does that adds nothing by itself (GPT-2's, Qwen's).
    start: bool = True
    batch_tokens: int = 8192  # of a batch, padded, on each device that has rows of its own
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self) -> None:
        config.at_least(self, 1, "batch_tokens")


def measure(options: ZeroShot) -> None:
    """The `zero-shot` command; ValueError, after the table, names the tasks that could not be measured."""
    # Read when the libraries open: nothing is looked for on the network, and there are no bars beside ours.
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TQDM_DISABLE"):
        os.environ.setdefault(name, "1")
    with hosts.together():
        if importlib.util.find_spec("lm_eval") is None:
            raise ValueError("zero-shot tasks need EleutherAI's harness: pip install -r requirements-zero-shot.txt")
    from jam_jax import checkpoint, tokens
    from jam_jax.evaluate.batched import load
    from jam_jax.models.model import require_language

    with hosts.together():
        model_config = require_language(checkpoint.read_model_config(options.model), options.model)
        tokenizer = checkpoint.tokenizer_dir(options.model)
        space = tokens.load(tokenizer)
    items, faults = _read(options) if hosts.first() else ({}, {})
    if not hosts.all_say(bool(items) or not hosts.first()):
        raise ValueError(f"no task can be measured: {next(iter(faults.values()), options.tasks)}")
    batched = load(options.model, model_config, space, options.mesh, options.batch_tokens)
    if not hosts.first():
        batched.together.follow()
        return
    try:
        figures = _figures(options, batched, tokenizer, items, faults)
    finally:
        batched.together.release()
    print(table(options.model, figures))
    if options.out:
        _write(options, figures, faults)
    if faults:
        raise ValueError(f"{len(faults)} of {len(faults) + len(figures)} tasks were not measured: {', '.join(faults)}")


def _read(options: ZeroShot) -> tuple[dict[TaskName, list[Item]], Faults]:
    """The items of every task whose files can be read, and what is wrong with those of the others."""
    items: dict[TaskName, list[Item]] = {}
    faults: Faults = {}
    for name in options.only or TASKS:
        try:
            items[name] = task_files.read(name, options.tasks)
        except (ValueError, OSError) as error:
            faults[name] = _complain(name, error)
    return items, faults


def _complain(name: str, error: Exception) -> str:
    print(f"{name}: {error}", file=sys.stderr, flush=True)
    return str(error)


def _figures(
    options: ZeroShot, batched: "Batched", tokenizer: Path, items: dict[TaskName, list[Item]], faults: Faults
) -> Figures:
    """What was measured of every task: shares from 0 to 1, with their standard errors; adds to `faults`."""
    from jam_jax.data.tokenizers import open_tokenizer
    from jam_jax.evaluate.harness import Adapter
    from jam_jax.evaluate.harness import measure as measured

    adapter = Adapter(batched, open_tokenizer(tokenizer), options.start)
    figures: Figures = {}
    for name, asked in items.items():
        print(f"{TASKS[name].column}: {len(asked)} records", flush=True)
        try:
            found = measured(adapter, name, asked)
        except ValueError as error:
            faults[name] = _complain(name, error)
            continue
        figures[name] = {"column": TASKS[name].column, "metric": TASKS[name].metric, "records": len(asked), **found}
    return figures


def table(model: str, figures: Figures) -> str:
    """Accuracies in percent, with standard errors where there are any, above the paper's rows."""
    columns = {task.column: task.metric for task in TASKS.values()}
    shown = {found["column"]: _percent(found) for found in figures.values()}
    rows = [["", *columns], ["", *columns.values()], [Path(model).name, *(shown.get(c, "") for c in columns)]]
    for name, row in paper.ZERO_SHOT.items():
        rows.append([f"paper: {name}", *(f"{row[c]:.1f}" if c in row else "" for c in columns)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows)
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _percent(found: dict[str, Any]) -> str:
    error = found.get(f"{found['metric']}_stderr")
    return f"{100 * found[found['metric']]:.1f}" + (f" ± {100 * error:.1f}" if error is not None else "")


def _write(options: ZeroShot, figures: Figures, faults: Faults) -> None:
    values = {"model": options.model, "tasks": options.tasks, "start": options.start, "figures": figures}
    values |= {"faults": faults, "paper": paper.ZERO_SHOT}
    path = Path(options.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    config.write_whole(path, json.dumps(values, indent=1) + "\n")
