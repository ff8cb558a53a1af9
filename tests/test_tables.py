"""Tables: rows of models by measures, what is kept, what fails, means, verdicts, and the ways they are shown."""

import csv
import dataclasses
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from jam_jax import checkpoint, config, tokens
from jam_jax.data.store import write_ids
from jam_jax.evaluate import paper
from jam_jax.evaluate.__main__ import main
from jam_jax.evaluate.tables import Claim, Measured, Recorded, Row, Table, ZeroShot, command, describe
from jam_jax.evaluate.tables import markdown as markdown_files
from jam_jax.evaluate.tables.grids import figures as figures_grid
from jam_jax.evaluate.tables.measures import Figure
from jam_jax.evaluate.tables.results import Results
from jam_jax.evaluate.tables.summary import MeasuredTable, decide
from tests import training

ROOT = Path(__file__).parent.parent
DESCRIBED = sorted((ROOT / "configs/world/tables").glob("*.py"))
TABLES = [path for path in DESCRIBED if path.stem.startswith("table_") or path.stem == "ablations"]
NASTY = '<script>alert("x")</script> | `&` *quotes*'
PPL = Measured("ppl", ("make",), ("value",), lower=True)
ACC = Measured("acc", ("make",), ("deep", "share"), percent=True)


def filled(values: dict[str, dict[str, list[float | None]]], **about: object) -> MeasuredTable:
    """A table of figures by row and measure, group by group; None: it failed."""
    measures = {"ppl": PPL, "acc": ACC}
    rows = [
        Row(label, f"{label}-{i}", parent=label.startswith("parent"), group=str(i))
        for label, of in values.items()
        for i in range(len(next(iter(of.values()))))
    ]
    used = tuple(measures[name] for name in dict.fromkeys(name for of in values.values() for name in of))
    figures = {
        (label, str(i), name): Figure(v) if v is not None else Figure(None, fault=f"no {label}")
        for label, of in values.items()
        for name, found in of.items()
        for i, v in enumerate(found)
    }
    return MeasuredTable(Table("t", tuple(rows), used, **about), figures)  # type: ignore[arg-type]


# --- What figures say together ---


def test_means_spreads_and_differences_by_hand() -> None:
    found = filled({"parent": {"ppl": [5.0, 6.0, 10.0]}, "one": {"ppl": [6.0, 8.0, 10.0]}})
    cell = found.cell("one", "ppl")
    assert (cell.mean, cell.deviation) == (8.0, 2.0)
    less = found.difference("one", "parent", "ppl")
    assert less.values == {"0": 1.0, "1": 2.0, "2": 0.0}  # each from the parent of its own group
    assert figures_grid(found).rows[1] == ["one", "8.00 ± 2.00"]


def test_a_parent_of_one_model_is_everyones_and_one_of_other_groups_nobodys() -> None:
    single = filled({"parent": {"ppl": [5.0]}, "one": {"ppl": [6.0, 8.0]}})
    assert single.difference("one", "parent", "ppl").values == {"0": 1.0, "1": 3.0}
    partly = filled({"parent": {"ppl": [5.0, None]}, "one": {"ppl": [6.0, 8.0]}})
    assert partly.difference("one", "parent", "ppl").values == {"0": 1.0}  # not from another seed's parent


def test_one_model_has_no_spread_and_a_lost_one_leaves_the_mean_of_the_others_with_a_remark() -> None:
    found = filled({"one": {"ppl": [4.0, None, 8.0]}, "two": {"ppl": [None]}})
    grid = figures_grid(found)
    assert grid.rows == [["one", "6.00 ± 2.83 [1]"], ["two", "– [2]"]]
    assert grid.remarks[:2] == ["one (1): no one", "two (0): no two"]
    assert found.cell("two", "ppl").deviation is None and len(found.faults) == 2


