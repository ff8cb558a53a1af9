"""Laws of the trainer through its real entry point: resumed equals unbroken, a mesh equals one device."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from jam_jax import api, checkpoint, hosts, train, train_eval, train_log
from jam_jax.config import Config
from jam_jax.data.feed import Feed
from jam_jax.evaluate.sums import Perplexity
from jam_jax.train import main
from tests.training import devices_of, losses, make_run

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options that every run here shares."""
    return make_run(tmp_path_factory.mktemp("train"))


def test_two_steps_and_a_resume_to_four_equal_four_steps_bit_for_bit(run: list[str], tmp_path: Path) -> None:
    main([*run, "--out", str(tmp_path / "whole")])
    main([*run, "--out", str(tmp_path / "parts"), "--save-every", "2", "--keep", "2"])
    shutil.rmtree(tmp_path / "parts/checkpoints/4")  # as if it had been stopped after step 2
    main([*run, "--out", str(tmp_path / "parts"), "--resume", "auto"])
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    whole, parts = (checkpoint.load_model(tmp_path / name)[1] for name in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    assert losses(tmp_path / "whole")[-1] < losses(tmp_path / "whole")[0]


def test_a_run_that_was_changed_is_not_resumed(run: list[str], tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "run")]
    main([*run, *out, "--steps", "1"])
    with pytest.raises(ValueError, match="was run with another batch, seed: resume with the same"):
        main([*run, *out, "--resume", "auto", "--seed", "7", "--batch", "4"])
    with pytest.raises(ValueError, match="another model"):
        main([*run, *out, "--resume", "auto", "--model.layers", "1"])
    before = losses(tmp_path / "run")
    main([*run, *out, "--steps", "1", "--resume", "auto"])  # nothing is left to do
    assert losses(tmp_path / "run") == before
    # What a run did not know of, because it came later, it did as the defaults say.
    written = tmp_path / "run/config.json"
    config = json.loads(written.read_text())
    del config["data"]["cm3_mask_loss"], config["data"]["sources"][0]["cm3_segments"]
    written.write_text(json.dumps(config))
    main([*run, *out, "--steps", "2", "--resume", "auto"])
    assert len(losses(tmp_path / "run")) == 2


def poison(monkeypatch: pytest.MonkeyPatch, *poisoned: int) -> None:
    """Make the gradients of some steps of the runs to come not finite."""
    fed = iter(range(1, 100))
    give = Feed.next

    def next_batch(feed: Feed) -> dict[str, jax.Array]:
        batch = give(feed)
        return batch | {"weights": batch["weights"] * jax.numpy.inf} if next(fed) in poisoned else batch

    monkeypatch.setattr(Feed, "next", next_batch)


def test_too_many_steps_skipped_in_a_row_stop_the_run_and_its_last_checkpoint_stays(
    run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, 5, 6)  # after which all is well again, before anybody looks
    options = [*run, "--out", str(tmp_path / "run"), "--steps", "9", "--save-every", "4", "--log-every", "9"]
    with pytest.raises(ValueError, match="the gradient was not finite in 2 steps in a row, up to step 6: lower"):
        main([*options, "--max-skipped", "2"])
    assert checkpoint.steps(tmp_path / "run") == [4]
    poison(monkeypatch, 1)
    main([*options, "--max-skipped", "2", "--resume", "auto"])
    last = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert (last["step"], last["skipped"]) == (9, 1)


def test_a_run_that_fails_before_its_first_checkpoint_leaves_nothing(run: list[str], tmp_path: Path) -> None:
    wild = ["--optim.learning-rate", "1e38", "--optim.clip", "1e30", "--max-skipped", "2"]
    with pytest.raises(ValueError, match="the gradient was not finite in 2 steps in a row, up to step 3: lower"):
        main([*run, "--out", str(tmp_path / "run"), *wild])
    assert not (tmp_path / "run").exists()


