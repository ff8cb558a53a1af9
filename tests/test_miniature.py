"""The paper's tables in miniature: its road is whole, its models are those that the tables name, and all of it runs."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest

from jam_jax import config, miniature, quickstart, tokens
from jam_jax.config import CrossConfig
from jam_jax.evaluate.tables import Table, describe
from jam_jax.evaluate.tables.markdown import BEGIN, END
from jam_jax.miniature import Miniature
from jam_jax.stages import MINUTES

TABLES = [f"configs/world/tables/{name}.py" for name in miniature.TABLES]
SEEDS = (4, 5)


@pytest.fixture
def road(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Miniature:
    """A road whose tokenizer is there, which training commands ask for its size."""
    monkeypatch.chdir(quickstart.ROOT)
    (tmp_path / "tokenizer").mkdir()
    space = tokens.jam(text=400, codes=64, codes_per_image=16)
    (tmp_path / "tokenizer" / "tokens.json").write_text(space.to_json())
    return Miniature(tmp_path, "cross", MINUTES, seeds=SEEDS)


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1] if name in command else ""


def commands(road: Miniature) -> list[list[str]]:
    return [command for stage in road.stages() for command in stage.commands()]


class ParsedError(Exception):
    """The command's options were understood."""


def test_every_command_is_one_that_its_program_understands(road: Miniature, monkeypatch: pytest.MonkeyPatch) -> None:
    understand = config.cli

    def parse(*args: object, **kwargs: object) -> None:
        understand(*args, **kwargs)  # type: ignore[call-overload]
        raise ParsedError

    monkeypatch.setattr(config, "cli", parse)
    first = dataclasses.replace(road, seeds=SEEDS[:1])
    for stage in first.stages():
        assert all(Path(path).is_file() for path in stage.inputs), f"a config of the stage {stage.name} is missing"
        for command in stage.commands():
            with pytest.raises(ParsedError):
                quickstart.execute(command)


def test_every_model_that_a_table_names_is_made_and_every_one_made_is_read_from_what_was_made_before(
    road: Miniature,
) -> None:
    made: set[str] = set()
    for command in commands(road):
        for name in ("--llm", "--img") if command[0] == "fuse" else ("--init",):
            assert not option(command, name) or option(command, name) in made, command
        made |= {option(command, "--out"), option(command, "--target")}
    named = {row.model for path in TABLES for row in describe.read(path, str(road.run), SEEDS).rows}
    assert named <= made
    fused = {f"{road.run}/{seed}/{name}" for seed in SEEDS for name in miniature.FUSIONS}
    assert fused <= named | {f"{road.run}/{seed}/cross_2" for seed in SEEDS}
    outputs = [pattern for stage in road.stages() for pattern in stage.outputs]
    assert len(outputs) == len(set(outputs))


def test_every_training_reads_what_a_stage_before_it_made(road: Miniature) -> None:
    made: set[Path] = set()
    for stage in road.stages():
        made |= {road.run / output for output in stage.outputs}
        for command in stage.commands() if stage.name != "tables" else []:
            read = {Path(part) for part in command if part.startswith(f"{road.run}/")}
            missing = [path for path in read if not made & {path, *path.parents}]
            assert not missing, (stage.name, command)
    assert road.run / "stores" in made


def test_no_two_parents_share_a_seed_and_all_fusions_of_a_seed_train_on_equal_tokens(road: Miniature) -> None:
    trained = [command for command in commands(road) if command[0] == "train"]
    parents = [option(c, "--seed") for c in trained if Path(option(c, "--config")).stem in ("llm", "img")]
    assert sorted(parents, key=int) == ["4", "5", "1004", "1005"]
    base = config.read_config("configs/world/tables/cpt.py")
    steps: Counter[str] = Counter()
    for command in trained:
        if Path(option(command, "--config")).stem == "cpt":
            name = option(command, "--out").removesuffix("-1")
            steps[name] += int(option(command, "--steps") or base.steps)
            assert "--batch" not in command and "--data.block" not in command
            first = "--optim.train-only" in command
            own = option(command, "--out").split("/")[-2]
            assert option(command, "--seed") == own or ("frozen" in name and not first)
    assert set(steps.values()) == {base.steps} and len(steps) == len(SEEDS) * (len(miniature.FUSIONS) + 1)


