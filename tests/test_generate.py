"""The command and the Python interface, on a tiny model directory made here."""

import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import jam_jax
from jam_jax import api, checkpoint, config, generate, html
from jam_jax.api import Answer, Model
from jam_jax.config import DecoderConfig
from jam_jax.data.retrieved import before
from jam_jax.data.store import Store
from jam_jax.data.tokenizers import open_tokenizer
from jam_jax.decode import engine, infill, prompts, weights
from jam_jax.decode.settings import Settings
from jam_jax.models import model
from jam_jax.retrieval import __main__ as retrieval
from jam_jax.retrieval.bank import Bank
from jam_jax.retrieval.encode import Encoder
from jam_jax.retrieval.prompts import finder
from jam_jax.trees import paths
from tests import banks
from tests.banks import random_params
from tests.models import make_model

HOSTILE = "<script>alert('&')</script>"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("generate"))


@pytest.fixture(scope="module")
def loaded(directory: Path) -> Model:
    return jam_jax.load(directory)


def test_prompts_have_the_papers_form(loaded: Model) -> None:
    space, text = loaded.space, loaded.tokenizer.encode_text("a red circle")
    assert loaded.encode_prompt("a red circle", "answer") == [2, *text, space.sentinel(0), 2]
    assert loaded.encode_prompt("a red circle", "picture") == [2, *text, space.start_of_image]
    assert loaded.encode_prompt("a red circle", "text") == [2, *text]
    with pytest.raises(ValueError, match="choose one of answer, picture, text, caption, fill"):
        loaded.encode_prompt("a", "song")  # type: ignore[arg-type]


def test_answers_are_well_formed_documents(loaded: Model) -> None:
    (drawn,) = loaded.generate(["a red circle"], "picture", seed=1)
    assert [part.size for part in drawn.pictures] == [(8, 8)]
    assert drawn.parts == drawn.pictures  # the picture only
    assert len(drawn.ids) == 17 and drawn.ids[-1] == 2  # sixteen codes and the end
    (text,) = loaded.generate(["a red"], "text", seed=1)
    assert not text.pictures
    assert text.parts[0].startswith("a red")
    answers = loaded.generate(["a red circle", "a"], "answer", Settings(max_images=1), seed=1)
    assert [answer.fault for answer in answers if answer.ids != (2,)] in ([""], ["", ""])
    assert loaded.generate(["a red circle"], "answer", Settings(max_images=1), seed=1)[0].ids == answers[0].ids


@pytest.mark.parametrize("mode", ["answer", "picture", "text"])
def test_an_answers_key_makes_it_again(loaded: Model, mode: prompts.Mode) -> None:
    settings = Settings(max_images=1, max_new_tokens=40)
    answers = loaded.generate(["a red circle", "a blue"], mode, settings, seed=3, samples=2)
    assert [answer.prompt for answer in answers] == ["a red circle"] * 2 + ["a blue"] * 2
    assert answers[0].ids != answers[1].ids
    (again,) = loaded.generate(["a blue"], mode, settings, keys=[answers[3].key])
    assert again == answers[3]


def test_a_stream_ends_with_what_generate_gives(loaded: Model) -> None:
    asked = ["a red circle", "a blue"]
    settings = Settings(max_images=1, min_images=1, max_text=4, max_new_tokens=40)
    whole = loaded.generate(asked, "answer", settings, seed=2)
    last: dict[int, Answer] = {}
    growing = 0
    for found in loaded.stream(asked, "answer", settings, seed=2):
        for row, answer in found.items():
            growing += row in last and len(answer.ids) > len(last[row].ids) and len(answer.pictures) == 1
        last |= found
    assert [last[row] for row in range(2)] == whole
    assert growing > 2  # a picture was there before it was whole


