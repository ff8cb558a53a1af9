"""The configs that ship: the paper's sizes from shapes alone, and every file loads, round-trips and says what it is."""

import dataclasses
import json
import shlex
import warnings
from pathlib import Path
from typing import Any

import pytest

from jam_jax import config
from jam_jax.config import Config, CrossConfig, DataConfig, DecoderConfig, OptimConfig, VqganConfig
from jam_jax.fuse import __main__ as fuse
from jam_jax.model_config import RopeScaling
from jam_jax.models import model

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "configs").glob("*/*.py"))
BILLIONS = {
    "parent_760m": 0.79,
    "parent_7b": 6.73,
    "uniform": 6.73,
    "width_copy": 26.34,
    "width_average": 26.34,
    "cross_none": 13.21,
    "cross_every_1": 26.09,
    "cross_every_2": 19.65,
    "cross_every_4": 16.43,
}


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_config_loads_and_comes_back_from_json(path: Path) -> None:
    found = config.read_config(path)
    assert isinstance(found, Config)
    assert config.from_dict(Config, config.to_dict(found)) == found


@pytest.mark.parametrize("name", BILLIONS)
def test_the_papers_sizes(name: str) -> None:
    found = config.read_config(ROOT / f"configs/paper/{name}.py").model
    assert isinstance(found, DecoderConfig | CrossConfig)
    assert round(model.count(found) / 1e9, 2) == BILLIONS[name]


def test_every_config_of_the_paper_has_its_size_here() -> None:
    assert {p.stem for p in FILES if p.parent.name == "paper"} == set(BILLIONS)


def test_fusions_of_the_paper_start_as_the_original_does() -> None:
    """Our defaults are others (docs/reproduction.md): a preset's command says the start in so many words."""
    fusing = [p for p in FILES if p.parent.name == "paper" and p.stem.startswith(("cross", "width"))]
    assert len(fusing) == 6
    for path in fusing:
        (line,) = [line for line in path.read_text().splitlines() if "-m jam_jax.fuse " in line]
        command = config.cli(fuse.Command, shlex.split(line.split("jam_jax.fuse ")[1]), prog="fuse")  # type: ignore[var-annotated]
        model_of = config.read_config(path).model
        if isinstance(command, fuse.Cross):
            assert isinstance(model_of, CrossConfig) and command.every == model_of.every
            assert (command.project, command.blocks, command.positions) == ("random", "identity", "img")
        else:
            assert isinstance(command, fuse.Width) and command.init == path.stem.removeprefix("width_")


@pytest.mark.parametrize("kind", ["world", "own"])
def test_the_stages_of_a_road_fit_each_other(kind: str) -> None:
    stages = {n: config.read_config(ROOT / f"configs/{kind}/{n}.py") for n in ("llm", "img", "cpt", "instruct")}
    assert stages["llm"].model == stages["img"].model  # parents must fit to be fused
    for stage in stages.values():
        assert stage.data.block - 1 <= stages["llm"].model.max_positions
    pictures = config.read_config(ROOT / f"configs/{kind}/image_tokenizer.py").model
    assert isinstance(pictures, VqganConfig) and 16 <= pictures.grid**2 <= 64


