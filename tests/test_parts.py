"""Shards of a store: in any order, by anyone, started again, and put together to what one process would write."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import handmade
import numpy as np
import pytest

from jam_jax.data import parts
from jam_jax.data.__main__ import main
from jam_jax.data.parts import Part
from jam_jax.data.store import Store


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return handmade.tokenizer(tmp_path_factory.mktemp("tokenizer"))


def command(tokenizer: Path, source: Path, target: Path, *options: str) -> list[str]:
    given = ["--source", str(source), "--tokenizer", str(tokenizer), "--target", str(target), "--held-out", "0"]
    return ["tokenize", *given, *options]


def contents(store: Store) -> list[tuple[list[int], list[int]]]:
    return [(store[i].tolist(), store.lengths[i].tolist()) for i in range(len(store))]


@pytest.mark.parametrize(("shards", "order"), [(1, [0]), (3, [2, 0, 1]), (7, [6, 5, 4, 3, 2, 1, 0])])
def test_shards_in_any_order_are_the_store_of_one_process(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture, shards: int, order: list[int]
) -> None:
    source = handmade.text_folder(tmp_path / "texts", 5)  # fewer than seven: some shards hold nothing
    main(command(tokenizer, source, tmp_path / "whole"))
    for done, shard in enumerate(order, 1):
        main(command(tokenizer, source, tmp_path / "store", "--shard", f"{shard}/{shards}"))
        if done < shards:
            assert f"{shards - done} of {shards} shards are not there yet" in capsys.readouterr().out
            with pytest.raises(ValueError, match="holds parts of a store: put them together with .* merge"):
                Store(tmp_path / "store")
    whole, joined = Store(tmp_path / "whole"), Store(tmp_path / "store")
    assert contents(joined) == contents(whole)
    joined.verify()
    assert joined.manifest["parts"] == shards
    same = ("source", "settings", "records", "tokenizer", "fingerprint", "documents", "tokens", "counts", "dtype")
    assert {name: joined.manifest[name] for name in same} == {name: whole.manifest[name] for name in same}
    assert joined.manifest["records"] == {"read": 5, "damaged": 0, "left_out": 0}
    assert all(len(shard["sha256"]) == 64 for shard in joined.manifest["shards"])
    # Once more does no harm, and says so.
    before = (tmp_path / "store/manifest.json").read_bytes()
    main(command(tokenizer, source, tmp_path / "store", "--shard", f"0/{shards}"))
    main(["merge", str(tmp_path / "store")])
    assert "shard 0/" in capsys.readouterr().out
    assert (tmp_path / "store/manifest.json").read_bytes() == before


def test_a_shard_that_was_killed_is_started_again(tokenizer: Path, tmp_path: Path) -> None:
    source = tmp_path / "texts"
    source.mkdir()
    for i in range(3000):
        (source / f"{i}.txt").write_text(f"text {i} " * 50)
    target = tmp_path / "store"
    call = [sys.executable, "-m", "jam_jax.data", *command(tokenizer, source, target, "--shard", "0/2")]
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL)
    while not list(target.glob(".part-00000-of-00002.*.partial/*.arrayrecord")) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)  # nobody cleans up
    assert process.wait() == -signal.SIGKILL
    assert [path.suffix for path in target.iterdir()] == [".partial"]
    for shard in ("1/2", "0/2"):
        main(command(tokenizer, source, target, "--shard", shard))
    assert len(Store(target)) == 3000
    assert not list(target.glob(".*"))


def test_shards_that_do_not_go_together_are_refused(tokenizer: Path, tmp_path: Path) -> None:
    source, other = handmade.text_folder(tmp_path / "texts", 6), handmade.text_folder(tmp_path / "others", 6)
    target = tmp_path / "store"
    main(command(tokenizer, source, target, "--shard", "0/3"))
    for changed, message in [
        (command(tokenizer, source, target, "--shard", "1/2"), "holds shard 0/3, which does not go with 1/2"),
        (
            command(tokenizer, other, target, "--shard", "1/3"),
            r"shard 0/3 with another source \(.*texts.*, not .*others",
        ),
        (command(tokenizer, source, target, "--shard", "1/3", "--damaged", "0.5"), "shard 0/3 with another settings"),
        (command(tokenizer, source, target), "already exists"),
        (["merge", str(target)], "2 of 3 shards of .* are not there: write 1/3, 2/3 first"),
        (["merge", str(tmp_path / "nowhere")], "holds no parts of a store"),
    ]:
        with pytest.raises(ValueError, match=message):
            main(changed)
    assert [p.name for p in target.iterdir()] == ["part-00000-of-00003"]
    whole = tmp_path / "whole"
    main(command(tokenizer, source, whole))
    with pytest.raises(ValueError, match="was written in one piece"):
        main(command(tokenizer, source, whole, "--shard", "0/3"))
    # What came together by copying is looked at when it is put together.
    main(command(tokenizer, other, tmp_path / "b", "--shard", "1/3"))
    for name in ("part-00001-of-00003", "part-00002-of-00003"):
        shutil.copytree(tmp_path / "b/part-00001-of-00003", target / name)
    with pytest.raises(ValueError, match="shard 1/3 of .*store was written with another source than 0/3"):
        main(["merge", str(target)])
    shutil.copytree(tmp_path / "b/part-00001-of-00003", target / "part-00001-of-00004")
    with pytest.raises(ValueError, match="holds shards 0/3 and 1/4: remove those of one of the two"):
        main(["merge", str(target)])


def test_a_damaged_shard_is_named(tokenizer: Path, tmp_path: Path) -> None:
    source, target = handmade.text_folder(tmp_path / "texts", 6), tmp_path / "store"
    main(command(tokenizer, source, target, "--shard", "0/2"))
    (file,) = (target / "part-00000-of-00002").glob("*.arrayrecord")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"part-00000-of-00002 is damaged \(the size of tokens-00000"):
        main(command(tokenizer, source, target, "--shard", "1/2"))


def test_damaged_records_are_judged_over_all_shards(tokenizer: Path, tmp_path: Path) -> None:
    # A fifth of the records; neither shard can know how many records there are in all.
    lines = [json.dumps({"text": f"text {i}"}) if i % 5 else "{" for i in range(200)]
    source, target = handmade.json_lines(tmp_path / "own.jsonl", lines), tmp_path / "store"
    for shard in ("0/2", "1/2"):
        call = command(tokenizer, source, target, "--shard", shard, "--damaged", "0.15")
        if shard == "0/2":
            main(call)
    with pytest.raises(ValueError, match="40 of 200 records of all shards of .*store are damaged, more than 15%: mend"):
        main(call)
    with pytest.raises(ValueError, match="is no token store|holds parts"):
        Store(target)
    for shard in ("0/2", "1/2"):
        main(command(tokenizer, source, tmp_path / "more", "--shard", shard, "--damaged", "0.2"))
    assert Store(tmp_path / "more").manifest["records"] == {"read": 200, "damaged": 40, "left_out": 0}


def test_no_document_in_any_shard_is_one_line(tokenizer: Path, tmp_path: Path) -> None:
    source = handmade.json_lines(tmp_path / "own.jsonl", ["{"] * 3)
    source.write_text(json.dumps({"text": ""}) + "\n")
    main(command(tokenizer, source, tmp_path / "store", "--shard", "0/2", "--damaged", "1"))
    with pytest.raises(ValueError, match="no document in any of the 2 shards"):
        main(command(tokenizer, source, tmp_path / "store", "--shard", "1/2", "--damaged", "1"))


@pytest.mark.parametrize("text", ["3", "3/3", "-1/3", "a/b", "1/0", "1/2/3", ""])
def test_what_is_no_shard_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"--shard is I/N, one of the shards 0 to N - 1 \(0/64 to 63/64 of 64\), got"):
        Part.parse(text)
    assert str(Part.parse("3/64")) == "3/64"


def test_a_limit_and_a_shard_do_not_go_together(tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--limit counts the documents of a whole source"):
        main(command(tokenizer, tmp_path, tmp_path / "s", "--shard", "0/2", "--limit", "3"))


def test_several_that_end_at_once_write_one_store(tokenizer: Path, tmp_path: Path) -> None:
    source, target = handmade.text_folder(tmp_path / "texts", 8), tmp_path / "store"
    for shard in range(4):
        main(command(tokenizer, source, target, "--shard", f"{shard}/4"))
    expected = contents(Store(target))
    code = "import sys; from jam_jax.data import parts; [parts.merge(sys.argv[1]) for _ in range(20)]"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    both = [subprocess.Popen([sys.executable, "-c", code, str(target)], env=environment) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert contents(Store(target)) == expected
    assert np.load(target / "lengths.npy").shape == (8, 2)
    assert not parts.missing(target)
    assert sorted(p.name for p in target.iterdir() if not p.name.startswith("part-")) == [
        "lengths.npy",
        "manifest.json",
    ]
