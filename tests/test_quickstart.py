"""The quickstart's driver: finished stages are kept, changed ones run again, failures leave nothing half-written."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jam_jax import config, quickstart, tokens
from jam_jax.data.formats.pictures import png
from jam_jax.stages import Road, Stage


class FakeRoad(Road):
    """Three stages, each of which writes one file; `world.py` is the config of the second."""

    def stages(self):
        def stage(name, *inputs):
            return Stage(name, f"Make {name}", lambda: [["make", self.at(name), self.fusion]], (name,), inputs)

        return [stage("one"), stage("two", str(self.run.parent / "world.py")), stage("three")]


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Follow the fake road; the names of what was made come back. A name in `fails` ends its stage half-way."""
    (tmp_path / "world.py").write_text("first")
    fails: dict[str, BaseException] = {}
    names: list[str] = []

    def execute(command):
        path = Path(command[1])
        assert not path.exists(), "a stage's output is removed before it runs"
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
        if path.name in fails:
            raise fails[path.name]
        names.append(path.name)

    def follow(fusion="cross", fresh=False):
        names.clear()
        quickstart.follow(FakeRoad(tmp_path / "run", fusion, 15.0), fresh=fresh)
        return list(names)

    monkeypatch.setattr(quickstart, "execute", execute)
    follow.fails, follow.names, follow.root = fails, names, tmp_path
    return follow


def test_finished_stages_are_kept(made):
    assert made() == ["one", "two", "three"]
    assert made() == []
    assert made(fresh=True) == ["one", "two", "three"]


def test_a_stage_that_is_wanted_every_time_runs_every_time(made, monkeypatch):
    made()
    road = FakeRoad.stages
    monkeypatch.setattr(FakeRoad, "stages", lambda self: [*road(self)[:2], replace(road(self)[2], always=True)])
    assert made() == made() == ["three"]


def test_a_changed_config_or_a_lost_output_runs_again_with_all_that_follows(made):
    made()
    (made.root / "world.py").write_text("second")
    assert made() == ["two", "three"]
    (made.root / "run" / "two").unlink()
    assert made() == ["two", "three"]
    assert made(fusion="width") == ["one", "two", "three"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no")], ids=["stopped", "failed"])
def test_a_stop_keeps_what_was_finished_and_nothing_half_written(made, error, capsys):
    made.fails["two"] = error
    with pytest.raises(SystemExit if isinstance(error, KeyboardInterrupt) else ValueError):
        made()
    assert sorted(p.name for p in (made.root / "run").iterdir()) == ["one", "stages"]
    assert ("the same command goes on" in capsys.readouterr().err) == isinstance(error, KeyboardInterrupt)
    made.fails.clear()
    assert made() == ["two", "three"]


def test_stamps_say_what_was_run_and_how_long_it_took(made):
    made()
    stamps = [json.loads((made.root / f"run/stages/{name}.json").read_text()) for name in ("one", "two", "three")]
    assert [s["number"] for s in stamps] == [1, 2, 3]
    assert all(s["seconds"] >= 0 and 0.001 < s["peak_memory_gib"] < 64 for s in stamps)
    assert stamps[0]["commands"] == [f"python -m jam_jax.make {made.root / 'run' / 'one'} cross"]


def test_a_directory_with_other_things_in_it_is_left_alone(made):
    (made.root / "run").mkdir()
    (made.root / "run" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="no quickstart's directory"):
        made(fresh=True)
    assert (made.root / "run" / "thesis.txt").read_text() == "years of work"


def test_a_run_on_other_data_is_left_alone_unless_it_is_to_begin_again(made, own):
    made()
    other = FakeRoad(made.root / "run", "cross", 15.0, **own)
    with pytest.raises(ValueError, match="holds a quickstart on the built-in world: choose another --out"):
        quickstart.follow(other)
    assert made() == []  # all is still there
    made.names.clear()
    quickstart.follow(other, fresh=True)
    assert made.names == ["one", "two", "three"]


def test_to_begin_again_on_other_data_removes_all_that_was_there(own, tmp_path, monkeypatch):
    monkeypatch.chdir(quickstart.ROOT)
    monkeypatch.setattr(quickstart, "execute", lambda command: (_ for _ in ()).throw(KeyboardInterrupt))
    run = tmp_path / "run"
    (run / "stages").mkdir(parents=True)
    for stage in Road(run, "cross", 15.0).stages():
        stamp = {"fingerprint": "", "seconds": 1, "data": "the built-in world"}
        (run / "stages" / f"{stage.name}.json").write_text(json.dumps(stamp))
        for output in stage.outputs:
            (run / output).parent.mkdir(exist_ok=True)
            (run / output.replace("*", "text")).write_text("of the world")
    with pytest.raises(SystemExit):  # stopped in its first stage
        quickstart.follow(Road(run, "cross", 15.0, **own), fresh=True)
    assert [p for p in run.rglob("*") if p.is_file()] == []


@pytest.fixture
def own(tmp_path):
    """Forty pictures with captions, and forty texts."""
    (tmp_path / "pictures").mkdir(), (tmp_path / "text").mkdir()
    picture = png(np.zeros((8, 8, 3), np.uint8))
    for i in range(40):
        (tmp_path / f"pictures/{i}.png").write_bytes(picture)
        (tmp_path / f"text/{i}.txt").write_text(f"text {i}")
    lines = [json.dumps({"file_name": f"{i}.png", "text": f"picture {i}"}) for i in range(40)]
    (tmp_path / "pictures/metadata.jsonl").write_text("\n".join(lines))
    return {"pictures": str(tmp_path / "pictures"), "text": str(tmp_path / "text")}


@pytest.mark.parametrize("mistake", ["other key", "empty", "no texts"])
def test_own_data_that_cannot_make_the_road_is_refused_before_anything_is_removed(made, own, mistake):
    road = FakeRoad(made.root / "run", "cross", 15.0, **own)
    quickstart.follow(road)
    metadata = Path(own["pictures"]) / "metadata.jsonl"
    if mistake == "other key":
        metadata.write_text(metadata.read_text().replace('"text"', '"remark"'))
    elif mistake == "empty":
        metadata.write_text("")
    else:
        for path in Path(own["text"]).glob("*.txt"):
            path.unlink()
    with pytest.raises(ValueError, match=own["text"] if mistake == "no texts" else own["pictures"]):
        quickstart.follow(road)
    assert {"one", "two", "three"} <= {p.name for p in (made.root / "run").iterdir()}


def test_a_damaged_stamp_makes_its_stage_run_again(made):
    made()
    for text in ("", "[]", "{}"):
        (made.root / "run/stages/two.json").write_text(text)
        assert made() == ["two", "three"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--fusoin", "cross"], "--fusion"),
        (["--fusion", "sideways"], "cross"),
        (["--minutes", "soon"], "--minutes"),
        (["--minutes", "0"], "more than 0"),
        (["--minutes", "inf"], "finite"),
        (["--text", "."], "both"),
    ],
)
def test_options_that_are_wrong_end_with_a_suggestion(args, message, capsys):
    with pytest.raises(SystemExit) as stop:
        quickstart.main(args)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_missing_folder_is_named():
    with pytest.raises(ValueError, match="there is no directory nowhere/pictures"):
        quickstart.main(["--pictures", "nowhere/pictures", "--text", "nowhere/text"])