@pytest.mark.parametrize(
    ("better", "than", "measure", "verdict"),
    [
        ([5.0, 5.1, 4.9], [6.0, 6.1, 5.9], "ppl", "confirmed"),
        ([6.0, 6.1, 5.9], [5.0, 5.1, 4.9], "ppl", "not confirmed"),
        ([5.0, 6.0, 5.5], [5.5, 5.0, 6.0], "ppl", "cannot be told"),
        ([60.0, 61.0], [50.0, 52.0], "acc", "confirmed"),  # more is better here
        ([5.0], [6.0], "ppl", "cannot be told"),  # one seed says nothing of the next
        ([5.0, None, None], [6.0, 6.0, 6.0], "ppl", "cannot be told"),
        ([5.0, 9.0, 7.0], [6.0, 10.0, 8.0], "ppl", "confirmed"),  # seeds differ, their differences do not
    ],
)
def test_a_claim_is_decided_by_two_standard_errors(better: list, than: list, measure: str, verdict: str) -> None:
    claim = Claim("a is better", "a", "b", measure)
    found = decide(filled({"a": {measure: better}, "b": {measure: than}}, claims=(claim,)), claim)
    assert found.verdict == verdict
    assert found.seeds == sum(v is not None for v in better)


def test_one_model_is_compared_with_those_of_all_seeds_on_either_side_of_a_claim() -> None:
    for better, than, verdict, mean in (("one", "many", "confirmed", 2.0), ("many", "one", "not confirmed", -2.0)):
        claim = Claim("?", better, than, "ppl")
        rows = (Row("one", "x"), *(Row("many", f"y-{seed}", group=seed) for seed in "123"))
        figures = {("one", "", "ppl"): Figure(5.0)} | {
            ("many", seed, "ppl"): Figure(v) for seed, v in zip("123", (6.5, 7.0, 7.5), strict=True)
        }
        found = decide(MeasuredTable(Table("t", rows, (PPL,), claims=(claim,)), figures), claim)
        assert (found.verdict, found.seeds) == (verdict, 3) and found.mean == pytest.approx(mean)


def test_just_within_and_just_beyond_two_standard_errors() -> None:
    claim = Claim("a is better", "a", "b", "ppl")
    for half, verdict in ((0.99, "confirmed"), (1.01, "cannot be told")):
        # Differences 2 ± half·√2: their standard error is half, so two of them are 1.98 or 2.02 of a mean of 2.
        lower = [0.0, 0.0]
        higher = [2 - half, 2 + half]
        assert decide(filled({"a": {"ppl": lower}, "b": {"ppl": higher}}, claims=(claim,)), claim).verdict == verdict


# --- The descriptions that ship ---


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.stem)
def test_every_table_that_ships_can_be_read_for_its_seeds(path: Path) -> None:
    table = describe.read(path, "runs/tables", (4, 5))
    assert {row.group for row in table.rows} == {"4", "5"}
    assert all(row.model.startswith(f"runs/tables/{row.group}/") for row in table.rows)
    assert table.parents


@pytest.mark.parametrize("path", [p for p in TABLES if p.stem != "ablations"], ids=lambda p: p.stem)
def test_every_claim_holds_in_the_papers_own_figures(path: Path) -> None:
    table = config.read_config(path, Table)
    assert table.claims and table.paper == path.stem[-1]
    for claim in table.claims:
        measure = table.measure(claim.measure)
        better, than = (table.told(label, measure) for label in (claim.better, claim.than))
        assert better is not None and than is not None, claim
        assert better < than if measure.lower else better > than, claim


