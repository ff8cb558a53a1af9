"""The desk behind the page: what it answers, what it packs, and what it refuses in one line."""

import dataclasses
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import jam_jax
from jam_jax import demo, demo_desk
from jam_jax.data.documents import Document
from jam_jax.data.retrieved import standing
from jam_jax.retrieval.prompts import Retrieved
from tests.models import make_model

ASKED = demo_desk.Asked("a red circle", "Draw a caption", 0, 0.7, 0.9, 0.9, 2.0, 1)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> demo_desk.Desk:
    root = tmp_path_factory.mktemp("demo")
    directory = make_model(root)
    (root / "downloads").mkdir()
    options = demo_desk.Options(str(directory), queue=8, most_tokens=40)
    return demo_desk.Desk(jam_jax.load(directory), options, root / "downloads")


def test_an_answer_streams_and_is_packed(desk: demo_desk.Desk) -> None:
    turns = list(desk.answer(ASKED))
    assert len(turns) > 3
    assert [path for *_, path in turns[:-1]] == [None] * (len(turns) - 1)
    body, _, note, path = turns[-1]
    assert body.count("<img") == 1 and note.startswith("17 tokens, 1 picture, seed 0")
    with zipfile.ZipFile(str(path)) as packed:
        assert sorted(packed.namelist()) == ["answer-1-picture-1.png", "answers.json", "answers.md", "index.html"]
        record = json.loads(packed.read("answers.json"))
    key = record["answers"][0]["key"]
    (again,) = desk.model.generate(["a red circle"], "picture", desk.settings(ASKED), keys=[key])
    assert list(again.ids) == record["answers"][0]["ids"]


def test_what_was_retrieved_is_shown_and_packed(desk: demo_desk.Desk, tmp_path: Path) -> None:
    record = tuple(desk.model.tokenizer.encode_document(Document(("a blue",))))
    ids = tuple(standing(desk.model.space, np.array(record)).tolist())
    helped = demo_desk.Desk(desk.model, desk.options, tmp_path, lambda asked: [(Retrieved(7, 0.5, record, ids),)])
    turns = list(helped.answer(ASKED))
    assert {stood for _, stood, *_ in turns} == {turns[0][1]} and "document 7<br>a blue" in turns[0][1]
    with zipfile.ZipFile(str(turns[-1][3])) as packed:
        (answer,) = json.loads(packed.read("answers.json"))["answers"]
    assert [source["document"] for source in answer["retrieved"]] == [7]
    *_, (_, stood, _, path) = desk.answer(ASKED)
    with zipfile.ZipFile(str(path)) as packed:
        assert json.loads(packed.read("answers.json"))["answers"][0]["ids"] != answer["ids"] and not stood


def test_old_downloads_go(desk: demo_desk.Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_desk, "KEPT", 2)
    for _ in range(4):
        *_, (*_, path) = desk.answer(dataclasses.replace(ASKED, mode="Go on with a text"))
    assert len(list(desk.downloads.glob("*.zip"))) <= 3 and Path(str(path)).exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": "  "}, "There is no question"),
        ({"question": "a" * 3000}, "has 3000 characters, 2000 are allowed"),
        ({"question": "a" * 100}, "the model has 64 positions"),
        ({"pictures": 9}, "may have 0 to 3 pictures, not 9"),
        ({"pictures": 1.5}, "may have 0 to 3 pictures, not 1.5"),
        ({"pictures": 0}, "'Draw a caption' draws one picture, but 0 pictures are allowed: allow 1 or more"),
        ({"mode": "Sing"}, "Choose one of: Answer a question"),
        ({"seed": -1}, "a seed is a whole number"),
        ({"seed": None}, "Seed must be a number, got None: fill it in"),
        ({"guidance": "much"}, "Guidance of pictures must be a number, got 'much'"),
        ({"temperature": float("nan")}, "Temperature of text must be a number, got nan"),
        ({"temperature": -1}, "temperature must be 0"),
        ({"text_top_p": 0}, "top_p must be above 0"),
        ({"guidance": -1}, "guidance must be 0 or more"),
    ],
)
def test_what_cannot_be_answered_is_one_line(desk: demo_desk.Desk, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        next(desk.answer(dataclasses.replace(ASKED, **changes)))
    assert "\n" not in str(error.value)


def test_a_model_that_draws_may_be_asked_for_text_alone(desk: demo_desk.Desk) -> None:
    asked = dataclasses.replace(ASKED, mode="Answer a question", pictures=0)
    assert desk.settings(asked).max_images == 0
    *_, (body, _, note, _) = desk.answer(asked)
    assert "<img" not in body and " 0 pictures," in note


def test_a_model_that_does_not_draw_is_asked_for_no_pictures(desk: demo_desk.Desk) -> None:
    writer: Any = SimpleNamespace(space=SimpleNamespace(draws=False), config=desk.model.config)
    other = demo_desk.Desk(writer, desk.options, desk.downloads)
    assert "Draw a caption" in desk.modes and "Draw a caption" not in other.modes
    asked = dataclasses.replace(ASKED, mode="Answer a question")
    with pytest.raises(ValueError, match="may have 0 to 0 pictures, not 1"):
        other.settings(asked)
    assert other.settings(dataclasses.replace(asked, pictures=0)).max_images == 0


def test_an_answer_too_short_for_its_picture_is_refused(desk: demo_desk.Desk) -> None:
    short = demo_desk.Desk(desk.model, dataclasses.replace(desk.options, most_tokens=5), desk.downloads)
    for mode in ("Draw a caption", "Answer a question"):
        with pytest.raises(ValueError, match="picture") as error:
            next(short.answer(dataclasses.replace(ASKED, mode=mode)))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("given", [{"retrieve": 2}, {"bank": "bank"}])
def test_retrieval_needs_both_a_number_and_a_bank(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="retrieval needs both"):
        demo_desk.Options("model", **given)


@pytest.mark.parametrize("changes", [{"port": 70000}, {"queue": 0}, {"most_pictures": -1}, {"retrieve": -1}])
def test_mistaken_options_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        demo_desk.Options("model", **changes)  # type: ignore[arg-type]


def test_without_gradio_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    with pytest.raises(ValueError, match="pip install -r requirements-demo.txt"):
        demo.main(["--model", "nowhere"])
