"""The commands: a checkpoint in and out with its tokenizer, and mistakes that leave no target."""

import contextlib
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jam_jax import checkpoint, config, tokens
from jam_jax.config import DecoderConfig
from jam_jax.convert.__main__ import main
from jam_jax.models import model
from jam_jax.trees import paths

CHECKPOINTS = Path(__file__).parent / "golden" / "checkpoints"
SPACE = tokens.jam(text=20, codes=4, codes_per_image=4, sentinels=3, pad_to=8)
SMALL = DecoderConfig(SPACE.vocab_size, 2, 8, 2, 4, 16, max_positions=12, bias="all", norm="layernorm", tied=False)


def command(*args):
    """Run the command as a shell does; give its exit code."""
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(SystemExit):
        patch.setattr(sys, "argv", ["convert", *map(str, args)])
        config.run(main)
        return 0
    return 1


@pytest.fixture
def ours(tmp_path):
    """A model directory with a tokenizer."""
    (tmp_path / "tok" / "image").mkdir(parents=True)
    (tmp_path / "tok" / "tokens.json").write_text(SPACE.to_json())
    (tmp_path / "tok" / "image" / "weights").write_bytes(b"\x00\x01")
    rng = np.random.default_rng(0)
    params = _random(model.shapes(SMALL), rng)
    checkpoint.save_model(tmp_path / "ours", SMALL, params, tokenizer=tmp_path / "tok")
    return tmp_path / "ours"


def _random(shapes, rng):
    if isinstance(shapes, dict):
        return {k: _random(v, rng) for k, v in shapes.items()}
    return rng.normal(size=shapes.shape).astype(np.float32)


def same(a, b):
    a, b = (paths(checkpoint.load_model(d)[1]) for d in (a, b))
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(np.asarray(a[path]), np.asarray(b[path]), err_msg=path)


def test_export_then_import_is_the_same_model_with_the_same_tokenizer(ours, tmp_path):
    assert command("export", "--source", ours, "--target", tmp_path / "hf", "--family", "opt") == 0
    assert command("import", "--source", tmp_path / "hf", "--target", tmp_path / "back") == 0
    assert checkpoint.read_model_config(tmp_path / "back") == SMALL
    same(ours, tmp_path / "back")
    assert tokens.load(checkpoint.tokenizer_dir(tmp_path / "back")) == SPACE
    assert (tmp_path / "back" / "tokenizer" / "image" / "weights").read_bytes() == b"\x00\x01"


def test_metaseq_in_opt_out_and_in_again(tmp_path):
    source = CHECKPOINTS / "a_mp2"
    assert command("import", "--source", source, "--target", tmp_path / "a") == 0
    assert command("export", "--source", tmp_path / "a", "--target", tmp_path / "hf", "--family", "opt") == 0
    assert command("import", "--source", tmp_path / "hf" / "model.safetensors", "--target", tmp_path / "b") == 0
    same(tmp_path / "a", tmp_path / "b")


def fails(capsys, target, message, *args):
    assert command(*args, "--target", target) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not target.exists()
    assert not [p for p in target.parent.iterdir() if p.name.startswith(".")]


def test_mistakes_end_in_one_line_and_leave_no_target(ours, tmp_path, capsys):
    target = tmp_path / "target"
    fails(capsys, target, "there is no checkpoint", "import", "--source", tmp_path / "nothing")
    fails(capsys, target, "known here", "import", "--source", ours)
    fails(capsys, target, "no model directory", "export", "--source", CHECKPOINTS / "a_mp2", "--family", "opt")
    (tmp_path / "broken").mkdir()
    whole = (CHECKPOINTS / "a_singleton" / "reshard.pt").read_bytes()
    (tmp_path / "broken" / "reshard.pt").write_bytes(whole[: len(whole) // 2])
    fails(capsys, target, "damaged", "import", "--source", tmp_path / "broken")


def test_a_jam_cross_comes_in_and_goes_out_to_the_original_alone(tmp_path, capsys):
    assert command("import", "--source", CHECKPOINTS / "c_singleton", "--target", tmp_path / "c") == 0
    capsys.readouterr()
    fails(capsys, tmp_path / "hf", "but the original", "export", "--source", tmp_path / "c", "--family", "opt")
    assert command("export", "--source", tmp_path / "c", "--target", tmp_path / "pt", "--family", "metaseq") == 0
    assert command("import", "--source", tmp_path / "pt", "--target", tmp_path / "again") == 0
    same(tmp_path / "c", tmp_path / "again")


def test_values_that_are_no_numbers_are_kept_and_warned_of(ours, tmp_path, capsys):
    assert command("export", "--source", ours, "--target", tmp_path / "hf", "--family", "opt") == 0
    path = tmp_path / "hf" / "model.safetensors"
    weights = load_file(path)
    weights["model.decoder.layers.1.fc1.weight"][2, 3] = np.nan
    weights["model.decoder.embed_tokens.weight"][0, 0] = -np.inf
    save_file(weights, path, metadata={"format": "pt"})
    capsys.readouterr()
    assert command("import", "--source", tmp_path / "hf", "--target", tmp_path / "back") == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert "model.decoder.embed_tokens.weight, model.decoder.layers.1.fc1.weight" in line
    found = paths(checkpoint.load_model(tmp_path / "back")[1])
    assert np.isnan(found["layers/ffn/up"][1, 3, 2]) and found["embed/tokens"][0, 0] == -np.inf
    assert sum(int((~np.isfinite(leaf)).sum()) for leaf in found.values()) == 2


def test_a_tokenizer_of_another_model_is_refused(ours, tmp_path, capsys):
    assert command("export", "--source", ours, "--target", tmp_path / "hf", "--family", "opt") == 0
    other = tokens.jam(text=20, codes=4, codes_per_image=4, sentinels=30)
    (tmp_path / "hf" / "tokenizer" / "tokens.json").write_text(other.to_json())
    capsys.readouterr()
    fails(capsys, tmp_path / "back", "of another model", "import", "--source", tmp_path / "hf")


def test_an_occupied_target_is_left_alone(ours, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("keep")
    for args in (("export", "--source", ours, "--family", "opt"), ("import", "--source", CHECKPOINTS / "a_mp2")):
        for target in ("there", "there/mine"):
            assert command(*args, "--target", tmp_path / target) == 1
            assert f"{target} already exists: remove it" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["mine"]
    assert (tmp_path / "there" / "mine").read_text() == "keep"
