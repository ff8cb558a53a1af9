"""Laws of the trainer through its real entry point: resumed equals unbroken, a mesh equals one device."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

from jam_jax import checkpoint, tokens
from jam_jax.data.feed import Feed
from jam_jax.data.store import write_ids
from jam_jax.train import main

SPACE = tokens.jam(text=40, codes=8, codes_per_image=4, sentinels=11, pad_to=32)
CONFIG = """
from jam_jax.config import *

def get_config():
    return Config(
        model=DecoderConfig(
            vocab_size=64, layers=2, width=16, heads=4, head_size=4, ffn_width=32, max_positions=24, init_std=0.1
        ),
        data=DataConfig(sources=(SourceConfig("{store}", cut="document", mask_caption=0.2),), block=17),
        optim=OptimConfig(learning_rate=1e-2, warmup=2, schedule="linear"),
        steps=4, batch=8, log_every=1,
    )
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A tokenizer, a store of pairs and a config; gives the options that every run here shares."""
    root = tmp_path_factory.mktemp("train")
    (root / "tokenizer").mkdir()
    (root / "tokenizer/tokens.json").write_text(SPACE.to_json())
    rng = np.random.default_rng(0)
    brk, codes = SPACE.start_of_image, SPACE.image_ids

    def records() -> object:
        for _ in range(50):
            caption = rng.integers(4, 40, rng.integers(2, 7))
            yield np.array([*caption, brk, *rng.choice(codes, 4), SPACE.end_of_document], np.int32), 0

    write_ids(root / "store", records(), SPACE)  # type: ignore[arg-type]
    (root / "config.py").write_text(CONFIG.format(store=root / "store"))
    return ["--config", str(root / "config.py"), "--tokenizer", str(root / "tokenizer")]


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_two_steps_and_a_resume_to_four_equal_four_steps_bit_for_bit(run: list[str], tmp_path: Path) -> None:
    main([*run, "--out", str(tmp_path / "whole")])
    main([*run, "--out", str(tmp_path / "parts"), "--save-every", "2", "--keep", "2"])
    shutil.rmtree(tmp_path / "parts/checkpoints/4")  # as if it had been stopped after step 2
    main([*run, "--out", str(tmp_path / "parts"), "--resume"])
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    whole, parts = (checkpoint.load_model(tmp_path / name)[1] for name in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    assert losses(tmp_path / "whole")[-1] < losses(tmp_path / "whole")[0]


def test_a_run_that_was_changed_is_not_resumed(run: list[str], tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "run")]
    main([*run, *out, "--steps", "1"])
    with pytest.raises(ValueError, match="was run with another batch, seed: resume with the same"):
        main([*run, *out, "--resume", "--seed", "7", "--batch", "4"])
    with pytest.raises(ValueError, match="another model"):
        main([*run, *out, "--resume", "--model.layers", "1"])
    before = losses(tmp_path / "run")
    main([*run, *out, "--steps", "1", "--resume"])  # nothing is left to do
    assert losses(tmp_path / "run") == before
    # What a run did not know of, because it came later, it did as the defaults say.
    written = tmp_path / "run/config.json"
    config = json.loads(written.read_text())
    del config["data"]["cm3_mask_loss"], config["data"]["sources"][0]["cm3_segments"]
    written.write_text(json.dumps(config))
    main([*run, *out, "--steps", "2", "--resume"])
    assert len(losses(tmp_path / "run")) == 2


def test_a_run_that_fails_before_its_first_checkpoint_leaves_nothing(run: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the loss is not finite at step"):
        main([*run, "--out", str(tmp_path / "run"), "--optim.learning-rate", "1e38", "--optim.clip", "1e30"])
    assert not (tmp_path / "run").exists()


def test_the_config_says_how_a_checkpoint_is_run(run: list[str], tmp_path: Path) -> None:
    main([*run, "--out", str(tmp_path / "float"), "--steps", "1"])
    half = ["--init", str(tmp_path / "float"), "--model.dtype", "bfloat16", "--model.remat", "full"]
    main([*run, *half, "--out", str(tmp_path / "half"), "--steps", "1"])
    config = checkpoint.read_model_config(tmp_path / "half")
    assert (config.dtype, config.remat) == ("bfloat16", "full")  # type: ignore[union-attr]


def test_a_mesh_of_four_by_two_equals_one_device(run: list[str], tmp_path: Path) -> None:
    main([*run, "--out", str(tmp_path / "one")])
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    mesh = ["--mesh.data", "1", "--mesh.fsdp", "4", "--mesh.tensor", "2", "--out", str(tmp_path / "many")]
    subprocess.run([sys.executable, "-m", "jam_jax.train", *run, *mesh], env=environment, check=True)
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
        (["--mesh.tensor", "3"], "mesh data=-1 fsdp=1 tensor=3 does not fit 1 devices"),
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
    with pytest.raises(ValueError, match="already holds a run: go on with --resume"):
        main([*run, "--out", str(tmp_path / "run")])


def test_waiting_for_data_is_told(
    run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(Feed, "waited", lambda feed: 1e6)
    with warnings.catch_warnings():  # too short to be judged by
        warnings.simplefilter("error")
        main([*run, "--out", str(tmp_path / "short"), "--steps", "2"])
    monkeypatch.setattr("jam_jax.train.SHORT", 0.0)
    with pytest.warns(UserWarning, match="the devices waited for data: raise --data.workers"):
        main([*run, "--out", str(tmp_path / "run"), "--steps", "2"])
    said = capsys.readouterr().out
    assert "% of the time for data" in said
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