def test_cross_blocks_after_every_one_two_and_four_layers_are_three_models() -> None:
    model = config.read_config("configs/world/tables/llm.py").model
    assert model == config.read_config("configs/world/tables/img.py").model
    assert [CrossConfig(model, model, every).cross_blocks for every in (0, 1, 2, 4)] == [0, 4, 2, 1]
    for name in ("llm", "img", "cpt", "instruct", "instruct_captions"):
        found = config.read_config(f"configs/world/tables/{name}.py")
        assert found.data.block - 1 <= model.max_positions
        assert config.from_dict(config.Config, config.to_dict(found)) == found
    alone, mixed = (config.read_config(f"configs/world/tables/{n}.py") for n in ("instruct", "instruct_captions"))
    assert {s.store for s in mixed.data.sources} - {s.store for s in alone.data.sources} == {
        "runs/tables/stores/captions-train"
    }
    assert (alone.steps, alone.batch, alone.data.block) == (mixed.steps, mixed.batch, mixed.data.block)


@pytest.mark.parametrize("seeds", ["", "1,", "1,1", "1,01", "-1", "1000", "a", "1 2"])
def test_seeds_that_are_none_are_refused(seeds: str) -> None:
    with pytest.raises(ValueError, match="--seeds takes different whole numbers below 1000"):
        miniature.read_seeds(seeds)


@pytest.mark.parametrize("share", ["0", "-1", "nan", "inf"])
def test_a_share_of_no_steps_or_of_no_end_is_refused(share: str) -> None:
    with pytest.raises(ValueError, match="--share must be more than 0 and finite"):
        miniature.Options(share=float(share))


def test_a_document_without_a_place_for_the_tables_is_told_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "plain.md").write_text("nothing")
    with pytest.raises(ValueError, match="plain.md has no lines"):
        miniature.main(["--markdown", str(tmp_path / "plain.md"), "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_a_quickstarts_directory_is_left_alone(road: Miniature) -> None:
    (road.run / "stages").mkdir()
    stamp = {"fingerprint": "", "seconds": 1, "data": "the built-in world"}
    (road.run / "stages" / "world.json").write_text(json.dumps(stamp))
    (road.run / "world").mkdir()
    with pytest.raises(ValueError, match="holds a quickstart on the built-in world: choose another --out"):
        quickstart.follow(road)
    assert (road.run / "world").is_dir()


def test_the_document_has_a_place_for_the_tables() -> None:
    text = Path("docs/reproduction.md").read_text()
    assert text.index(BEGIN) < text.index(END)
    assert "launch/tables.sh" in text


class ShortMiniature(Miniature):
    """The same commands with fewer examples, steps and codes, two tables."""

    def stages(self) -> list:
        def short(command: list[str]) -> list[str]:
            if command[:2] == ["data", "world"]:
                return [*command, "--share", "0.01"]
            if command[0] == "train":
                less = ["--batch", "2", "--log-every", "2"]
                return [*command, *less, *(["--model.channels", "4"] if "image_tokenizer" in command[2] else [])]
            return command

        return [dataclasses.replace(s, commands=lambda s=s: [short(c) for c in s.commands()]) for s in super().stages()]


@pytest.mark.long
def test_the_whole_of_it_leads_to_tables_and_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(quickstart.ROOT)
    document = tmp_path / "document.md"
    document.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    road = ShortMiniature(tmp_path / "run", "cross", MINUTES * 0.004, seeds=(1,), markdown=str(document))
    quickstart.follow(road)
    found = json.loads((road.run / "tables" / "tables.json").read_text())["tables"]
    assert [table["title"] for table in found] == [config.read_config(path, Table).title for path in TABLES]
    for table in found:
        for row in table["rows"]:
            assert all(cell["mean"] is not None for cell in row["figures"].values()), (table["title"], row["label"])
        assert all(claim["verdict"] == "cannot be told" for claim in table["claims"])  # of one seed
    assert document.read_text().startswith("before\n") and "Table 4" in document.read_text()
    capsys.readouterr()
    quickstart.follow(road)
    said = capsys.readouterr().out
    assert said.count(": kept (") == len(road.stages()) - 1 and "$ python -m jam_jax.evaluate perplexity" not in said
