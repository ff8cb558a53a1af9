"""What is written a tensor at a time is what `torch.save` writes, and is never in memory as a whole."""

import argparse
import dataclasses
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch

from jam_jax.convert import archive_writer, archives, pickles
from jam_jax.streaming import Leaf, of_array

ARRAYS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
    "half": np.arange(40, dtype=np.float16),
    "brain": np.array([[[1.5], [-2.25]]], ml_dtypes.bfloat16),
    "number": np.array(3, np.float32),
    "nothing": np.zeros((0, 4), np.float32),
}


def contents(tensors):
    settings = argparse.Namespace(layers=3, names=["a"])
    return {"cfg": {"model": settings}, "model": tensors | {"tied": tensors["matrix"]}, "history": [{"updates": 0}]}


@pytest.mark.parametrize("mapped", [False, True])
def test_torch_reads_it_as_its_own(mapped, tmp_path):
    advanced = []
    path = tmp_path / "x.pt"
    archive_writer.save(path, contents({k: of_array(v) for k, v in ARRAYS.items()}), lambda: advanced.append(1))
    with torch.serialization.safe_globals([argparse.Namespace]):
        found = torch.load(path, weights_only=True, mmap=mapped)
    assert len(advanced) == len(ARRAYS)
    assert found["cfg"] == {"model": argparse.Namespace(layers=3, names=["a"])}
    assert found["history"] == [{"updates": 0}]
    for name, value in ARRAYS.items():
        got = pickles.to_numpy(found["model"][name])
        assert (got.dtype, got.shape, got.tobytes()) == (value.dtype, value.shape, value.tobytes()), name
    # What is there twice is stored once, and stays one.
    assert found["model"]["tied"].data_ptr() == found["model"]["matrix"].data_ptr()


def test_the_file_keeps_to_the_format_and_is_read_back_here(tmp_path):
    path = tmp_path / "x.pt"
    archive_writer.save(path, contents({k: of_array(v) for k, v in ARRAYS.items()}))
    archives.check(path)
    found = pickles.load(path)["model"]
    assert {k: pickles.to_numpy(v).tobytes() for k, v in found.items() if k != "tied"} == {
        k: v.tobytes() for k, v in ARRAYS.items()
    }
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = [info.filename for info in archive.infolist()]
    assert len(names) == len(set(names)) == 3 + len(ARRAYS)
    assert all(start % 64 == 0 for start in archives.check(path))


def test_one_tensor_is_in_memory_at_a_time(tmp_path):
    size = 2**20
    leaf = Leaf((size,), np.dtype(np.float32), lambda _: np.ones(size, np.float32), (size,))
    leaves = {str(i): dataclasses.replace(leaf) for i in range(12)}
    archive_writer.save(tmp_path / "warm.pt", {"a": of_array(np.ones(2, np.float32))})
    tracemalloc.start()
    archive_writer.save(tmp_path / "x.pt", {"model": leaves})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "x.pt").stat().st_size > 12 * 4 * size
    assert peak < 2.5 * 4 * size
