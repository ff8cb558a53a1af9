"""The zero-shot command: the table beside the paper's, what it does without a file, and several processes as one."""

import importlib.util
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jam_jax import api, checkpoint
from jam_jax.evaluate import paper, task_files, zero_shot
from jam_jax.evaluate.__main__ import main
from jam_jax.evaluate.task_files import TASKS, Choice
from tests import models, training, zero_shot_files


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model directory and one of tasks."""
    root = tmp_path_factory.mktemp("zero_shot")
    return models.make_model(root), zero_shot_files.write(root / "tasks")


def options(made: tuple[Path, Path], out: Path, *more: str) -> list[str]:
    return ["zero-shot", "--model", str(made[0]), "--tasks", str(made[1]), "--out", str(out), *more]


def by_hand(model: api.Model, item: task_files.Item, per_character: bool) -> bool:
    """Whether the right answer is the likeliest, document by document in float64."""
    choice = isinstance(item, Choice)
    pairs = [(item.text, a) for a in item.answers] if choice else [(t, item.rest) for t in item.texts]
    values = []
    for context, continuation in pairs:
        whole = [model.space.start, *model.tokenizer.encode_text(f"{context} {continuation}")]
        asked = len(whole) - 1 - len(model.tokenizer.encode_text(context))
        ids = whole[-model.config.max_positions - 1 :]
        padded = ids[:-1] + [0] * (model.config.max_positions + 1 - len(ids))
        logits = np.asarray(model.logits(np.array([padded]))[0], np.float64)[: len(ids) - 1]
        likely = np.take_along_axis(logits, np.array(ids)[1:, None], 1)[:, 0] - np.log(np.exp(logits).sum(-1))
        values.append(likely[-asked:].sum() / (len(continuation) if per_character else 1))
    return int(np.argmax(values)) == item.right


def test_the_command_measures_every_task_without_a_network(
    made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    main(options(made, tmp_path / "out" / "figures.json"))
    found = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert found["faults"] == {} and found["paper"] == paper.ZERO_SHOT
    assert list(found["figures"]) == list(TASKS)
    model = api.load(made[0])
    for name in ("piqa", "storycloze", "winogrande"):
        figures, items = found["figures"][name], task_files.read(name, made[1])  # type: ignore[arg-type]
        wanted = np.mean([by_hand(model, item, figures["metric"] == "acc_norm") for item in items])
        assert figures[figures["metric"]] == pytest.approx(wanted)
        assert figures["records"] == len(items) and figures[f"{figures['metric']}_stderr"] >= 0
    said = capsys.readouterr()
    header, metrics, ours, *papers = said.out.splitlines()[-9:]
    assert header.split() == ["PIQA", "ARC-C", "ARC-E", "StoryCloze", "Winograd", "Winogrande"]
    assert metrics.split() == ["acc_norm"] * 3 + ["acc"] * 3
    assert ours.split()[:3] == ["model", f"{100 * found['figures']['piqa']['acc_norm']:.1f}", "±"]
    assert papers[-1].split() == ["paper:", "JAM-Cross", "19B", "75.4", "41.6", "67.2", "79.8", "81.0", "66.0"]


def test_a_task_that_cannot_be_read_is_told_of_and_the_others_finish(
    made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = tmp_path / "tasks"
    shutil.copytree(made[1], root)
    (root / "piqa/valid.jsonl").unlink()
    (root / "winogrande/dev.jsonl").write_text("{")
    with pytest.raises(ValueError, match="2 of 3 tasks were not measured: piqa, winogrande"):
        main(options((made[0], root), tmp_path / "out.json", "--only", "piqa", "winogrande", "arc_easy"))
    found = json.loads((tmp_path / "out.json").read_text())
    assert list(found["figures"]) == ["arc_easy"] and list(found["faults"]) == ["piqa", "winogrande"]
    said = capsys.readouterr()
    told = [line for line in said.err.splitlines() if line.startswith(("piqa: there is no", "winogrande: "))]
    assert len(told) == 2 and "dev.jsonl, line 1 is no JSON" in told[1]
    assert said.out.splitlines()[-7].split()[0] == "model"


def test_nothing_to_measure_is_told_before_the_model_is_read(tmp_path: Path, made: tuple[Path, Path]) -> None:
    model = tmp_path / "model"
    shutil.copytree(made[0], model)
    shutil.rmtree(model / "checkpoints")
    with pytest.raises(ValueError, match="no task can be measured: there is no .*piqa/valid.jsonl"):
        main(options((model, tmp_path), tmp_path / "out.json"))


def test_a_model_that_gives_no_numbers_has_no_figures(made: tuple[Path, Path], tmp_path: Path) -> None:
    config, params = checkpoint.load_model(made[0])
    broken = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), params)
    checkpoint.save_model(tmp_path / "broken", config, broken, tokenizer=made[0] / "tokenizer")
    with pytest.raises(ValueError, match="1 of 1 tasks were not measured: arc_easy"):
        main(options((tmp_path / "broken", made[1]), tmp_path / "out.json", "--only", "arc_easy"))
    assert "not a number" in json.loads((tmp_path / "out.json").read_text())["faults"]["arc_easy"]


def test_without_the_harness_the_message_says_what_to_install(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install -r requirements-zero-shot.txt"):
        main(options(made, tmp_path / "out.json"))


def test_what_was_not_measured_stays_empty_in_the_table() -> None:
    lines = zero_shot.table("runs/mine", {"arc_easy": {"column": "ARC-E", "metric": "acc_norm", "acc_norm": 0.25}})
    assert lines.splitlines()[2].split() == ["mine", "25.0"]
    assert lines.splitlines()[2].index("25.0") + 4 == lines.splitlines()[0].index("ARC-E") + 5


@pytest.mark.long
@pytest.mark.parametrize(
    ("processes", "mesh"), [(2, (2, 2, 1, 1)), (4, (1, 4, 1, 1)), (2, (1, 2, 2, 1)), (2, (1, 2, 1, 2))]
)
def test_processes_measure_as_one(
    made: tuple[Path, Path], tmp_path: Path, processes: int, mesh: tuple[int, ...]
) -> None:
    main(options(made, tmp_path / "one.json"))
    names = ("data", "fsdp", "tensor", "sequence")
    sizes = [part for name, size in zip(names, mesh, strict=True) for part in (f"--mesh.{name}", str(size))]
    address = f"127.0.0.1:{training.free_port()}"
    environment = training.devices_of(4 // processes) | {"JAX_COORDINATOR_ADDRESS": address}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "jam_jax.evaluate", *options(made, tmp_path / "many.json", *sizes)],
            env=environment | {"JAX_NUM_PROCESSES": str(processes), "JAX_PROCESS_ID": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(processes)
    ]
    said = training.finish(started)
    assert "JAM-Cross 19B" in said[0] and not any("JAM-Cross" in other for other in said[1:])
    one, many = (json.loads((tmp_path / f"{name}.json").read_text())["figures"] for name in ("one", "many"))
    assert one == many