def test_the_config_says_how_a_checkpoint_is_run(run: list[str], tmp_path: Path) -> None:
    main([*run, "--out", str(tmp_path / "float"), "--steps", "1"])
    half = ["--init", str(tmp_path / "float"), "--model.dtype", "bfloat16", "--model.remat", "full"]
    main([*run, *half, "--out", str(tmp_path / "half"), "--steps", "1"])
    config = checkpoint.read_model_config(tmp_path / "half")
    assert (config.dtype, config.remat) == ("bfloat16", "full")  # type: ignore[union-attr]


def test_a_mesh_of_four_by_two_equals_one_device(run: list[str], tmp_path: Path) -> None:
    main([*run, "--out", str(tmp_path / "one")])
    mesh = ["--mesh.data", "1", "--mesh.fsdp", "4", "--mesh.tensor", "2", "--out", str(tmp_path / "many")]
    subprocess.run([sys.executable, "-m", "jam_jax.train", *run, *mesh], env=devices_of(8), check=True)
    np.testing.assert_allclose(losses(tmp_path / "many"), losses(tmp_path / "one"), rtol=1e-5)
    one, many = (checkpoint.load_model(tmp_path / name)[1] for name in ("one", "many"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), one, many)  # Adam turns rounding into steps


def test_the_run_directory_describes_itself(run: list[str], tmp_path: Path) -> None:
    main([*run, "--out", str(tmp_path / "run"), "--steps", "1"])
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"model.json", "config.json", "metrics.jsonl", "tensorboard", "tokenizer", "checkpoints"} <= names
    line = json.loads((tmp_path / "run/metrics.jsonl").read_text())
    assert {"step", "loss", "text_perplexity", "image_perplexity", "tokens_per_second", "data_wait"} <= set(line)
    assert line["epochs/store"] == pytest.approx(8 / 50)
    # What it left can be trained on: the model and the tokenizer come from the checkpoint.
    main([*run[:2], "--init", str(tmp_path / "run"), "--out", str(tmp_path / "next"), "--steps", "1"])
    assert checkpoint.steps(tmp_path / "next") == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mesh.tensor", "3"], "mesh data=-1 fsdp=1 sequence=1 tensor=3 does not fit 1 devices"),
        (["--data.block", "99"], "blocks of 99 tokens do not fit the model's 24 positions"),
        (["--model.vocab-size", "77"], "the model has 77 vocabulary rows, the tokenizer 64"),
        (["--init", "nowhere"], "nowhere is no model directory"),
        (["--data.sources.0.store", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(
    run: list[str], tmp_path: Path, options: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        main([*run, "--out", str(tmp_path / "run"), *options])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_not_overwritten(run: list[str], tmp_path: Path) -> None:
    main([*run, "--out", str(tmp_path / "run"), "--steps", "1"])
    with pytest.raises(ValueError, match="already holds a run: go on with --resume auto"):
        main([*run, "--out", str(tmp_path / "run")])


def test_the_best_checkpoint_and_those_of_epochs_stay(
    run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty documents, eight a step: the epochs end with the steps 7 and 13."""
    worse = iter([5.0, 0.0, 3.0, 4.0, 1.0])  # nats a target, so that the second evaluation is the best

    def perplexity(*args: Any, **more: Any) -> Perplexity:
        found, by = measure(*args, **more), next(worse)
        return dataclasses.replace(found, nll=tuple(n + by * c for n, c in zip(found.nll, found.count, strict=True)))

    measure = train_eval.perplexity
    monkeypatch.setattr(train_eval, "perplexity", perplexity)
    held_out = ["--evaluate.stores", str(Path(run[1]).parent / "store"), "--evaluate.documents", "5"]
    options = [*run, "--out", str(tmp_path / "run"), "--keep-epochs", *held_out, "--evaluate.every", "3"]
    main([*options, "--steps", "14"])
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    measured = {line["step"]: line for line in lines if "held_out/loss" in line}
    assert set(measured) == {3, 6, 9, 12}
    assert {"held_out/store/text", "held_out/store/image", "held_out/store/all"} <= set(measured[3])
    assert set(checkpoint.steps(tmp_path / "run")) == {6, 7, 13, 14}
    # A run that goes on knows what was best before.
    main([*options, "--steps", "15", "--resume", "auto"])
    assert set(checkpoint.steps(tmp_path / "run")) == {6, 7, 13, 15}


@pytest.mark.parametrize("ended_by", ["a kill", "being told to stop"])
def test_an_evaluation_comes_after_the_save_and_is_made_up_for(
    run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended_by: str
) -> None:
    def killed(*args: Any, **more: Any) -> None:
        raise KeyboardInterrupt  # which no one catches on the way

    store = str(Path(run[1]).parent / "store")
    held_out = ["--evaluate.stores", store, "--evaluate.documents", "5", "--evaluate.every", "2"]
    options = [*run, *held_out, "--out", str(tmp_path / "run"), "--resume", "auto"]
    with monkeypatch.context() as patched:
        patched.setattr(train_eval, "perplexity", killed)
        if ended_by == "a kill":
            with pytest.raises(KeyboardInterrupt):
                main(options)
        else:
            patched.setattr(hosts, "asked_to_stop", lambda step: step == 2)
            main(options)
    assert checkpoint.steps(tmp_path / "run") == [2]
    main(options)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "held_out/loss" in line] == [2, 4]


def test_a_damaged_last_checkpoint_is_told_with_the_step_to_go_on_from(run: list[str], tmp_path: Path) -> None:
    options = [*run, "--out", str(tmp_path / "run"), "--save-every", "2", "--keep", "2"]
    main(options)
    whole = checkpoint.load_model(tmp_path / "run")[1]
    last = tmp_path / "run/checkpoints/4"
    for file in (last / "params").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(
        ValueError, match="params is missing or damaged: .*; to go on from step 2 remove .*/4$"
    ) as error:
        main([*options, "--resume", "auto", "--steps", "5"])
    assert "\n" not in str(error.value)
    shutil.rmtree(last)
    main([*options, "--resume", "auto"])
    jax.tree.map(np.testing.assert_array_equal, whole, checkpoint.load_model(tmp_path / "run")[1])


@pytest.mark.parametrize("made", [("config.json", ".tokenizer/tokens.json"), (".config.json.0a1b2c3d",)])
def test_a_run_that_was_killed_while_it_was_described_begins_again(
    run: list[str], tmp_path: Path, made: tuple[str, ...]
) -> None:
    out = tmp_path / "run"
    main([*run, "--out", str(out), "--steps", "1"])
    described = (out / "config.json").read_text()
    shutil.rmtree(out)
    for name in made:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(described if name == "config.json" else "hal")
    main([*run, "--out", str(out), "--steps", "1", "--resume", "auto"])
    assert checkpoint.steps(out) == [1]


def test_a_directory_that_another_process_cannot_write_to_ends_every_process_in_one_line(
    run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "all_say", lambda yes: False)
    with pytest.raises(ValueError, match="run cannot be written to by every process of the run: choose another --out"):
        main([*run, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(hosts, "all_say", lambda yes: yes)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="every process of the run .*Not a directory.*: choose another --out"):
        main([*run, "--out", str(tmp_path / "file/run")])


@pytest.mark.parametrize(("kind", "saves"), [("llm", True), ("image_tokenizer", False), ("clip", False)])
def test_sigterm_is_left_alone_where_there_is_nothing_to_save(
    kind: str, saves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    for name in ("start", "save_on_sigterm"):
        monkeypatch.setattr(hosts, name, lambda name=name: called.append(name))
    monkeypatch.setattr(train, "train", lambda config: None)
    main(["--config", str(ROOT / f"configs/world/{kind}.py")], alone=True)
    assert ("save_on_sigterm" in called) == saves


def test_documents_are_drawn_to_look_at(run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def generate(model: api.Model, prompts: Sequence[str], mode: str) -> list[api.Answer]:
        seen.append((mode, jax.tree.map(np.array, model.params)))
        picture = Image.new("RGB", (8, 8))
        return [api.Answer(prompt, ("a circle", picture), (1,), (2,), "") for prompt in prompts]

    monkeypatch.setattr(api.Model, "generate", generate)
    asked = ["--evaluate.every", "2", "--evaluate.prompts", "what is round?", "--evaluate.mode", "text"]
    main([*run, "--out", str(tmp_path / "run"), *asked])
    pages = sorted((tmp_path / "run/samples").iterdir())
    assert [page.name for page in pages] == ["00000002", "00000004"]
    assert "what is round?" in (pages[0] / "index.html").read_text()
    assert [mode for mode, _ in seen] == ["text", "text"]
    jax.tree.map(np.testing.assert_array_equal, seen[1][1], checkpoint.load_model(tmp_path / "run")[1])


def test_a_profile_is_taken_of_the_steps_asked_for(run: list[str], tmp_path: Path) -> None:
    main([*run, "--out", str(tmp_path / "run"), "--profile", "2:3"])
    assert list((tmp_path / "run/profile").rglob("*.xplane.pb"))
    with pytest.raises(ValueError, match="profile is FIRST:LAST, such as 10:15, got 3"):
        Config(profile="3")
    with pytest.raises(ValueError, match="the last step comes before the first in 15:10"):
        Config(profile="15:10")


def test_a_profile_waits_for_the_devices_at_both_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    events: list[str] = []

    class Made:
        """What a step makes."""

        def __init__(self, step: int) -> None:
            self.step = step

        def block_until_ready(self) -> None:
            events.append(f"step {self.step} is done")

    for name in ("start_trace", "stop_trace"):
        monkeypatch.setattr(jax.profiler, name, lambda *_, name=name: events.append(name))
    with train_log.profile("2:3", tmp_path) as before:
        for step in range(1, 6):
            before(step, Made(step - 1))
    assert events == ["step 1 is done", "start_trace", "step 3 is done", "stop_trace"]
    with train_log.profile("9:9", tmp_path) as before:
        before(10, Made(9))
    assert "no profile was taken: step 9 was not among those of this run" in capsys.readouterr().out


def test_waiting_for_data_is_told(
    run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(Feed, "waited", lambda feed: 1e6)
    with warnings.catch_warnings():  # too short to be judged by
        warnings.simplefilter("error")
        main([*run, "--out", str(tmp_path / "short"), "--steps", "2"])
    monkeypatch.setattr("jam_jax.train_log.SHORT", 0.0)
    with pytest.warns(UserWarning, match="the devices waited for data: raise --data.workers"):
        main([*run, "--out", str(tmp_path / "run"), "--steps", "2"])
    said = capsys.readouterr().out
    assert re.search(r"data wait \d{4,}%", said)
    assert "store: 0.32 epochs in 2 steps" in said


def test_help_is_quick() -> None:
    command = """
import sys
from jam_jax import train
try:
    train.main(["--help"])
except SystemExit:
    assert "jax" not in sys.modules, "the help must not wait for jax"
else:
    raise AssertionError("no help was shown")
"""
    subprocess.run([sys.executable, "-c", command], check=True, capture_output=True)


def test_a_full_disk_ends_in_one_line_and_leaves_nothing(run: list[str], tmp_path: Path) -> None:
    # A limit on the size of files stands for the full disk; it must not bind this process, hence another one.
    command = """if True:
        import resource, signal, sys
        from jam_jax import config, train
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        config.run(lambda: train.main(sys.argv[1:]))
    """
    out = tmp_path / "full"
    wide = ["--model.heads", "16", "--model.width", "64", "--steps", "1", "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", command, *run, *wide], capture_output=True, text=True)
    assert done.returncode == 1
    # TensorStore may print of its own threads that they were closed; nothing here can keep it from that.
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and told[0].startswith(f"error: could not save to {out}"), done.stderr
    assert "ERROR:" not in done.stderr and not out.exists()