class ParsedError(Exception):
    """The command's options were understood."""


@pytest.mark.parametrize("own", [False, True], ids=["world", "own"])
def test_every_command_of_the_road_is_one_that_its_program_understands(own, tmp_path, monkeypatch):
    understand = config.cli

    def parse(*args, **kwargs):
        understand(*args, **kwargs)
        raise ParsedError

    monkeypatch.setattr(config, "cli", parse)
    monkeypatch.chdir(quickstart.ROOT)
    (tmp_path / "tokenizer").mkdir()
    space = tokens.jam(text=400, codes=64, codes_per_image=16)
    (tmp_path / "tokenizer" / "tokens.json").write_text(space.to_json())
    data = {"pictures": str(tmp_path / "pictures"), "text": str(tmp_path / "text")} if own else {}
    road = Road(tmp_path, "width", 3.0, **data)
    for stage in road.stages():
        assert all(Path(path).is_file() for path in stage.inputs), f"a config of the stage {stage.name} is missing"
        for command in stage.commands():
            with pytest.raises(ParsedError):
                quickstart.execute(command)
            made = [Path(command[i + 1]) for i, word in enumerate(command) if word in ("--out", "--target")]
            for path in made:  # so that it is removed, and made again, with its stage
                patterns = [tmp_path / output for output in stage.outputs]
                assert any(path.match(str(p)) or p in path.parents for p in patterns), (stage.name, path)


def test_training_commands_scale_with_the_minutes_and_take_the_tokenizers_vocabulary(tmp_path, monkeypatch):
    monkeypatch.chdir(quickstart.ROOT)
    given = config.read_config("configs/world/llm.py")
    (tmp_path / "tokenizer").mkdir()
    space = tokens.jam(text=400, codes=64, codes_per_image=16)
    (tmp_path / "tokenizer" / "tokens.json").write_text(space.to_json())
    found = []
    monkeypatch.setattr("jam_jax.train.train", found.append)
    quickstart.execute(Road(tmp_path, "cross", 30.0).train("llm", "llm", model=True))
    (run,) = found
    assert (run.steps, run.optim.warmup) == (2 * given.steps, 2 * given.optim.warmup)
    assert run.out == str(tmp_path / "llm") and run.tokenizer == str(tmp_path / "tokenizer")
    assert [s.store for s in run.data.sources] == [str(tmp_path / "stores" / "text-train")]
    assert run.model.vocab_size == space.vocab_size and run.model.width == given.model.width


def test_a_clip_is_trained_whole_however_short_the_road_is(tmp_path, monkeypatch):
    monkeypatch.chdir(quickstart.ROOT)
    (stage,) = [stage for stage in Road(tmp_path, "cross", 0.1).stages() if stage.name == "clip"]
    (command,) = stage.commands()
    assert "--steps" not in command and "--optim.warmup" not in command


def test_in_its_own_place_a_command_says_no_more_than_it_must(monkeypatch):
    monkeypatch.chdir(quickstart.ROOT)
    road = Road(Path("runs/quickstart"), "cross", 15.0)
    assert road.train("llm", "llm") == ["train", "--config", "configs/world/llm.py"]
