"""Pieces of a checkpoint that are closed and opened again while several threads read them are what they were."""

from pathlib import Path

import pytest
from parents import same_bits

from jam_jax import checkpoint
from jam_jax.convert import readers
from jam_jax.convert.__main__ import import_model
from jam_jax.trees import paths

CHECKPOINTS = Path(__file__).parent / "golden" / "checkpoints"


@pytest.mark.parametrize("name", ["a_mp2", "a_fsdp2", "a_mp2_fsdp3_fp16"])
def test_files_that_share_an_allowance_are_read_by_several_threads(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "RELEASE_BYTES", 1)  # each read closes all files
    for attempt in range(5):
        import_model(CHECKPOINTS / name, tmp_path / str(attempt))
    whole = [paths(checkpoint.load_model(tmp_path / str(attempt))[1]) for attempt in range(5)]
    monkeypatch.undo()
    import_model(CHECKPOINTS / name, tmp_path / "kept")
    expected = paths(checkpoint.load_model(tmp_path / "kept")[1])
    for found in whole:
        same_bits(found, expected)
