"""Plans for hardware that is not there, where its compiler is installed; and what a plan says."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest

from jam_jax import plan
from jam_jax.config import Config, DataConfig, DecoderConfig, MeshConfig
from jam_jax.hardware import HARDWARE
from jam_jax.hlo import Collective

CONFIG = """
from jam_jax.config import *

def get_config():
    return Config(
        model=DecoderConfig(
            vocab_size=512, layers=2, width=256, heads=4, head_size=64, ffn_width=512, max_positions=512,
            dtype="bfloat16", remat="full",
        ),
        data=DataConfig(block=513), mesh=MeshConfig(data=1, fsdp=-1), batch=16,
    )
"""
COMPILERS = {"cuda": "jax_cuda12_plugin", "tpu": "libtpu"}


@pytest.mark.parametrize(("hardware", "kernel"), [("a100-80gb", "cudnn"), ("tpu-v5e", "tpu_custom_call")])
def test_a_small_step_compiles_for_a_pod_that_is_not_there(
    hardware: str, kernel: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = COMPILERS[HARDWARE[hardware].platform]
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    texts = []
    read = plan.hlo.collectives
    monkeypatch.setattr(plan.hlo, "collectives", lambda text: (texts.append(text), read(text))[1])
    (tmp_path / "config.py").write_text(CONFIG)
    figures = tmp_path / "plan.json"
    command = ["--config", str(tmp_path / "config.py"), "--hardware", hardware, "--devices", "8"]
    plan.main([*command, "--json", str(figures), "--batch", "32"])
    found = json.loads(figures.read_text())
    said = capsys.readouterr().out
    assert f"8 x {hardware}" in said and "fits" in said
    assert "largest that fits: 4 rows at a time, with --accumulate 1" in said
    parameters = 512 * 256 + 514 * 256 + 2 * (4 * 256 * 256 + 2 * 256 * 512)
    assert found["parameters"] == parameters
    assert found["memory"]["parameters"] == parameters * 4 // 8
    assert found["tokens"] == 32 * 512
    # Every matrix of a layer travels to be computed with and its gradient back, no array is made whole to lie anew.
    assert found["collectives"]["all-gather"]["count"] >= 12
    assert found["rematerialisations"] == 0
    assert found["largest_gather"] < 4 * 2 * 512 * 256 * 2
    assert kernel in texts[0]


def test_without_its_compiler_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from jax.experimental import topologies

    def missing(*args: object, **kwargs: object) -> None:
        raise RuntimeError("Unknown backend cuda\nand more")

    monkeypatch.setattr(topologies, "get_topology_desc", missing)
    with pytest.raises(
        ValueError, match=r'cannot compile for cuda here \(Unknown backend cuda\): pip install "jax\[cuda'
    ):
        plan.topology(HARDWARE["h200"], 16)
    with pytest.raises(ValueError, match=r'pip install "jax\[tpu\]=='):
        plan.topology(HARDWARE["tpu-v5p"], 256)


@pytest.mark.parametrize(
    ("hardware", "devices", "message"),
    [
        ("tpu-v5p", 100, "known slices of this TPU have 8, 64, 256, 512 devices, not 100"),
        ("a100-80gb", 12, "12 devices do not fill nodes of 8"),
    ],
)
def test_a_pod_that_cannot_be_is_one_line(hardware: str, devices: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan.topology(HARDWARE[hardware], devices)


def test_a_config_without_a_model_borrows_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes its model from a checkpoint: borrow one with --like"):
        plan.compiled(Config(), "h200", 8)


def test_collectives_take_what_the_slowest_links_need() -> None:
    """An A100 sends 300 GB/s within its node of eight and 25 GB/s out of it."""
    a100 = HARDWARE["a100-80gb"]
    size = 10**9
    inside = Collective("all-gather", size, 1, (tuple(range(8)), tuple(range(8, 16))))
    whole = Collective("all-gather", size, 1, (tuple(range(16)),))
    across = Collective("all-reduce", size, 1, tuple((i, i + 8) for i in range(8)))
    assert plan.seconds_of(inside, a100, 16) == pytest.approx(7 / 8 / 300)
    assert plan.seconds_of(whole, a100, 16) == pytest.approx(15 / 16 / (8 * 25))
    assert plan.seconds_of(across, a100, 16) == pytest.approx(2 * 1 / 2 / 25)


def test_the_largest_part_that_fits_is_found_by_halving_and_doubling(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(
        model=DecoderConfig(vocab_size=8, layers=1, width=8, heads=1, head_size=8, ffn_width=8, max_positions=8),
        data=DataConfig(block=9),
        mesh=MeshConfig(1, 8),
        batch=64,
    )
    tried = []

    def compiled(config: Config, *_: object) -> plan.Plan:
        rows = config.batch // config.accumulate // 8
        tried.append(rows)
        sizes = {"activations": rows * 10}
        return plan.Plan(1, 1, rows, 1.0, sizes, 45, {}, 0, 0, 1, 1, 1.0, 1.0)

    monkeypatch.setattr(plan, "compiled", compiled)
    options = plan.Options(devices=8)
    for accumulate, asked in ((1, [8, 4]), (2, [4, 8]), (8, [1, 2, 4, 8])):
        tried.clear()
        start = dataclasses.replace(config, accumulate=accumulate)
        found = plan.search(start, options, compiled(start))
        assert tried == asked
        assert found is not None and (found[0], found[1].rows) == (2, 4)
        assert "4 rows at a time, with --accumulate 2" in plan.suggestion(config, found)
    monkeypatch.setattr(plan, "USABLE", 0.01)
    assert "no part of the batch fits" in plan.suggestion(config, plan.search(config, options, compiled(config)))
