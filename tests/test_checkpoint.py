"""A model directory comes back bit for bit; a missing or damaged one ends in one line; nothing half-written stays."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

from jam_jax import checkpoint
from jam_jax.models import model
from tests.tiny import BIASED, CROSS, DECODER, leaves, randomise


@pytest.mark.parametrize("config", [DECODER, BIASED, CROSS])
def test_what_is_saved_comes_back_bit_for_bit(config: checkpoint.ModelConfig, tmp_path: Path) -> None:
    params = randomise(model.shapes(config))  # type: ignore[arg-type]
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
    params = randomise(model.shapes(DECODER))
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


def test_a_model_with_a_stack_of_nothing_comes_back(tmp_path: Path) -> None:
    config = dataclasses.replace(CROSS, every=0)
    checkpoint.save_leaves(tmp_path / "m", config, leaves(model.init(config, jax.random.key(0))))
    _, found = checkpoint.load_model(tmp_path / "m")
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), found, model.shapes(config))
    checkpoint.save_leaves(tmp_path / "again", config, checkpoint.open_leaves(tmp_path / "m")[1])


def half(tree: dict) -> dict:
    return jax.tree.map(lambda a: np.asarray(a).astype(ml_dtypes.bfloat16), tree)


@pytest.mark.parametrize("kind", ["arrays", "leaves", "half"])
def test_leaves_are_what_was_saved_in_any_way_and_type(tmp_path: Path, kind: str) -> None:
    params = randomise(model.shapes(CROSS))
    params = half(params) if kind == "half" else params
    if kind == "arrays":
        checkpoint.save_model(tmp_path / "m", CROSS, params)
    else:
        checkpoint.save_leaves(tmp_path / "m", CROSS, leaves(params))
    config, found = checkpoint.open_leaves(tmp_path / "m")
    assert config == CROSS
    for leaf, array in zip(jax.tree.leaves(found), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(leaf.whole(), np.asarray(array), strict=True)
    _, loaded = checkpoint.load_model(tmp_path / "m")
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.asarray(b, np.float32)), loaded, params)
    assert {a.dtype for a in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}


def test_large_arrays_lie_on_disk_in_blocks_however_they_were_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "BLOCK_BYTES", 512)
    params = model.init(DECODER, jax.random.key(0))
    checkpoint.save_model(tmp_path / "m", DECODER, params)
    _, found = checkpoint.open_leaves(tmp_path / "m")
    for leaf in jax.tree.leaves(found):
        assert np.prod(leaf.block) * 4 <= 512
    table = found["embed"]["tokens"]
    np.testing.assert_array_equal(table.read((slice(3, 9), slice(1, 2))), params["embed"]["tokens"][3:9, 1:2])


def test_what_keeps_a_leaf_from_being_read_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    tree = leaves(model.init(DECODER, jax.random.key(0)))

    def read(_: object) -> np.ndarray:
        raise ValueError("part 3 of my-model.safetensors is damaged")

    tree["embed"]["tokens"] = dataclasses.replace(tree["embed"]["tokens"], read=read)
    with pytest.raises(ValueError, match=r"^part 3 of my-model.safetensors is damaged$"):
        checkpoint.save_leaves(tmp_path / "m", DECODER, tree)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_is_damaged_inside_is_one_line_where_it_is_read(tmp_path: Path) -> None:
    checkpoint.save_leaves(tmp_path / "m", DECODER, leaves(randomise(model.shapes(DECODER))))
    _, found = checkpoint.open_leaves(tmp_path / "m")
    data = [p for p in (tmp_path / "m" / "checkpoints").rglob("d/*") if p.is_file()]
    assert data
    for path in data:
        path.write_bytes(b"")
    message = r"^\S*params is damaged: embed\.\w+ cannot be read: [^\n]+$"
    with pytest.raises(ValueError, match=message):
        found["embed"]["tokens"].whole()
    with pytest.raises(ValueError, match=message):
        checkpoint.save_leaves(tmp_path / "again", DECODER, found)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_of_two_that_write_one_directory_at_once_the_later_does_and_nothing_is_mixed(tmp_path: Path) -> None:
    earlier, later = (checkpoint.new_directory(tmp_path / "m") for _ in range(2))
    (earlier.__enter__() / "part").write_text("earlier")
    aside = later.__enter__()
    (aside / "part").write_text("later")
    with pytest.raises(OSError, match="another process has begun to write .*m since: this one has stopped"):
        earlier.__exit__(None, None, None)
    (aside / "end").write_text("later")
    later.__exit__(None, None, None)
    assert {path.name: path.read_text() for path in (tmp_path / "m").iterdir()} == {"part": "later", "end": "later"}
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_what_was_written_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="m already exists"), checkpoint.new_directory(tmp_path / "m") as aside:
        (aside / "part").write_text("ours")
        (tmp_path / "m").mkdir()
        (tmp_path / "m/part").write_text("theirs")
    assert (tmp_path / "m/part").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    with pytest.raises(NotADirectoryError), checkpoint.new_directory(tmp_path / "m/part/below"):
        pass
