"""The benchmarks run to their end on something small, and say what they measured."""

import json
import os
from pathlib import Path

import pytest

from jam_jax.bench import measure, turns
from jam_jax.bench.__main__ import main
from jam_jax.convert import __main__ as convert
from jam_jax.fuse import __main__ as fuse


def here(*args: str) -> measure.Run:
    """A command in this process, which has opened the libraries already."""
    {"jam_jax.convert": convert.main, "jam_jax.fuse": fuse.main}[args[0]](list(args[1:]))
    return measure.Run(1.0, 10**6)


@pytest.mark.long
def test_convert_measures_every_step_beside_copying(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "command", here)
    figures = tmp_path / "figures.json"
    main(["convert", "--gigabytes", "0.02", "--repeat", "1", "--folder", str(tmp_path), "--json", str(figures)])
    measured = json.loads(figures.read_text())
    assert set(measured["figures"]) == {
        *("copy the files", "import", "export", "fuse uniform", "fuse width", "fuse cross"),
    }
    for step in measured["figures"].values():
        assert step["seconds"] > 0
        assert step["written_gb"] > 0.01
    assert "of copying" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [figures]


@pytest.mark.long
def test_retrieval_measures_every_kind_beside_plain_faiss(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    figures = tmp_path / "figures.json"
    sizes = ["--documents", "4000", "--width", "32", "--centres", "80", "--queries", "50", "--repeat", "1"]
    kinds = ["--kinds", "exact", "hnsw", "ivfpq"]
    main(["retrieval", *sizes, *kinds, "--folder", str(tmp_path), "--json", str(figures)])
    measured = json.loads(figures.read_text())["figures"]
    assert set(measured) == {"plain FAISS", "exact", "hnsw", "ivfpq"}
    assert measured["plain FAISS"]["recall"] == measured["exact"]["recall"] == 1
    for kind in ("hnsw", "ivfpq"):
        assert measured[kind]["recall"] > 0.9
        assert 0 < measured[kind]["open_seconds"] < 5 and measured[kind]["queries_per_second"] > 0
    assert "4,000 vectors of 32, 80 centres" in " ".join(capsys.readouterr().out.split())
    assert list(tmp_path.iterdir()) == [figures]


def test_a_command_is_timed_and_weighed_and_its_failure_is_said() -> None:
    run = measure.command("jam_jax.convert", "--help")
    assert run.seconds > 0
    assert run.peak_bytes > 10**7
    with pytest.raises(ValueError, match=r"--source nowhere --target x failed:\n.*there is no checkpoint"):
        measure.command("jam_jax.convert", "import", "--source", "nowhere", "--target", "x")


def test_data_is_measured_beside_its_peers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    small = ["--tokens", "0.05", "--words", "3000", "--blocks", "3", "--documents", "1200000", "--repeat", "1"]
    path = tmp_path / "figures.json"
    main(["data", *small, "--folder", str(tmp_path), "--json", str(path)])
    measured = json.loads(path.read_text())
    figures, memory = measured["figures"], measured["memory"]
    texts = [f"{library}, {kind} texts" for library in ("SentencePiece", "Hugging Face") for kind in ("long", "short")]
    assert {f"{name}: to a store" for name in texts} | {"captions: CM3 blocks", "short texts: blocks"} < set(figures)
    assert all(figure["tokens_per_second"] > 1000 for figure in figures.values())
    assert sum("of_peer" not in figure for figure in figures.values()) == 6  # the peers themselves
    # Of a table of eight bytes a document next to nothing is held in memory.
    assert memory["the length table"]["megabytes"] < 8 < memory["the order by NumPy"]["megabytes"]
    assert "CM3 blocks" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [path]


def test_an_unknown_benchmark_is_one_line() -> None:
    with pytest.raises(
        ValueError, match="no benchmark 'speed': choose one of convert, data, decode, evaluate, retrieval, train"
    ):
        main(["speed"])


def test_train_starts_where_pytorch_does_and_learns_the_same(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    figures = tmp_path / "figures.json"
    sizes = ["--width", "32", "--layers", "1", "--heads", "4", "--vocab", "64", "--batch", "2", "--length", "16"]
    main(["train", *sizes, "--steps", "2", "--turns", "2", "--cross", "--json", str(figures)])
    measured = json.loads(figures.read_text())
    assert set(measured["figures"]) == {"jam_jax", "PyTorch", "jam_jax, JAM-Cross"}
    ours, theirs = (measured["figures"][name] for name in ("jam_jax", "PyTorch"))
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)  # after five updates
    assert ours["tokens_per_second"] > 0
    assert set(measured["products_teraflops"]) == {"jam_jax", "PyTorch"}
    assert "of PyTorch" in capsys.readouterr().out


@pytest.mark.long
def test_decode_measures_beside_transformers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    figures = tmp_path / "figures.json"
    small = ["--tokens", "4", "--codes", "4", "--prompt", "4", "--repeat", "1", "--batches", "2"]
    main(["decode", *small, "--shape", "tiny", "--peer", "eager", "--json", str(figures)])
    measured = json.loads(figures.read_text())["figures"]
    assert measured["the same greedy tokens"] is True
    for name in ("write", "draw", "draw guided"):
        assert measured[f"{name}, batch 2"]["tokens_per_second"] > 0
    assert set(measured["transformers, batch 2"]["ways"]) == {"growing cache", "static cache"}
    assert measured["times transformers, batch 2"] > 0 and measured["guided / unguided, batch 2"] > 0
    assert "of bandwidth" in capsys.readouterr().out


def test_mistaken_sizes_of_decode_are_told(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["decode", "--codes", "5"])
    assert "codes must be a square number, got 5" in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_perplexity_is_measured_beside_the_forward_pass_of_training(tmp_path: Path, capsys) -> None:
    figures = tmp_path / "figures.json"
    sizes = ["--width", "32", "--layers", "1", "--heads", "4", "--vocab", "64", "--batch", "2", "--length", "16"]
    main(["evaluate", *sizes, "--batches", "2", "--turns", "3", "--json", str(figures)])
    measured = json.loads(figures.read_text())["figures"]
    assert set(measured) == {"a training step's forward pass", "perplexity, full rows", "perplexity, mixed lengths"}
    full = measured["perplexity, full rows"]
    assert 0 < full["least_of_forward"] <= full["of_forward"] <= full["most_of_forward"]
    assert "of the forward pass" in " ".join(capsys.readouterr().out.split())


def side_calls(name: str) -> turns.Calls:
    """Calls of a side; made in its process."""
    if name == "nowhere":
        raise ValueError("there is no such side")
    return {"pid": os.getpid, "add": lambda: 1 + 1, "refuse": lambda: int("one"), "end": lambda: os._exit(3)}


def test_a_side_is_a_process_that_answers() -> None:
    side = turns.Side("ours", side_calls, "here")
    assert side.ask("add").value == 2 and side.ask("add").seconds > 0
    assert side.ask("pid").value not in (os.getpid(), None)
    with pytest.raises(ValueError, match="ours: invalid literal"):
        side.ask("refuse")
    assert side.ask("add").value == 2
    with pytest.raises(ValueError, match="the process of ours ended, with status 3"):
        side.ask("end")
    side.close()


def test_a_side_that_cannot_start_says_why_whenever_it_is_asked() -> None:
    side = turns.Side("theirs", side_calls, "nowhere")
    for _ in range(2):
        with pytest.raises(ValueError, match="theirs: there is no such side"):
            side.ask("add")
    side.close()
