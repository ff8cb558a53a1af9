"""The world's multiple choice: one answer is true of a held-out scene, and the likeliest is counted as right."""

import json
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from jam_jax import api
from jam_jax.data import world_text
from jam_jax.data.scenes import COLOURS, SHAPES, sample
from jam_jax.evaluate import choices, world_choices
from jam_jax.evaluate.__main__ import main
from jam_jax.evaluate.task_files import Choice
from tests import models

THING = re.compile(rf"(large|big|small|little) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})")
LARGE = ("large", "big")


def things(text: str) -> list[tuple[str, str, str]]:
    return THING.findall(text)


def meant(name: str, of: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """The things that a name such as `the red circle` could be of."""
    words = set(name.removeprefix("the ").split())
    return [t for t in of if words <= {"large" if t[0] in LARGE else "small", *t[1:]}]


@pytest.fixture(scope="module")
def items() -> list[tuple[str, Choice]]:
    return world_choices.items("test", 200)


def test_the_right_answer_is_the_only_true_one(items: list[tuple[str, Choice]]) -> None:
    for kind, item in items:
        shown, true = things(item.text), item.answers[item.right]
        assert len(set(item.answers)) == len(item.answers)
        if re.search("the [a-z]+ (at|on) the", f"{item.text} {true}".lower()):  # told apart by its place alone
            continue
        if kind == "number":
            assert true == {2: "Two.", 3: "Three."}[len(shown)]
        elif kind == "colour":
            (asked,) = meant(item.text.partition("What colour is ")[2].rstrip("?"), shown)
            assert true.lower() == f"{asked[1]}." and sorted(a.lower()[:-1] for a in item.answers) == sorted(COLOURS)
        elif kind == "bigger":
            first, second = re.split(r" is (?:bigger|larger) than ", true.lower().rstrip("."))
            ((a,), (b,)) = meant(first, shown), meant(second, shown)
            assert a[0] in LARGE and b[0] not in LARGE
        elif kind == "remove":
            (gone,) = meant(item.text.partition("Take away ")[2].split(",")[0], shown)
            assert Counter(things(true)) == Counter(shown) - Counter([gone])


def test_places_are_what_a_paragraph_of_the_world_would_say() -> None:
    rng, asked = random.Random(0), 0
    for _ in range(60):
        scene = sample("test", rng.choice((2, 3)), rng)
        nouns = [world_text.noun(thing, rng) for thing in scene.things]
        found = world_choices.KINDS["place"](scene, nouns, rng)
        if found is not None:
            asked += 1
            said = {world_text._place(scene, nouns, random.Random(i))[1].capitalize() for i in range(40)}
            assert found[1].capitalize() in said and found[2][0].capitalize() not in said
    assert asked > 20


def test_items_are_of_the_split_alone_the_same_each_time_and_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = []
    monkeypatch.setattr(world_choices, "sample", lambda *args: (splits.append(args[0]), sample(*args))[1])
    found = world_choices.items("validation", 25, seed=3)
    assert set(splits) == {"validation"}
    assert Counter(kind for kind, _ in found) == dict.fromkeys(world_choices.KINDS, 5)
    assert found == world_choices.items("validation", 25, seed=3) != world_choices.items("validation", 25, seed=4)
    assert found[:5] == world_choices.items("validation", 5, seed=3)


def test_figures_by_hand() -> None:
    items = [Choice("a", ("b", "cccc"), 1), Choice("a", ("b", "cc"), 0), Choice("a", ("b", "c", "d", "e"), 2)]
    found = choices.figures(("x", "x", "y"), items, [[-1, -2], [-1, -3], [-4, -3, -2, -1]])
    assert found["acc"] == pytest.approx(1 / 3)  # only the second
    assert found["acc_norm"] == pytest.approx(2 / 3)  # the first too: -2/4 is more than -1
    assert found["acc_norm_stderr"] == pytest.approx((2 / 9 / 2) ** 0.5)
    assert found["chance"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 4) / 3)
    assert found["by_kind"] == {"x": 1, "y": 0} and found["items"] == 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.make_model(tmp_path_factory.mktemp("choices"))


SHORT = [("red", Choice("a red", ("circle", "a blue square"), 0)), ("in", Choice("a circle is", ("red", "blue"), 1))]


def test_the_command_scores_answers_as_the_models_logits_do(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(world_choices, "items", lambda *_: SHORT)
    main(["choices", "--model", str(model), "--out", str(tmp_path / "deep" / "out.json")])
    found = json.loads((tmp_path / "deep" / "out.json").read_text())
    loaded, likely = api.load(model), []
    for _, item in SHORT:
        likely.append([])
        for answer in item.answers:
            ids = [loaded.space.start, *loaded.tokenizer.encode_text(f"{item.text} {answer}")]
            asked = len(ids) - 1 - len(loaded.tokenizer.encode_text(item.text))
            logits = np.asarray(loaded.logits(np.array([ids[:-1]]))[0], np.float64)
            each = np.take_along_axis(logits, np.array(ids)[1:, None], 1)[:, 0] - np.log(np.exp(logits).sum(-1))
            likely[-1].append(each[-asked:].sum())
    wanted = choices.figures(*zip(*SHORT, strict=True), likely)
    assert {k: found[k] for k in wanted} == wanted
    assert "of 2 choices are right by length-normalised likelihood (50.0% at random)" in capsys.readouterr().out


def test_a_model_with_too_few_positions_is_one_line_and_writes_nothing(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a choice of \d+ tokens does not fit the model's 64 positions"):
        main(["choices", "--model", str(model), "--out", str(tmp_path / "out.json")])
    assert not (tmp_path / "out.json").exists()
