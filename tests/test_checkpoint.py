"""A model directory comes back bit for bit; a missing or damaged one ends in one line; nothing half-written stays."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jam_jax import checkpoint
from jam_jax.models import model
from tests.tiny import CROSS, DECODER, LLAMA_LIKE, randomise


@pytest.mark.parametrize("config", [DECODER, LLAMA_LIKE, CROSS])
def test_what_is_saved_comes_back_bit_for_bit(config: checkpoint.ModelConfig, tmp_path: Path) -> None:
    params = randomise(model.init(config, jax.random.key(0)))  # type: ignore[arg-type]
    checkpoint.save_model(tmp_path / "m", config, params)
    found, again = checkpoint.load_model(tmp_path / "m")
    assert found == config
    assert jax.tree.structure(again) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_an_existing_directory_is_not_overwritten(tmp_path: Path) -> None:
    params = model.init(DECODER, jax.random.key(0))
    checkpoint.save_model(tmp_path / "m", DECODER, params)
    with pytest.raises(ValueError, match="already exists"):
        checkpoint.save_model(tmp_path / "m", DECODER, params)


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        checkpoint.save_model(
            tmp_path / "m", DECODER, model.init(DECODER, jax.random.key(0)), tokenizer=tmp_path / "no"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model directory: it does not exist"):
        checkpoint.load_model(tmp_path / "nothing")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_truncated_file_of_weights_is_noticed_or_does_no_harm(rank: int, tmp_path: Path) -> None:
    params = randomise(model.init(DECODER, jax.random.key(0)))
    checkpoint.save_model(tmp_path / "m", DECODER, params)
    files = [p for p in (tmp_path / "m/checkpoints/0/params").rglob("*") if p.is_file()]
    file = sorted(files, key=lambda p: -p.stat().st_size)[rank]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    hook = sys.unraisablehook
    try:
        _, found = checkpoint.load_model(tmp_path / "m")
    except ValueError as error:
        assert "missing or damaged" in str(error) and "\n" not in str(error) and len(str(error)) < 400
        assert sys.unraisablehook is hook
    else:
        # The largest holds the weights; in a smaller one there may be nothing but what has been superseded.
        assert rank > 0
        jax.tree.map(np.testing.assert_array_equal, found, params)


@pytest.mark.parametrize("error", [MemoryError("no"), RuntimeError("RESOURCE_EXHAUSTED: 3 GiB")])
def test_want_of_memory_is_no_damage(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save_model(tmp_path / "m", DECODER, model.init(DECODER, jax.random.key(0)))

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(checkpoint.ocp.StandardCheckpointer, "restore", fail)
    with pytest.raises(type(error)) as raised:
        checkpoint.load_model(tmp_path / "m")
    assert raised.value is error


def test_a_model_without_optimizer_state_cannot_be_resumed(tmp_path: Path) -> None:
    checkpoint.save_model(tmp_path / "m", DECODER, model.init(DECODER, jax.random.key(0)))
    with pytest.raises(ValueError, match="holds no optimizer state at step 0, so it cannot be resumed: .*--init"):
        checkpoint.restore(tmp_path / "m", "opt_state", {})


def test_parameters_of_another_model_are_listed(tmp_path: Path) -> None:
    checkpoint.save_model(tmp_path / "m", DECODER, model.init(DECODER, jax.random.key(0)))
    path = tmp_path / "m/model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ffn_width": 44, "tied": False}))
    with pytest.raises(ValueError, match=r"missing from it: unembed; of another shape: layers/ffn/down"):
        checkpoint.load_model(tmp_path / "m")


def test_a_damaged_description_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"kind": "decoder", "depth": 3}')
    with pytest.raises(ValueError, match="damaged: DecoderConfig has no field depth"):
        checkpoint.read_model_config(tmp_path)
