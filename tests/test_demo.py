"""The page: what its desk refuses in one line, what a browser sees, and a hundred visitors at once."""

import dataclasses
import importlib.util
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jam_jax
from jam_jax import demo
from jam_jax.data.documents import Document
from jam_jax.data.retrieved import standing
from jam_jax.retrieval.prompts import Retrieved
from tests import browser
from tests.models import make_model

ASKED = demo.Asked("a red circle", "Draw a caption", 0, 0.7, 0.9, 0.9, 2.0, 1)
HAS_GRADIO = importlib.util.find_spec("gradio") is not None
HAS_BROWSER = bool(browser.CHROMIUM) and importlib.util.find_spec("websockets") is not None
pytestmark = pytest.mark.usefixtures("whole_matrices")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> demo.Desk:
    root = tmp_path_factory.mktemp("demo")
    directory = make_model(root)
    (root / "downloads").mkdir()
    options = demo.Options(str(directory), queue=8, most_tokens=40)
    return demo.Desk(jam_jax.load(directory), options, root / "downloads")


def test_an_answer_streams_and_is_packed(desk: demo.Desk) -> None:
    turns = list(desk.answer(ASKED))
    assert len(turns) > 3
    assert [path for *_, path in turns[:-1]] == [None] * (len(turns) - 1)
    body, _, note, path = turns[-1]
    assert body.count("<img") == 1 and note.startswith("17 tokens, 1 pictures, seed 0")
    with zipfile.ZipFile(str(path)) as packed:
        assert sorted(packed.namelist()) == ["answer-1-picture-1.png", "answers.json", "answers.md", "index.html"]
        record = json.loads(packed.read("answers.json"))
    key = record["answers"][0]["key"]
    (again,) = desk.model.generate(["a red circle"], "picture", desk.settings(ASKED), keys=[key])
    assert list(again.ids) == record["answers"][0]["ids"]


def test_what_was_retrieved_is_shown_and_packed(desk: demo.Desk, tmp_path: Path) -> None:
    record = tuple(desk.model.tokenizer.encode_document(Document(("a blue",))))
    ids = tuple(standing(desk.model.space, np.array(record)).tolist())
    helped = demo.Desk(desk.model, desk.options, tmp_path, lambda asked: [(Retrieved(7, 0.5, record, ids),)])
    turns = list(helped.answer(ASKED))
    assert {stood for _, stood, *_ in turns} == {turns[0][1]} and "document 7<br>a blue" in turns[0][1]
    with zipfile.ZipFile(str(turns[-1][3])) as packed:
        (answer,) = json.loads(packed.read("answers.json"))["answers"]
    assert [source["document"] for source in answer["retrieved"]] == [7]
    *_, (_, stood, _, path) = desk.answer(ASKED)
    with zipfile.ZipFile(str(path)) as packed:
        assert json.loads(packed.read("answers.json"))["answers"][0]["ids"] != answer["ids"] and not stood


def test_old_downloads_go(desk: demo.Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "KEPT", 2)
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
        ({"mode": "Sing"}, "Choose one of: Answer a question"),
        ({"seed": -1}, "a seed is a whole number"),
        ({"temperature": -1}, "temperature must be 0"),
    ],
)
def test_what_cannot_be_answered_is_one_line(desk: demo.Desk, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        next(desk.answer(dataclasses.replace(ASKED, **changes)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("changes", [{"port": 70000}, {"queue": 0}, {"most_pictures": -1}, {"retrieve": -1}])
def test_mistaken_options_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        demo.Options("model", **changes)  # type: ignore[arg-type]


def test_without_gradio_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    with pytest.raises(ValueError, match="pip install -r requirements-demo.txt"):
        demo.main(["--model", "nowhere"])


@pytest.fixture(scope="module")
def address(desk: demo.Desk) -> Iterator[str]:
    page = demo.build(desk)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, allowed_paths=[str(desk.downloads)])
    assert url.startswith("http://127.0.0.1:")
    yield url
    page.close()


@pytest.mark.skipif(not (HAS_GRADIO and HAS_BROWSER), reason="needs Gradio, Chromium and the package websockets")
def test_a_browser_asks_and_sees_the_answer(address: str, tmp_path: Path) -> None:
    with browser.tab(tmp_path / "profile") as tab:
        tab.send("Page.navigate", url=address)
        tab.wait("document.querySelector('textarea') && document.querySelector('#note') !== null")
        ask(tab, "a red circle")
        tab.wait("/\\d+ tokens, .* seed 0/.test(document.querySelector('#note').innerText)")
        assert tab.run("document.querySelectorAll('#answer .document').length") == 1
        assert tab.wait("[...document.querySelectorAll('button, a')].some(b => b.innerText.trim() == 'Download')")
        tab.screenshot(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 10_000
        ask(tab, "a" * 100)
        tab.wait("document.body.innerText.includes('the model has 64 positions')")
        ask(tab, "a blue square")  # the page goes on
        tab.wait("/\\d+ tokens, .* seed 0/.test(document.querySelector('#note').innerText)")


def ask(tab: browser.Tab, question: str) -> None:
    """Write a question and press the button."""
    tab.run("document.querySelector('#note').innerText = ''")
    tab.run("document.querySelector('textarea').focus(); document.querySelector('textarea').select()")
    tab.send("Input.insertText", text=question)
    tab.run("[...document.querySelectorAll('button')].find(b => b.innerText.trim() == 'Ask').click()")


@pytest.mark.skipif(not HAS_GRADIO, reason="needs Gradio")
def test_a_hundred_at_once_are_answered_or_told_and_the_page_goes_on(address: str) -> None:
    from gradio_client import Client

    client = Client(address, verbose=False)
    asked = dataclasses.astuple(dataclasses.replace(ASKED, mode="Go on with a text"))
    jobs = [client.submit(*asked, api_name="/respond") for _ in range(100)]
    answered, told = 0, []
    for job in jobs:
        try:
            answered += "tokens" in job.result(timeout=300)[2]
        except Exception as error:  # whatever the client makes of the page's message
            told.append(str(error))
    assert answered >= 8 and answered + len(told) == 100
    assert all("queue" in message.lower() for message in told), set(told)
    assert "tokens" in client.predict(*asked, api_name="/respond")[2]