def test_a_picture_is_described(loaded: Model) -> None:
    space, picture = loaded.space, Image.new("RGB", (8, 8), "red")
    ids = loaded.encode_prompt(picture, "caption")
    assert ids[:3] == [2, space.sentinel(0), space.start_of_image] and ids[-2:] == [
        space.picture_closers[0],
        space.sentinel(0),
    ]
    assert len(ids) == 3 + 16 + 2
    (answer,) = loaded.generate([picture], "caption", Settings(max_text=6, min_text=2), seed=1)
    assert answer.prompt == "[picture]" and 2 <= len(answer.ids) - 1 <= 6
    assert answer.parts == (loaded.tokenizer.decode_text(answer.ids[:-1]),)


def test_gaps_in_text_and_regions_of_pictures_are_filled(loaded: Model) -> None:
    (written,) = loaded.generate(["a red ___ beside ___"], "fill", Settings(min_text=3, max_text=9), seed=1)
    (text,) = written.parts
    assert isinstance(text, str) and text.startswith("a red") and " beside" in text
    assert not written.fault
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8))
    codes = loaded.tokenizer.encode_pictures(np.asarray(picture)[None])[0].reshape(4, 4)
    asked = ("a circle", prompts.Picture(picture, region=(0.5, 0, 1, 0.5)))
    (drawn,) = loaded.generate([asked], "fill", seed=1)
    assert [type(part) for part in drawn.parts] == [str, Image.Image] and drawn.prompt == "a circle [picture]"
    held = prompts.ask(loaded.tokenizer, asked, "fill")
    assert held.spans == (2, 2)
    whole = loaded.space.code_of_id[infill.put(loaded.space, held.document, held.gaps, drawn.ids)]
    after = whole[whole >= 0].reshape(4, 4)
    kept = np.ones((4, 4), bool)
    kept[:2, 2:] = False
    np.testing.assert_array_equal(after[kept], codes[kept])