def test_the_papers_rows_beside_ours() -> None:
    assert paper.TABLES["1"]["JAM-Cross 19B"][paper.MEAN] == 68.5 and paper.MEAN not in paper.TABLES["1"]["LLaMA 7B"]
    assert paper.TABLES["2"]["JAM-Cross 19B"] == {"MS-COCO": 147.6}
    row = Row("ours", "m", paper="JAM-Cross 19B")
    table = Table("t", (row,), (ZeroShot("PIQA", "tasks", "piqa", paper="PIQA"),), paper="1")
    grid = figures_grid(MeasuredTable(table, {("ours", "", "PIQA"): Figure(50.04)}))
    assert grid.header == ["", "PIQA", "paper"] and grid.rows[0] == ["ours", "50.0", "75.4"]
    assert ["paper: GPT-3 175B", "–", "81.0"] in grid.rows and len(grid.rows) == len(paper.ZERO_SHOT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": ()}, "needs at least one row"),
        ({"rows": (Row("a", "x"), Row("a", "y"))}, "two rows"),
        ({"measures": (PPL, PPL)}, "two measures 'ppl'"),
        ({"claims": (Claim("?", "a", "nowhere", "ppl"),)}, "names 'nowhere'; there are a"),
        ({"claims": (Claim("?", "a", "a", "speed"),)}, "names 'speed'; there are ppl"),
        ({"paper": "6"}, "no table '6'"),
        ({"rows": (Row("a", "x", paper="JAM"),), "paper": "1"}, "names 'JAM' of the paper's table 1, which has GPT-3"),
        ({"rows": (Row("a", "x", paper="copy"),)}, "none is given"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Table(**({"title": "t", "rows": (Row("a", "x"),), "measures": (PPL,)} | change))


def test_a_file_that_gives_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"get_config\(\) must give a Table, it gives Config"):
        describe.read(ROOT / "configs/world/llm.py")
    with pytest.raises(ValueError, match="the model {seed}/llm is one for each seed: give --seeds"):
        describe.read(TABLES[1])


# --- What is measured, and kept ---


class Bench:
    """A directory of models and a command that writes what `values` says of them."""

    def __init__(self, root: Path) -> None:
        self.root, self.ran = root, []
        self.values: dict[str, object] = {}

    def model(self, name: str, value: object) -> Row:
        (self.root / name).mkdir(exist_ok=True)
        (self.root / name / "model.json").write_text("{}")
        self.values[str(self.root / name)] = value
        return Row(name, str(self.root / name))

    def run(self, args: list[str]) -> None:
        name, _, model, *_, out = args
        self.ran.append((name, Path(model).name))
        value = self.values[model]
        if isinstance(value, BaseException):
            raise value
        Path(out).write_text(json.dumps({"value": value, "deep": {"share": 0.25}}))

    def results(self, fresh: bool = False) -> Results:
        return Results(self.root / "results", "", self.run, fresh)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_figure_is_measured_once_and_again_when_asked_or_when_its_model_changes(bench: Bench) -> None:
    row = bench.model("m", 5.0)
    assert bench.results().figure(row, PPL) == Figure(5.0)
    bench.values[row.model] = 7.0
    assert bench.results().figure(row, PPL) == Figure(5.0) and len(bench.ran) == 1
    results = bench.results(fresh=True)
    assert results.figure(row, PPL) == results.figure(row, PPL) == Figure(7.0) and len(bench.ran) == 2
    (Path(row.model) / "checkpoints").mkdir()
    (Path(row.model) / "checkpoints" / "weights").write_text("new")
    assert bench.results().figure(row, PPL) == Figure(7.0) and len(bench.ran) == 3
    (kept,) = (bench.root / "results").glob("*.json")
    assert json.loads(kept.read_text())["measured_from"]["command"] == ["make", "--model", row.model]
    kept.write_text("damaged")
    assert bench.results().figure(row, PPL) == Figure(7.0) and len(bench.ran) == 4


def test_a_figure_is_measured_again_when_data_change_that_its_command_names(bench: Bench, tmp_path: Path) -> None:
    row, data = bench.model("m", 5.0), tmp_path / "neighbours"
    measures = [
        dataclasses.replace(PPL, options=("--neighbours", str(data))),
        dataclasses.replace(PPL, line=("make", f"--source={data}")),
        dataclasses.replace(PPL, data=(str(data),)),
    ]
    with pytest.raises(ValueError, match="there is no .*neighbours, which the measure 'ppl' names as its data"):
        bench.results()._figure(row, measures[2])
    for text in ("one", "other one"):
        data.mkdir(exist_ok=True)
        (data / "rows").write_text(text)
        for measure in measures:
            bench.ran.clear()
            assert bench.results().figure(row, measure) == bench.results().figure(row, measure) == Figure(5.0)
            assert len(bench.ran) == 1, (text, measure)


def test_columns_of_one_command_share_its_run_and_each_reads_its_own(bench: Bench) -> None:
    row, results = bench.model("m", 5.0), bench.results(fresh=True)
    assert (results.figure(row, PPL).value, results.figure(row, ACC).value) == (5.0, 25.0) and len(bench.ran) == 1


@pytest.mark.parametrize(
    "error",
    [
        ValueError("this is wrong\nand more"),
        OSError("no space"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED"),
        SystemExit(2),
    ],
    ids=lambda e: type(e).__name__,
)
def test_a_failure_is_one_line_is_not_kept_and_is_tried_again(
    bench: Bench, error: BaseException, capsys: pytest.CaptureFixture
) -> None:
    row = bench.model("m", error)
    figure = bench.results().figure(row, PPL)
    assert figure.value is None and figure.fault and "\n" not in figure.fault
    assert capsys.readouterr().err.splitlines() == [f"m, ppl: {figure.fault}"]
    bench.values[row.model] = 5.0
    assert bench.results().figure(row, PPL) == Figure(5.0)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(143), RuntimeError("ours")], ids=repr)