def test_a_description_from_before_a_field_was_there_means_its_default() -> None:
    stretched = dataclasses.replace(DECODER, positions="rope", rope_scaling=RopeScaling("llama3", 8.0))
    values = config.to_dict(stretched)
    assert config.model_from_dict(json.loads(json.dumps(values))) == stretched
    del values["rope_scaling"]
    assert config.model_from_dict(values) == dataclasses.replace(DECODER, positions="rope")
    with pytest.raises(ValueError, match="forms none, linear and llama3, got 'yarn'"):
        config.model_from_dict(values | {"rope_scaling": {"form": "yarn"}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "encoder"}, "unknown kind of model 'encoder'; known: decoder, cross, vqgan, clip"),
        ({"kind": "cross", "depth": 2}, "CrossConfig has no field depth"),
    ],
)
def test_a_foreign_description_is_refused_by_name(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config.model_from_dict(values)


DECODER = DecoderConfig(vocab_size=9, layers=1, width=4, heads=2, head_size=2, ffn_width=4, max_positions=8)


@pytest.mark.parametrize(
    ("values", "name", "value", "message"),
    [
        (DECODER, "heads", 0, "heads must be at least 1, got 0"),
        (DECODER, "kv_heads", 0, "kv_heads must be at least 1, got 0"),
        (DECODER, "kv_heads", 3, r"heads \(2\) must be a multiple of kv_heads \(3\)"),
        (VqganConfig(), "codes", 0, "codes must be at least 1, got 0"),
        (VqganConfig(), "groups", 0, "groups must be at least 1, got 0"),
        (VqganConfig(), "multipliers", (1, 0), "multipliers must be one or more numbers of at least 1"),
        (DataConfig(), "block", 1, "block must be at least 2, got 1"),
        (DataConfig(), "workers", -1, "workers must be at least 0, got -1"),
        (DataConfig(), "cm3_mean", float("nan"), "cm3_mean must be at least 0, got nan"),
        (OptimConfig(), "learning_rate", 0.0, "learning_rate must be more than 0, got 0.0"),
        (OptimConfig(), "clip", -1.0, "clip must be more than 0, got -1.0"),
        (OptimConfig(), "warmup", -1, "warmup must be at least 0, got -1"),
        (OptimConfig(), "final_share", 1.5, "final_share is a share from 0 to 1, got 1.5"),
        (Config(), "steps", 0, "steps must be at least 1, got 0"),
        (Config(), "log_every", 0, "log_every must be at least 1, got 0"),
        (Config(), "save_every", -1, "save_every must be at least 0, got -1"),
        (Config(), "keep", 0, "keep must be at least 1, got 0"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(values: Any, name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(values, **{name: value})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", "SyntaxError: invalid syntax"),
        ("from jam_jax.config import Config\ndef get_config():\n    return Config(stepz=1)", "TypeError: .*'stepz'"),
        ("import nowhere_at_all", "ModuleNotFoundError"),
        ("x = 1", "has no get_config"),
        ("def get_config():\n    return 3", "must give a Config, it gives int"),
    ],
)
def test_a_config_file_that_fails_ends_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        config.read_config(tmp_path / "mine.py")
    assert str(tmp_path / "mine.py") in str(error.value) and "\n" not in str(error.value)


def test_a_mistake_ends_in_one_line_or_in_its_traceback_if_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def main() -> None:
        raise ValueError("no such thing")

    monkeypatch.delenv("JAM_JAX_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as stop:
        config.run(main)
    assert stop.value.code == 1 and capsys.readouterr().err == "error: no such thing\n"
    monkeypatch.setenv("JAM_JAX_TRACEBACK", "1")
    with pytest.raises(ValueError, match="no such thing"):
        config.run(main)


def test_a_warning_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # put back afterwards
    config.run(lambda: warnings.warn("two documents will be cut", stacklevel=1))
    assert capsys.readouterr().err == "warning: two documents will be cut\n"


def test_a_file_is_written_whole_or_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    config.write_whole(path, "é")
    assert path.read_bytes() == "é".encode()
    with pytest.raises(UnicodeEncodeError):
        config.write_whole(path, "\ud800")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        config.write_whole(tmp_path / "taken", b"new")
    assert path.read_bytes() == "é".encode() and sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "taken"]


def test_options_override_a_config_file_and_mistakes_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(ROOT / "configs/world/llm.py")
    found = config.cli(Config, ["--config", path, "--optim.learning-rate", "0.5", "--model.layers", "7"], prog="train")
    assert found.optim.learning_rate == 0.5
    assert isinstance(found.model, DecoderConfig) and found.model.layers == 7
    with pytest.raises(SystemExit) as stop:
        config.cli(Config, ["--config", path, "--optim.leraning-rate", "1"], prog="train")
    assert stop.value.code == 2
    assert "--optim.learning-rate" in capsys.readouterr().err
    with pytest.raises(ValueError, match="there is no config file nowhere.py"):
        config.cli(Config, ["--config", "nowhere.py"], prog="train")
    with pytest.raises(ValueError, match="--config needs a file"):
        config.cli(Config, ["--config"], prog="train")