def test_scores_are_the_models(loaded: Model) -> None:
    ids = [2, *loaded.tokenizer.encode_text("a red circle"), 2]
    logits = np.asarray(loaded.logits(np.array([ids])), np.float64)[0]
    expected = np.log(np.exp(logits).sum(-1))[:-1] - logits[np.arange(len(ids) - 1), ids[1:]]
    np.testing.assert_allclose(loaded.nll(ids), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("asked", "mode", "message"),
    [
        ("a", "caption", "takes a picture as its prompt, got str"),
        (Image.new("RGB", (4, 4)), "answer", "takes a text as its prompt"),
        ("no gap", "fill", "mark a gap in the text with ___"),
        (prompts.Picture(b"GIF"), "caption", "are no picture that can be read"),
        (prompts.Picture(Image.new("RGB", (4, 4)), (0.5, 0, 0.5, 1)), "fill", "from 0 to 1"),
    ],
)
def test_prompts_of_another_kind_are_refused(loaded: Model, asked: prompts.Prompt, mode: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loaded.generate([asked], mode)


def test_weights_of_eight_bits_answer_too(directory: Path) -> None:
    small = jam_jax.load(directory, "int8")
    assert np.dtype("int8") in {leaf.dtype for leaf in jax.tree.leaves(small.decoding(1)[1]["layers"][0]["ffn"])}
    (answer,) = small.generate(["a red circle"], "picture", seed=1)
    assert len(answer.pictures) == 1


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("precision", ["model", "int8"])
def test_a_model_to_decode_alone_answers_the_same_from_weights_kept_once(
    directory: Path, precision: weights.Precision, rows: int
) -> None:
    config = checkpoint.read_model_config(directory)
    stored = {leaf.shape for path, leaf in paths(checkpoint.shapes(config)).items() if path.startswith("layers/")}
    before = {id(array) for array in jax.live_arrays()}
    alone = jam_jax.load(directory, precision, rows=rows)
    kept = [array for array in jax.live_arrays() if id(array) not in before]
    assert not stored & {array.shape for array in kept}, "a stack as it is stored"
    ready = jax.tree.leaves(alone.decoding(rows))
    assert sum(array.nbytes for array in kept) == sum(leaf.nbytes for leaf in ready if isinstance(leaf, jax.Array))
    whole = jam_jax.load(directory, precision)
    asked: list[prompts.Prompt] = ["a red circle", "a blue"]
    for mode in ("answer", "picture", "text"):
        settings = Settings(max_images=1, max_new_tokens=40)
        found, expected = (m.generate(asked, mode, settings, seed=3) for m in (alone, whole))
        assert [a.ids for a in found] == [a.ids for a in expected]
    for refused in (lambda: alone.params, lambda: alone.logits(np.ones((1, 2), int))):
        with pytest.raises(ValueError, match="was opened to decode alone: load it without rows"):
            refused()
    assert alone.decoding(64) is alone.decoding(1)


def test_the_command_keeps_the_weights_once(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int | None] = []

    def load(directory: str, precision: weights.Precision = "model", *, rows: int | None = None) -> Model:
        opened.append(rows)
        return api.load(directory, precision, rows=rows)

    monkeypatch.setattr(jam_jax, "load", load, raising=False)
    args = ["--model", str(directory), "--prompt", "a red", "a", "b", "--mode", "text", "--max-new-tokens", "2"]
    generate.main([*args, "--samples", "2", "--rows", "4", "--out", str(tmp_path / "out")])
    assert opened == [4]


def test_logits_are_those_of_the_model(loaded: Model) -> None:
    ids = np.array([[2, 5, 9]])
    expected = model.forward(loaded.config, loaded.params, ids)[0]
    np.testing.assert_allclose(loaded.logits(ids), expected, atol=1e-5)
    assert loaded.logits(ids).dtype == np.float32
    for wrong in (np.zeros(3, int), np.zeros((1, 3)), np.full((1, 1), 10**6), np.zeros((1, 65), int)):
        with pytest.raises(ValueError, match="tokens|ids"):
            loaded.logits(wrong)


def test_command_writes_page_pictures_and_json(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    args = ["--model", str(directory), "--prompt", HOSTILE, "--prompt", "a red circle", "--out", str(out)]
    generate.main([*args, "--mode", "picture", "--seed", "4", "--image.top-p", "0.8"])
    shown = capsys.readouterr().out
    record = json.loads((out / "answers.json").read_text())
    assert record["seed"] == 4 and record["settings"]["image"]["top_p"] == 0.8
    assert [answer["prompt"] for answer in record["answers"]] == [HOSTILE, "a red circle"]
    for answer in record["answers"]:
        assert len(answer["ids"]) == 17
        (part,) = answer["parts"]
        assert Image.open(out / part["picture"]).size == (256, 256)
        assert str(out / part["picture"]) in shown
    page = (out / "index.html").read_text()
    assert page.count("<img") == 2 and page.count('src="data:image/png;base64,') == 2
    assert "<script" not in page and "&lt;script&gt;" in page
    text = (out / "answers.md").read_text()
    assert "## \\<script\\>alert" in text and text.count("![picture](answer-") == 2
    with pytest.raises(ValueError, match="already exists"):
        generate.main(args)


def test_command_describes_and_fills(directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (20, 10), "blue").save(tmp_path / "blue.png")
    base = ["--model", str(directory), "--picture", str(tmp_path / "blue.png"), "--samples", "2"]
    generate.main([*base, "--mode", "caption", "--out", str(tmp_path / "a"), "--max-text", "5"])
    record = json.loads((tmp_path / "a/answers.json").read_text())
    assert len(record["answers"]) == 2 and record["answers"][0]["prompt"] == "[picture]"
    region = ["--region", "0", "0", "1", "0.5", "--prompt", "a blue circle"]
    generate.main([*base, "--mode", "fill", *region, "--out", str(tmp_path / "b")])
    record = json.loads((tmp_path / "b/answers.json").read_text())
    assert [list(part) for part in record["answers"][1]["parts"]] == [["text"], ["picture"]]


def test_chat_remembers_and_survives_a_mistake(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = iter(["a red circle", "a" * 100, "a blue", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(questions))
    args = ["--model", str(directory), "--chat", "--out", str(tmp_path / "o"), "--max-images", "0"]
    generate.main([*args, "--max-new-tokens", "12"])
    record = json.loads((tmp_path / "o/answers.json").read_text())
    first, second = (answer["prompt"] for answer in record["answers"])
    assert first == "a red circle"
    assert second.startswith("a red circle\n\n") and second.endswith("\n\na blue")
    assert capsys.readouterr().err.count("error: prompt 0 has") == 1


def test_a_talk_that_is_stopped_is_kept(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = iter(["a red", "a blue", "a red circle"])
    monkeypatch.setattr("builtins.input", lambda _: next(asked, None) or stop())
    written, inner = itertools.count(), Model.stream
    monkeypatch.setattr(Model, "stream", lambda *args, **how: stop() if next(written) == 1 else inner(*args, **how))
    args = ["--model", str(directory), "--chat", "--out", str(tmp_path / "o"), "--max-images", "0"]
    generate.main([*args, "--max-new-tokens", "8"])
    record = json.loads((tmp_path / "o/answers.json").read_text())
    first, second = (answer["prompt"] for answer in record["answers"])
    assert first == "a red" and second.endswith("a red circle") and "a blue" not in second
    assert capsys.readouterr().err.count("stopped") == 1


def test_a_stop_leaves_nothing_behind(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "run", lambda *_: stop())
    monkeypatch.setattr("sys.argv", ["generate", "--model", str(directory), "--prompt", "a", "--out", f"{tmp_path}/o"])
    with pytest.raises(SystemExit) as ended:
        config.run(generate.main)
    assert ended.value.code == 130 and capsys.readouterr().err.splitlines()[-1] == "stopped"
    assert not list(tmp_path.iterdir())


def stop() -> None:
    """Ctrl-C."""
    raise KeyboardInterrupt


def test_markdown_shows_a_text_as_it_is() -> None:
    assert generate.markdown("# a *b* [c](d) `e`\n1. f\n- g < h") == (
        "\\# a \\*b\\* \\[c\\](d) \\`e\\`\n1\\. f\n\\- g \\< h"
    )


def test_prompts_come_from_a_file_and_a_new_directory_is_found(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a red circle\n\na blue square\n")
    for _ in range(2):
        generate.main(
            ["--model", str(directory), "--prompts", "prompts.txt", "--mode", "text", "--max-new-tokens", "9"]
        )
    first, second = (json.loads((tmp_path / f"runs/generated-{n}/answers.json").read_text()) for n in (1, 2))
    assert first == second  # the same seed
    assert [answer["prompt"] for answer in first["answers"]] == ["a red circle", "a blue square"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "nothing to answer"),
        (["--prompts", "no-such-file"], "no file of prompts"),
        (["--prompt", "a" * 200], "the model has 64 positions"),
        (["--prompt", "a", "--max-new-tokens", "5"], "no room for a picture"),
        (["--prompt", "a", "--rows", "0"], "rows must be at least 1"),
        (["--prompt", "a", "--samples", "0"], "samples must be at least 1"),
        (["--prompt", "a", "--contrast", "retrieved"], "none are retrieved"),
        (["--prompt", "a", "--picture", "x.png"], "belongs to the modes caption and fill"),
        (["--mode", "caption", "--picture", "x.png"], "there is no picture x.png"),
        (["--mode", "caption", "--picture", "tests/tiny.py"], "tests/tiny.py: .* no picture"),
        (["--mode", "caption", "--picture", "x.png", "--prompt", "a"], "leave out --prompt"),
        (["--mode", "fill", "--prompt", "a ___", "--region", "0", "0", "1", "1"], "--region needs"),
        (["--chat", "--prompt", "a"], "--chat asks for its questions"),
        (["--chat", "--mode", "text"], "leave out --mode text"),
        (["--prompt", "a", "--min-text", "9", "--max-text", "3"], "max_text must be at least min_text"),
    ],
)
def test_users_mistakes_leave_nothing_behind(
    directory: Path, tmp_path: Path, args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((ValueError, SystemExit)) as error:
        generate.main(["--model", str(directory), "--out", str(tmp_path / "out"), *args])
    assert re.search(message, said(capsys) if error.type is SystemExit else str(error.value))
    assert not (tmp_path / "out").exists()


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What stands on stderr, in one line: of the command line's own checks too, which are in a frame."""
    return " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_loading_names_what_is_wrong(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        jam_jax.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="is an image tokenizer"):
        jam_jax.load(directory / "tokenizer" / "image")
    with pytest.raises(ValueError, match="list of texts"):
        jam_jax.load(directory).generate("a red circle")


def test_prompt_may_be_given_more_than_once() -> None:
    args = ["--prompt", "a b", "c", "--seed", "1", "--prompt=--d"]
    assert generate.gather(args) == (["--seed", "1"], ["a b", "c", "--d"])
    assert generate.gather(["--seed", "1"]) == (["--seed", "1"], [])


def test_a_prompt_may_begin_with_dashes(directory: Path, tmp_path: Path) -> None:
    args = ["--prompt=--d", "--model", str(directory), "--out", str(tmp_path / "o"), "--prompt", "é", "b"]
    generate.main([*args, "--mode=text", "--max-new-tokens", "2"])
    record = json.loads((tmp_path / "o/answers.json").read_text(encoding="utf-8"))
    assert [answer["prompt"] for answer in record["answers"]] == ["--d", "é", "b"]


def test_small_pictures_are_enlarged_by_whole_factors() -> None:
    for side, expected in ((8, 256), (100, 300), (256, 256), (300, 300)):
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8))
        shown = Image.open(io.BytesIO(generate.png(picture)))
        assert shown.size == (expected, expected)
        assert shown.getpixel((expected - 1, 0)) == picture.getpixel((side - 1, 0))


def test_documents_as_html_escape_text_and_inline_pictures() -> None:
    body = html.document_html(["a <b>", generate.png(Image.new("RGB", (4, 4))), "  ", b"\xff\xd8\xff jpeg"])
    assert "a &lt;b&gt;" in body and body.count("<p>") == 1
    assert "data:image/png;base64," in body and "data:image/jpeg;base64," in body
    assert "<title>1 &lt; 2</title>" in html.page("1 < 2", body) and body in html.page("x", body)
    with pytest.raises(ValueError, match="must be PNG or JPEG"):
        html.document_html([b"GIF89a"])


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that draws, a CLIP, and a bank of eighteen documents, in one directory."""
    root = tmp_path_factory.mktemp("bank")
    banks.tokenizer(root)
    banks.store(root)
    banks.clip_model(root / "clip")
    retrieval.main(["embed", "--clip", f"{root}/clip", "--store", f"{root}/store", "--target", f"{root}/embeddings"])
    retrieval.main(["build", "--embeddings", f"{root}/embeddings", "--target", f"{root}/bank"])
    space = open_tokenizer(root / "tokenizer").space
    config = DecoderConfig(
        vocab_size=space.vocab_size, layers=1, width=16, heads=2, head_size=8, ffn_width=16, max_positions=160
    )
    params = random_params(model.shapes(config), 0.5)
    checkpoint.save_model(root / "model", config, params, tokenizer=root / "tokenizer")
    return root


def test_documents_of_a_bank_go_before_the_prompt_and_are_shown(
    bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--model", f"{bank}/model", "--prompt", "a red square at 0", "   ", "--mode", "picture"]
    args += ["--retrieve", "2", "--bank", f"{bank}/bank"]
    generate.main([*args, "--out", str(tmp_path / "blank")])
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "blank/answers.json").read_text())
    assert record["bank"] == f"{bank}/bank" and record["retrieve"] == 2
    first, second = record["answers"]
    assert not second["retrieved"]  # a prompt without text
    found, scores = Bank(bank / "bank").retrieve(Encoder(bank / "clip").texts(["a red square at 0"]), 2)
    assert [hit["document"] for hit in first["retrieved"]] == found[0].tolist()
    page = (tmp_path / "blank/index.html").read_text()
    for hit, score in zip(first["retrieved"], scores[0].tolist(), strict=True):
        assert hit["score"] == pytest.approx(score, abs=1e-3)
        assert f"document {hit['document']}" in page and f"document {hit['document']}, score {score:.3f}" in printed
        for name in hit["pictures"]:
            assert Image.open(tmp_path / "blank" / name).size == (8, 8)
    # The same by hand: the documents' ids between the start and the caption, each picture closed by <break>.
    loaded = jam_jax.load(bank / "model")
    space, store = loaded.space, Store(bank / "store")
    context = [i for n in found[0].tolist() for i in before(space, [store[n]], 1000).tolist()]
    prompt = [2, *context, *loaded.tokenizer.encode_text("a red square at 0"), space.start_of_image]
    settings = api.for_mode(space, Settings(), "picture")
    for form, prefix in {"blank": space.blank, "retrieved": (2, *context)}.items():
        if form == "retrieved":
            generate.main([*args, "--contrast", form, "--out", str(tmp_path / form)])
        other = json.loads((tmp_path / form / "answers.json").read_text())["answers"]
        keys = engine.row_keys(0, 2)[:1]
        (expected,) = engine.generate(
            loaded.config, loaded.params, space, [prompt], settings, keys=keys, unconditional=[prefix]
        )
        assert other[0]["ids"] == expected
        assert other[0]["prompt_ids"] == [2, *prompt[1 + len(context) :]] and not other[0]["fault"]
    assert other[0]["ids"] != first["ids"] and other[1]["ids"] == second["ids"]


def test_only_as_many_documents_go_before_a_prompt_as_fit(bank: Path) -> None:
    loaded = jam_jax.load(bank / "model")
    found = finder(bank / "bank", "", loaded.space, 2)(["a red square at 0"])
    found = [(found[0] * 5)[:9]] * 2  # the strategy itself takes few: this CLIP finds everything alike
    assert len(found[0]) == 9
    answers = loaded.generate(["a red square at 0", "a " * 130], "picture", retrieved=found)
    room = [160 - 18 - len(answer.prompt_ids) for answer in answers]
    for answer, space in zip(answers, room, strict=True):
        ends = np.cumsum([len(document.ids) for document in found[0]])
        assert answer.retrieved == found[0][: (ends <= space).sum()]
    assert len(answers[0].retrieved) > len(answers[1].retrieved) == 0
    answered = loaded.generate(["how?"], "answer", Settings(max_images=1), retrieved=found[:1])[0]
    assert answered.retrieved and not answered.fault


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--bank", "BANK"], "retrieval needs both"),
        (["--retrieve", "2"], "retrieval needs both"),
        (["--retrieve", "-1", "--bank", "BANK"], "retrieve must be 0 \\(none\\) or more, got -1"),
    ],
)
def test_retrieval_needs_a_bank_and_a_number(args: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        generate.main(["--model", "m", "--prompt", "a", *args])
    assert re.search(message, said(capsys))


def test_a_bank_of_another_tokenizer_or_a_contrast_with_nothing_is_one_line(
    bank: Path, directory: Path, tmp_path: Path
) -> None:
    args = ["--model", str(directory), "--prompt", "a", "--out", str(tmp_path / "o")]
    with pytest.raises(ValueError, match="store .* was made with another tokenizer"):
        generate.main([*args, "--retrieve", "1", "--bank", f"{bank}/bank"])
    with pytest.raises(ValueError, match="none are retrieved: set it to blank"):
        generate.main([*args, "--contrast", "retrieved"])
    assert not (tmp_path / "o").exists()