def test_a_stop_or_a_mistake_of_ours_is_no_failed_figure(bench: Bench, stop: BaseException) -> None:
    with pytest.raises(type(stop)):
        bench.results().figure(bench.model("m", stop), PPL)


@pytest.mark.parametrize("value", [None, float("nan"), "5", True], ids=repr)
def test_what_is_no_number_is_no_figure(bench: Bench, value: object) -> None:
    found = bench.results().figure(bench.model("m", value), PPL)
    assert found.value is None and "there is no figure 'ppl'" in found.fault


def test_a_figure_of_a_file_that_is_there_is_read_and_never_kept(bench: Bench, tmp_path: Path) -> None:
    row = bench.model("m", 1.0)
    recorded = Recorded("loss", "{model}/summary.json", ("steps", "1", "loss"), lower=True)
    assert "No such file" in bench.results().figure(row, recorded).fault
    for loss in (2.5, 1.5):
        (Path(row.model) / "summary.json").write_text(json.dumps({"steps": [{}, {"loss": loss}]}))
        assert bench.results().figure(row, recorded) == Figure(loss)
    assert not bench.ran
    for damaged in ("{}", "{", '{"steps": {"1": 2}}'):
        (Path(row.model) / "summary.json").write_text(damaged)
        assert "summary.json holds no figure 'loss'" in bench.results().figure(row, recorded).fault


# --- The command ---


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a random model, one whose weights are no numbers, a store, and a store of another tokenizer."""
    root = tmp_path_factory.mktemp("tables")
    training.make_run(root)
    model_config = config.read_config(root / "config.py").model
    rng = np.random.default_rng(0)

    def save(name: str, scale: float) -> None:
        params = jax.tree.map(
            lambda s: scale * rng.normal(size=s.shape).astype(np.float32), checkpoint.shapes(model_config)
        )
        checkpoint.save_model(root / name, model_config, params, tokenizer=root / "tokenizer")

    save("parent", 0.1)
    for seed in (1, 2):
        save(f"fused-{seed}", 0.2)
    save("lost", float("nan"))
    other = tokens.jam(text=41, codes=8, codes_per_image=4, sentinels=11, pad_to=32)
    write_ids(root / "other", iter([(np.array([5, 6, other.end_of_document], np.int32), 0)]), other)
    return root


TABLE = """
\"\"\"A table.\"\"\"
from jam_jax.evaluate.tables import *

def get_config():
    return Table(
        title={title!r},
        rows=(
            Row("Parent", "parent", parent=True),
            Row({title!r}, "fused-{{seed}}"),
            Row("Lost", "lost"),
        ),
        measures=(
            Perplexity("All", "store"),
            Perplexity("Pictures", "store", "image"),
            Perplexity("Other", "other"),
            ZeroShot("PIQA", "tasks", "piqa", paper="PIQA"),
        ),
        paper="1",
        claims=(Claim("The parent is better", "Parent", {title!r}, "All"),),
    )
