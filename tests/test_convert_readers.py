"""Every kind of file gives the same names, shapes, dtypes and bits; a wrong one ends in one clear line."""

import json
import sys
import weakref

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from jam_jax.convert import readers
from jam_jax.convert.readers import all_finite, open_file, open_weights

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
    "b": np.arange(4, dtype=np.float16),
    "c": np.array([1.5, -2.25], ml_dtypes.bfloat16),
    "d": np.array([3], np.int64),
}


def as_torch(arrays):
    """The same values; torch's bfloat16 is made from numbers that it holds exactly."""
    to = {"bfloat16": torch.bfloat16}
    return {
        k: torch.tensor(v.astype(np.float32), dtype=to[v.dtype.name]) if v.dtype.name in to else torch.tensor(v)
        for k, v in arrays.items()
    }


def write(path, arrays):
    if path.suffix == ".safetensors":
        save_file(arrays, path)
    else:
        torch.save(as_torch(arrays), path, _use_new_zipfile_serialization=path.suffix != ".pth")


def sharded(directory, ending, where):
    """Shards 1 and 2 and an index that says `where`."""
    stem = "model" if ending == "safetensors" else "pytorch_model"
    names = [f"{stem}-0000{i}-of-00002.{ending}" for i in (1, 2)]
    for name, keys in zip(names, ("ab", "cd"), strict=True):
        write(directory / name, {k: ARRAYS[k] for k in keys})
    index = {"weight_map": {k: names[i] for k, i in where.items()}}
    (directory / f"{stem}.{ending}.index.json").write_text(json.dumps(index))
    return names


def same_bits(weights):
    assert sorted(weights.names()) == sorted(ARRAYS)
    for name, value in ARRAYS.items():
        assert weights.shape(name) == value.shape
        assert weights.dtype(name) == value.dtype
        got = weights.read(name)
        assert got.dtype == value.dtype
        assert got.tobytes() == value.tobytes()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "x.pt", "old_format.pth"])
def test_one_file_by_itself_and_by_its_directory(tmp_path, name):
    write(tmp_path / name, ARRAYS)
    same_bits(open_file(tmp_path / name))
    same_bits(open_weights(tmp_path))


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_shards_with_an_index(tmp_path, ending):
    sharded(tmp_path, ending, {"a": 0, "b": 0, "c": 1, "d": 1})
    same_bits(open_weights(tmp_path))
    same_bits(open_weights(next(tmp_path.glob("*.index.json"))))


def test_shards_without_an_index_are_counted(tmp_path):
    names = sharded(tmp_path, "safetensors", {})
    next(tmp_path.glob("*.index.json")).unlink()
    same_bits(open_weights(tmp_path))
    (tmp_path / names[1]).unlink()
    with pytest.raises(ValueError, match=r"lacks shards \[2\] of 2"):
        open_weights(tmp_path)


def test_safetensors_are_preferred_to_pickles(tmp_path):
    write(tmp_path / "model.safetensors", ARRAYS)
    (tmp_path / "pytorch_model.bin").write_bytes(b"not read")
    same_bits(open_weights(tmp_path))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_what_a_training_or_another_system_left_beside_a_model_is_not_its_own(tmp_path, name):
    write(tmp_path / name, ARRAYS)
    torch.save({"state": {}, "param_groups": [3]}, tmp_path / "optimizer.pt")
    write(tmp_path / f"adapter_model{(tmp_path / name).suffix}", {"a": ARRAYS["a"]})
    same_bits(open_weights(tmp_path))


def test_a_missing_shard_is_named(tmp_path):
    names = sharded(tmp_path, "safetensors", {"a": 0, "b": 0, "c": 1, "d": 1})
    (tmp_path / names[0]).unlink()
    with pytest.raises(ValueError, match=f"names {names[0]}"):
        open_weights(tmp_path)


@pytest.mark.parametrize(
    "lie", [{"a": 0, "b": 0, "c": 1}, {"a": 1, "b": 0, "c": 1, "d": 1}, {"a": 0, "b": 0, "c": 1, "d": 1, "e": 1}]
)
def test_an_index_that_lies_is_found_out(tmp_path, lie):
    sharded(tmp_path, "safetensors", lie)
    with pytest.raises(ValueError, match="disagree about 1 tensors"):
        open_weights(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": "../elsewhere.safetensors"}}']
)
def test_a_damaged_index_ends_in_one_line(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=r"index\.json (is damaged|names \.\./elsewhere)"):
        open_weights(tmp_path)


def test_a_name_in_two_files_comes_twice(tmp_path):
    write(tmp_path / "1.safetensors", {"a": ARRAYS["a"]})
    write(tmp_path / "2.safetensors", {"a": ARRAYS["a"]})
    assert open_weights(tmp_path).names() == ["a", "a"]


