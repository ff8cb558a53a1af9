"""The command and the Python interface, on a tiny model directory made here."""

import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import jam_jax
from jam_jax import checkpoint, generate, html
from jam_jax.api import Model
from jam_jax.config import DecoderConfig, VqganConfig
from jam_jax.data.sentencepiece_text import train_text_tokenizer
from jam_jax.data.tokenizers import build_tokenizer, open_tokenizer
from jam_jax.decode.settings import Settings
from jam_jax.models import model

VQGAN = VqganConfig(
    resolution=8, channels=8, multipliers=(1, 1), res_blocks=1, attn_resolutions=(), groups=4, z_channels=4, codes=8,
    code_width=4,
)  # fmt: skip
HOSTILE = "<script>alert('&')</script>"


def random_params(shapes: dict, std: float) -> dict:
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.normal(0, std, s.shape).astype(s.dtype), shapes)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory of a random decoder, with a tokenizer of bytes and pictures of 16 codes."""
    root = tmp_path_factory.mktemp("generate")
    train_text_tokenizer(["a red circle", "a blue square beside a red circle"] * 20, root / "text.model", vocab=280)
    checkpoint.save_model(root / "image", VQGAN, random_params(checkpoint.shapes(VQGAN), 0.3))
    build_tokenizer(root / "tokenizer", root / "text.model", root / "image", sentinels=4)
    space = open_tokenizer(root / "tokenizer").space
    config = DecoderConfig(
        vocab_size=space.vocab_size, layers=1, width=16, heads=2, head_size=8, ffn_width=16, max_positions=64
    )
    checkpoint.save_model(
        root / "model", config, random_params(model.shapes(config), 0.5), tokenizer=root / "tokenizer"
    )
    return root / "model"


@pytest.fixture(scope="module")
def loaded(directory: Path) -> Model:
    return jam_jax.load(directory)


def test_prompts_have_the_papers_form(loaded: Model) -> None:
    space, text = loaded.space, loaded.tokenizer.encode_text("a red circle")
    assert loaded.encode_prompt("a red circle", "answer") == [2, *text, space.sentinel(0), 2]
    assert loaded.encode_prompt("a red circle", "picture") == [2, *text, space.start_of_image]
    assert loaded.encode_prompt("a red circle", "text") == [2, *text]
    with pytest.raises(ValueError, match="choose one of answer, picture, text"):
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
    with pytest.raises(ValueError, match="already exists"):
        generate.main(args)


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
    ],
)
def test_users_mistakes_leave_nothing_behind(directory: Path, tmp_path: Path, args: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate.main(["--model", str(directory), "--out", str(tmp_path / "out"), *args])
    assert not (tmp_path / "out").exists()


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