"""


def test_the_command_measures_what_it_can_and_says_what_not(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    description, out = tmp_path / "table.py", tmp_path / "out"
    description.write_text(TABLE.format(title=NASTY))
    args = ["tables", "--config", str(description), "--root", str(world), "--out", str(out), "--seeds", "1", "2"]
    with pytest.raises(ValueError, match="10 of 16 figures are missing, the first is Parent, Other: store .*other was"):
        main([*args, "--markdown", str(tmp_path / "t.md")])
    found = json.loads((out / "tables.json").read_text())["tables"][0]
    rows = {row["label"]: row for row in found["rows"]}
    alone = tmp_path / "alone.json"
    main(["perplexity", "--model", str(world / "fused-2"), "--store", str(world / "store"), "--out", str(alone)])
    figures = rows[NASTY]["figures"]
    assert figures["All"]["values"]["2"] == json.loads(alone.read_text())["all"]
    assert figures["All"]["mean"] == pytest.approx(sum(figures["All"]["values"].values()) / 2)
    parent = rows["Parent"]["figures"]["All"]["mean"]
    less = rows[NASTY]["differences"]["Parent"]["All"]["values"]
    assert less == {g: pytest.approx(v - parent) for g, v in figures["All"]["values"].items()}
    assert "no finite number" in rows["Lost"]["figures"]["All"]["faults"][""]
    assert (
        "there is no " in figures["PIQA"]["faults"]["1"] or "requirements-zero-shot" in figures["PIQA"]["faults"]["1"]
    )
    # Shown in every form, with nothing of the user's text as markup.
    page = (out / "tables.html").read_text()
    assert "<script" not in page and "&lt;script&gt;alert(" in page and page.count("<svg") == 2
    assert not re.findall(r"(?:src|href)=", page)
    lines = list(csv.DictReader((out / "tables.csv").open(newline="")))
    figures_of = {(r["row"], r["group"], r["measure"]): r["value"] for r in lines if r["kind"] == "figure"}
    assert float(figures_of[NASTY, "2", "All"]) == figures["All"]["values"]["2"] and figures_of["Lost", "", "All"] == ""
    assert {r["from"] for r in lines if r["kind"] == "difference"} == {"Parent"}
    written = (tmp_path / "t.md").read_text()
    assert NASTY not in written and "\\<script\\>" in written and "– \\[1\\]" in written
    said = capsys.readouterr()
    assert "$ python -m jam_jax.evaluate perplexity" in said.out and "Lower is better" in said.out
    assert len([line for line in said.err.splitlines() if line.startswith("Lost, ")]) == 4
    # Again: what was measured is kept, and what failed is tried again.
    with pytest.raises(ValueError, match="10 of 16"):
        main(args)
    ran = [line for line in capsys.readouterr().out.splitlines() if line.startswith("$ ")]
    assert ran and all("/other" in line or "/lost" in line or "zero-shot" in line for line in ran)
    assert json.loads((out / "tables.json").read_text())["tables"][0] == found


def test_markdown_goes_between_the_markers_and_leaves_the_rest(tmp_path: Path) -> None:
    path, table = tmp_path / "doc.md", filled({"a|b": {"ppl": [1.0, 2.0]}})
    path.write_text(f"# Mine\n\n{markdown_files.BEGIN}\nold\n{markdown_files.END}\n\nafter\n")
    for _ in range(2):  # again, and it is the same
        markdown_files.write(path, [table])
        text = path.read_text()
        assert text.startswith(f"# Mine\n\n{markdown_files.BEGIN}\n") and text.endswith(
            f"{markdown_files.END}\n\nafter\n"
        )
        assert "old" not in text and "| a\\|b | 1.50 ± 0.71 |" in text and text.count(markdown_files.BEGIN) == 1
    path.write_text("# without\n")
    with pytest.raises(ValueError, match="doc.md has no lines <!-- tables: begin -->"):
        markdown_files.write(path, [table])
    assert path.read_text() == "# without\n"


def test_mistakes_are_told_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "without.md").write_text("nothing")

    def never(_: list[str]) -> None:
        raise AssertionError("nothing should be measured")

    good = str(TABLES[1])
    for change, message in (
        ({"config": ("nowhere.py",)}, "there is no config file nowhere.py"),
        ({"markdown": str(tmp_path / "without.md")}, "has no lines"),
        ({"out": str(tmp_path / "without.md")}, "is a file"),
    ):
        values = {"config": (good,), "out": str(tmp_path / "out"), "seeds": (1,)} | change
        with pytest.raises(ValueError, match=message):
            command.measure(command.Tables(**values), never)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="--seeds names one twice: 1 1"):
        command.Tables((good,), "out", seeds=(1, 1))
    assert not (tmp_path / "out").exists()