@pytest.mark.parametrize("name", ["model.safetensors", "x.pt", "x.pth"])
@pytest.mark.parametrize("keep", [0.0, 0.2, 0.9])
def test_a_truncated_file_ends_in_one_line(tmp_path, name, keep):
    path = tmp_path / name
    write(path, {"a": np.ones((64, 64), np.float32)})
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(ValueError, match=f"{path}.* damaged") as caught:
        open_file(path).read("a")
    assert "\n" not in str(caught.value)


def test_what_is_no_checkpoint_says_so(tmp_path):
    (tmp_path / "x.txt").write_text("hello")
    torch.save({"a": 3}, tmp_path / "odd.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for path, message in (
        (tmp_path / "x.txt", "is no checkpoint"),
        (tmp_path / "nothing.pt", "there is no file"),
        (tmp_path / "nowhere", "there is no file"),
        (tmp_path / "odd.pt", "'a' should be dense tensors"),
        (tmp_path / "list.pt", "holds no dict of tensors"),
    ):
        with pytest.raises(ValueError, match=message):
            open_weights(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no weights"):
        open_weights(tmp_path / "empty")


def test_without_torch_safetensors_are_read_and_pickles_say_what_to_install(tmp_path, monkeypatch):
    for name in ("model.safetensors", "x.pt"):
        write(tmp_path / name, ARRAYS)
    monkeypatch.setitem(sys.modules, "torch", None)
    same_bits(open_file(tmp_path / "model.safetensors"))
    with pytest.raises(ValueError, match="pip install torch"):
        open_file(tmp_path / "x.pt")


@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("odd", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_seen_wherever_it_stands(kind, odd):
    values = np.full((3, 5), np.finfo(np.float16).max, kind)
    values[0, 0] = np.float32(1e-7)
    assert all_finite(values, chunk=4) and all_finite(values.T, chunk=4) and all_finite(values[:0])
    for place in ((0, 0), (1, 3), (2, 4)):
        changed = values.copy()
        changed[place] = odd
        assert not all_finite(changed, chunk=4)


@pytest.mark.parametrize(
    "text",
    ["[" * 10**5, '{"weight_map": {"a": 3}}', '{"weight_map": {"a": ["x"]}}', '{"weight_map": {"a\\nb": "x"}}', "\xff"],
)
def test_an_index_of_other_things_ends_in_one_line(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"index\.json is damaged") as caught:
        open_weights(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_name_that_would_break_the_line_is_refused(tmp_path):
    save_file({"a\nb": ARRAYS["a"]}, tmp_path / "x.safetensors")
    torch.save({"a\nb": torch.ones(2)}, tmp_path / "x.pt")
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match=r"damaged: it holds the name 'a\\nb'$"):
            open_file(path)


def test_a_directory_in_place_of_a_file_is_none(tmp_path):
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(ValueError, match=r"model\.safetensors is no file"):
        open_weights(tmp_path)


def test_a_name_that_holds_nothing_is_left_out(tmp_path):
    torch.save({"a": torch.ones(2), "rope.freqs": None}, tmp_path / "x.pt")
    assert open_file(tmp_path / "x.pt").names() == ["a"]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(1).expand(10**9),
        torch.ones(2, 2).to_sparse(),
        torch.ones(2, device="meta"),
    ],
    ids=["one value for many", "sparse", "without values"],
)
def test_a_tensor_that_is_not_dense_is_refused_without_opening_it_out(tmp_path, tensor):
    torch.save({"a": tensor}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt: 'a' should be dense tensors|x\.pt is damaged|neither a weight"):
        open_file(tmp_path / "x.pt")


def test_mapped_files_share_one_allowance_however_many_there_are(tmp_path, monkeypatch):
    """What was read of a mapped file is this process's memory until the file is closed."""
    monkeypatch.setattr(readers.Tensors, "mapped", weakref.WeakSet())
    monkeypatch.setattr(readers, "RELEASE_BYTES", 1000)
    values = {str(i): np.full(50, i, np.float32) for i in range(10)}
    for name, value in values.items():
        torch.save({name: torch.tensor(value), "rest": torch.zeros(3)}, tmp_path / f"{name}.pt")
    files = [open_file(tmp_path / f"{name}.pt") for name in values]
    for _ in range(3):
        for file, (name, value) in zip(files, values.items(), strict=True):
            np.testing.assert_array_equal(file.read(name), value)
            assert sum(f.taken for f in files if f.opened) <= 1000 + value.nbytes
    assert sum(bool(f.opened) for f in files) < len(files)
    assert all(f.names() == [name, "rest"] for f, name in zip(files, values, strict=True))
