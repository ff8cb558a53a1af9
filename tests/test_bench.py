"""The benchmarks run to their end on something small, and say what they measured."""

import json
from pathlib import Path

import pytest

from jam_jax.bench import measure
from jam_jax.bench.__main__ import main
from jam_jax.convert import __main__ as convert
from jam_jax.fuse import __main__ as fuse


def here(*args: str) -> measure.Run:
    """A command in this process, which has opened the libraries already."""
    {"jam_jax.convert": convert.main, "jam_jax.fuse": fuse.main}[args[0]](list(args[1:]))
    return measure.Run(1.0, 10**6)


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
    with pytest.raises(ValueError, match="no benchmark 'speed': choose one of convert, data"):
        main(["speed"])
