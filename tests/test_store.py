"""Token stores: what is written is read, and what is damaged, foreign or half-written is refused in one line."""

import json
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jam_jax import tokens
from jam_jax.data.store import Store, write_ids

SPACE = tokens.jam(text=300, codes=16, codes_per_image=4)
JAM = tokens.jam(text=56320, codes=8192, codes_per_image=1024, reserved=1024, pad_to=8)


def records(count: int, space: tokens.TokenSpace) -> list[tuple[np.ndarray, int]]:
    rng = np.random.default_rng(0)
    return [(rng.integers(0, space.vocab_size, rng.integers(1, 30)), int(rng.integers(0, 3))) for _ in range(count)]


@pytest.mark.parametrize(("space", "dtype"), [(SPACE, "<u2"), (JAM, "<u4")])
@pytest.mark.parametrize(("shard_bytes", "small"), [(1 << 20, 1 << 20), (1 << 20, 0), (100, 1 << 20), (100, 0)])
def test_what_is_written_is_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    space: tokens.TokenSpace,
    dtype: str,
    shard_bytes: int,
    small: int,
) -> None:
    monkeypatch.setattr("jam_jax.data.store.SMALL", small)  # from memory or from the disk
    written = records(50, space)
    store = write_ids(tmp_path / "store", iter(written), space, shard_bytes=shard_bytes, source="here")
    assert len(store) == 50
    for i in np.random.default_rng(1).permutation(50):
        ids, prompt = written[i]
        assert store[i].dtype == np.int32
        assert store[i].tolist() == ids.tolist()
        assert store.lengths[i].tolist() == [len(ids), prompt]
    assert store.manifest["dtype"] == dtype
    assert store.manifest["source"] == "here"
    assert (len(store.manifest["shards"]) > 1) == (shard_bytes == 100)
    everything = np.concatenate([ids for ids, _ in written])
    by_hand = [int((space.modality[everything] == m).sum()) for m in (tokens.TEXT, tokens.IMAGE, tokens.SPECIAL)]
    assert list(store.manifest["counts"].values()) == by_hand
    store.verify()
    assert pickle.loads(pickle.dumps(store))[7].tolist() == written[7][0].tolist()
    with pytest.raises(IndexError, match="no number 50"):
        store[50]


def test_a_store_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    store = write_ids(tmp_path / "store", records(3, SPACE), SPACE)
    store.check(SPACE)
    other = tokens.jam(text=301, codes=16, codes_per_image=4)
    with pytest.raises(ValueError, match=f"fingerprint {SPACE.fingerprint}, expected {other.fingerprint}.*again"):
        store.check(other)


def test_damage_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no token store"):
        Store(tmp_path)

    def damaged(name: str) -> Path:
        write_ids(tmp_path / name, records(9, SPACE), SPACE)
        return tmp_path / name

    path = damaged("manifest") / "manifest.json"
    path.write_text(path.read_text()[:50])
    path = damaged("counts") / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"documents": 8}))
    path = damaged("lengths") / "lengths.npy"
    np.save(path, np.load(path) + np.array([1, 0], np.uint32))
    (damaged("gone") / "tokens-00000.arrayrecord").unlink()
    path = damaged("short") / "tokens-00000.arrayrecord"
    path.write_bytes(path.read_bytes()[:-1])
    for name in ("manifest", "counts", "lengths", "gone", "short"):
        with pytest.raises(ValueError, match=r"is damaged \(.*\): tokenize again with"):
            Store(tmp_path / name)
    path = damaged("flipped") / "tokens-00000.arrayrecord"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"tokens-00000\.arrayrecord is damaged"):
        Store(tmp_path / "flipped").verify()
    path = damaged("prompts") / "lengths.npy"
    np.save(path, np.load(path) + np.array([0, 1], np.uint32))  # which no count tells
    with pytest.raises(ValueError, match=r"lengths\.npy is damaged"):
        Store(tmp_path / "prompts").verify()


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    def breaks_off() -> Iterator[tuple[np.ndarray, int]]:
        yield from records(5, SPACE)
        raise ValueError("a picture cannot be decoded")

    with pytest.raises(ValueError, match="cannot be decoded"):
        write_ids(tmp_path / "store", breaks_off(), SPACE)
    with pytest.raises(ValueError, match="no document"):
        write_ids(tmp_path / "store", [], SPACE)
    assert list(tmp_path.iterdir()) == []
    write_ids(tmp_path / "store", records(1, SPACE), SPACE)
    with pytest.raises(ValueError, match="already exists"):
        write_ids(tmp_path / "store", records(2, SPACE), SPACE)
    assert len(Store(tmp_path / "store")) == 1


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    # A limit on the size of files stands for the full disk; it must not bind this process, hence another one.
    script = f"""
        import resource, signal
        from pathlib import Path
        import numpy as np
        from jam_jax import tokens
        from jam_jax.data.store import write_ids
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        space = tokens.jam(text=300, codes=16, codes_per_image=4)
        try:
            write_ids({str(tmp_path / "store")!r}, ((np.arange(300), 0) for _ in range(10_000)), space)
        except OSError as error:
            print("told:", error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"told: cannot write {tmp_path / 'store'}"), done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_damage_inside_a_shard_is_one_line(tmp_path: Path) -> None:
    write_ids(tmp_path / "store", records(300, SPACE), SPACE)
    (shard,) = (tmp_path / "store").glob("*.arrayrecord")
    data = bytearray(shard.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    shard.write_bytes(data)
    store = Store(tmp_path / "store")  # sizes and counts are as they were
    with pytest.raises(ValueError, match=f"store {tmp_path / 'store'}: {shard.name} is damaged: tokenize again"):
        for i in range(300):
            store[i]
