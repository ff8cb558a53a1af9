"""How leaves are written: several blocks at a time, of large ones one, and nothing of them stays in memory."""

import contextlib
import dataclasses
import errno
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from jam_jax import checkpoint, checkpoint_blocks, disk
from jam_jax.models import model
from jam_jax.streaming import Index, Leaf
from tests.tiny import DECODER, leaves, randomise

PARAMS = randomise(model.shapes(DECODER))


def in_two_blocks(leaf: Leaf, before: Callable[[], object]) -> Leaf:
    """A leaf that calls `before` whenever one of its blocks is read."""

    def read(index: Index) -> np.ndarray:
        before()
        return leaf.read(index)

    return dataclasses.replace(leaf, read=read, block=(-(-leaf.shape[0] // 2), *leaf.shape[1:]))


def test_blocks_are_read_side_by_side(tmp_path: Path) -> None:
    tree, both = leaves(PARAMS), threading.Barrier(2)
    tree["embed"]["tokens"] = in_two_blocks(tree["embed"]["tokens"], lambda: both.wait(timeout=60))
    checkpoint.save_leaves(tmp_path / "m", DECODER, tree)
    _, found = checkpoint.load_model(tmp_path / "m")
    jax.tree.map(np.testing.assert_array_equal, found, PARAMS)


def test_of_large_blocks_one_is_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, inside, seen = leaves(PARAMS), [], []

    def before() -> None:
        inside.append(None)
        time.sleep(0.1)  # for another to come
        seen.append(len(inside))
        inside.pop()

    tree["embed"]["tokens"] = in_two_blocks(tree["embed"]["tokens"], before)
    monkeypatch.setattr(checkpoint_blocks, "BLOCK_BYTES", 1)
    checkpoint.save_leaves(tmp_path / "m", DECODER, tree)
    assert seen == [1, 1]


def test_finished_files_are_released_once_each_and_hold_what_they_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[Path] = []

    def release(path: Path) -> None:
        released.append(path)
        real(path)

    real = disk.release
    monkeypatch.setattr(disk, "release", release)
    monkeypatch.setattr(checkpoint_blocks, "RELEASE", 1)
    checkpoint.save_leaves(tmp_path / "m", DECODER, leaves(PARAMS))
    assert len(released) == len(set(released)) >= len(jax.tree.leaves(PARAMS)) - checkpoint_blocks.IN_FLIGHT - 1
    _, found = checkpoint.load_model(tmp_path / "m")
    jax.tree.map(np.testing.assert_array_equal, found, PARAMS)


def test_a_growing_file_is_released_whenever_it_has_grown_by_so_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(disk, "EVERY", 100)
    monkeypatch.setattr(disk, "release", lambda path: sizes.append(path.stat().st_size))
    with (tmp_path / "f").open("wb", buffering=0) as file:
        growing = disk.Growing(tmp_path / "f")
        for _ in range(10):
            growing.wrote(file.write(bytes(40)))
    assert sizes == [120, 240, 360]


def test_a_released_file_is_the_same_and_where_the_system_cannot_nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abc" * 5000)
    disk.release(path)
    assert path.read_bytes() == b"abc" * 5000
    for number in (errno.EINVAL, errno.ENOSPC):

        def refused(*_: object, number: int = number) -> None:
            raise OSError(number, "refused")

        monkeypatch.setattr(disk.os, "fdatasync", refused)
        with pytest.raises(OSError, match="refused") if number == errno.ENOSPC else contextlib.nullcontext():
            disk.release(path)
    monkeypatch.delattr(disk.os, "posix_fadvise", raising=False)
    disk.release(tmp_path / "missing")
