"""A checkpoint's own tokenizer: it comes along, says what ids mean, gets its image tokenizer, writes, and goes back."""

import dataclasses
import io
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import vocabularies
from parents import exported
from PIL import Image
from test_convert_main import command, fails
from transformers import PreTrainedTokenizerFast

import jam_jax
from jam_jax import checkpoint, tokens
from jam_jax.api import Model
from jam_jax.config import DecoderConfig, ModelConfig, VqganConfig
from jam_jax.data import tokenizers, vocabulary
from jam_jax.data.__main__ import main as data_main
from jam_jax.data.documents import Document
from jam_jax.data.grammars import GRAMMARS
from jam_jax.data.store import write_store
from jam_jax.data.tokenizers import Tokenizer, open_tokenizer
from jam_jax.decode import engine
from jam_jax.decode.settings import Sampling, Settings
from jam_jax.tokens import CODE, TokenSpace

# A grid of 2 x 2 codes of 16.
VQGAN = VqganConfig(8, 4, (1, 1, 1), 1, (), groups=2, z_channels=4, codes=16, code_width=4)
TINY = DecoderConfig(
    vocab_size=1, layers=2, width=8, heads=2, head_size=4, ffn_width=16, max_positions=64,
    norm="rmsnorm", positions="rope", ffn="silu_gated", tied=False,
)  # fmt: skip
CHAMELEON = dataclasses.replace(TINY, qk_norm="layernorm")
PADDED = 9  # rows of the embedding past the tokens


def random_params(config: ModelConfig) -> dict:
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.normal(0, 0.5, s.shape).astype(np.float32), checkpoint.shapes(config))


@pytest.fixture(scope="module")
def vqgan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("vqgan") / "image"
    checkpoint.save_model(directory, VQGAN, random_params(VQGAN))
    return directory


def theirs(root: Path, row: str, **changes: object) -> Path:
    """A tiny checkpoint of Hugging Face with the tokenizer of a row of the table."""
    found = vocabularies.of_row(row)
    rows = len(found["model"]["vocab"]) + PADDED
    config = dataclasses.replace(CHAMELEON if row in ("chameleon", "lumina") else TINY, vocab_size=rows)
    exported("chameleon" if row in ("chameleon", "lumina") else "llama", config, random_params(config), root / "hf")
    vocabularies.write(root / "hf", found)
    (root / "hf" / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "x": "é"}\n')
    (root / "hf" / "special_tokens_map.json").write_text("{}")
    path = root / "hf" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return root / "hf"


def tokenizer_of(directory: Path, row: str, vqgan: Path | None = None) -> Tokenizer:
    """A tokenizer directory of a row of the table, made without a checkpoint."""
    found = vocabularies.of_row(row)
    files = {"tokenizer.json": vocabularies.write(directory / "files", found) / "tokenizer.json"}
    rows = len(found["model"]["vocab"]) + GRAMMARS[row].appended + PADDED
    vocabulary.build(directory / "tokenizer", files, rows, row)
    if vqgan:
        vocabulary.add_image_tokenizer(directory / "tokenizer", vqgan)
    return open_tokenizer(directory / "tokenizer")


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_import_keeps_the_tokenizer_and_export_puts_it_back(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = theirs(tmp_path, "chameleon")
    assert command("import", "--source", source, "--target", tmp_path / "ours") == 0
    assert "with its tokenizer, documents as in chameleon, no image tokenizer yet" in capsys.readouterr().out
    kept = open_tokenizer(checkpoint.tokenizer_dir(tmp_path / "ours"))
    assert kept.decode_text(kept.encode_text("The red cat 🎉")) == "The red cat 🎉"
    assert command("export", "--source", tmp_path / "ours", "--target", tmp_path / "out", "--family", "chameleon") == 0
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    assert not (tmp_path / "out" / "tokenizer").exists()
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    names = tokenizers.names(kept.directory)
    ids = (settings[f"{name}_token_id"] for name in ("bos", "eos", "pad"))
    assert [names[i] for i in ids] == ["<s>", "</s>", "<pad>"]
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path / "out")
    text = vocabularies.TEXTS[0]
    assert again(text, add_special_tokens=False)["input_ids"] == kept.encode_text(text)
    assert command("import", "--source", tmp_path / "out", "--target", tmp_path / "back") == 0
    assert tokens.load(tmp_path / "back" / "tokenizer") == kept.space


def test_names_tell_every_id(tmp_path: Path) -> None:
    for row in ("chameleon", "liquid", "llama"):
        kept = tokenizer_of(tmp_path / row, row)
        names = tokenizers.names(kept.directory)
        assert len(names) == kept.space.vocab_size and names[-PADDED:] == [None] * PADDED
        found = vocabularies.of_row(row)["model"]["vocab"]
        assert all(names[i] == name for name, i in found.items())
        assert [names[i] for i in kept.space.image_ids[:2]] == ["IMGIMGAZ", "IMGIMGBZ"][: len(kept.space.image_ids)]


@pytest.mark.long
def test_lumina_is_told_by_its_settings_and_draws_rows(tmp_path: Path, vqgan: Path) -> None:
    """A picture opens, says its size, closes every row and itself; the text around it follows the vocabulary."""
    source = theirs(tmp_path, "lumina", z_loss_weight=1e-5)
    assert command("import", "--source", source, "--target", tmp_path / "ours") == 0
    data_main(["assemble", "--text", str(tmp_path / "ours" / "tokenizer"), "--image", str(vqgan)])
    model = jam_jax.load(tmp_path / "ours")
    drawn(
        model, ["<racm3:break>", "<reserved08801>", "<reserved08801>", 0, 0, "<reserved08799>", 0, 0, "<reserved08799>"]
    )
    names = tokenizers.names(model.tokenizer.directory)
    asked = model.encode_prompt("Draw!", "answer")
    assert [names[asked[0]], names[asked[-1]]] == ["<s>", "<reserved08706>"]


def test_chameleon_draws_and_answers(tmp_path: Path, vqgan: Path) -> None:
    source = theirs(tmp_path, "chameleon")
    target = tmp_path / "tokenizer"
    assert command("import", "--source", source, "--target", tmp_path / "bare") == 0
    bare = jam_jax.load(tmp_path / "bare")
    with pytest.raises(ValueError, match="no image tokenizer yet: add one with python -m jam_jax.data assemble"):
        bare.generate(["a cat"], "picture")
    data_main(["assemble", "--text", f"{tmp_path}/bare/tokenizer", "--image", str(vqgan), "--target", str(target)])
    assert command("import", "--source", source, "--target", tmp_path / "ours", "--tokenizer", target) == 0
    model = jam_jax.load(tmp_path / "ours")
    drawn(model, ["<racm3:break>", 0, 0, 0, 0])
    assert not tokens.load(tmp_path / "bare" / "tokenizer").draws  # what was copied is as it was
    settings = Settings(text=Sampling(temperature=4.0), max_new_tokens=40)
    answers = model.generate(["What is it?", "</s><racm3:break>IMGIMGAZ"], "answer", settings, seed=3)
    assert not any(answer.fault for answer in answers)


def drawn(model: Model, layout: list[str | int], settings: Settings = Settings()) -> None:
    """Draw, and hold the ids to a layout (0: a code) and to the grammar's own reader."""
    space, names = model.space, tokenizers.names(model.tokenizer.directory)
    answers = model.generate(["a red cat", "<racm3:break> </s>"], "picture", settings, seed=1)
    for answer in answers:
        assert not answer.fault
        (shown,) = answer.parts
        assert isinstance(shown, Image.Image) and shown.size == (8, 8)
        ids = [*answer.prompt_ids, *answer.ids]
        at = ids.index(space.start_of_image)
        assert names[ids[0]] == "<s>" and all(space.modality[i] == tokens.TEXT for i in ids[1:at])
        picture, closing = ids[at : at + len(layout)], ids[at + len(layout) :]
        assert [0 if i in space.image_ids else names[i] for i in picture] == layout
        assert [names[i] for i in closing] == ["<eoss>", names[space.end_of_document]]


def test_a_text_parent_writes_and_says_that_it_cannot_draw(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = theirs(tmp_path, "llama")
    assert command("import", "--source", source, "--target", tmp_path / "ours") == 0
    model = jam_jax.load(tmp_path / "ours")
    (answer,) = model.generate(["The cat"], "text", Settings(max_new_tokens=12), seed=1)
    assert answer.parts[0].startswith("The cat") and len(answer.ids) <= 12 and not answer.fault
    assert answer.prompt_ids[0] == model.space.start
    for mode, message in (("picture", "no image codes"), ("answer", "no token that ends a question")):
        with pytest.raises(ValueError, match=message) as error:
            model.generate(["x"], mode)
        assert "\n" not in str(error.value)
    # What may draw may also write, whatever the settings say of pictures.
    prompts = [list(answer.prompt_ids)]
    free = engine.generate(model.config, model.params, model.space, prompts, Settings(max_new_tokens=12), seed=1)
    assert free == [list(answer.ids)]
    with pytest.raises(ValueError, match="no image codes"):
        model.tokenizer.encode_document(Document(("a", picture())))
    with pytest.raises(ValueError, match="no token that ends a question"):
        model.tokenizer.encode_document(Document(("a",), "what?"))
    store = write_store(tmp_path / "store", iter([Document(("The cat",))]), model.tokenizer)
    ids = store[0].tolist()
    assert ids[0] == model.space.start and ids[-1] == model.space.end_of_document
    assert model.tokenizer.read_document(ids).runs == ("The cat",)


@pytest.mark.parametrize("row", [name for name, row in GRAMMARS.items() if row.opening])
def test_documents_of_every_row_are_written_and_read(row: str, tmp_path: Path) -> None:
    kept = tokenizer_of(tmp_path, row)
    space = with_layout(kept, row)
    codes = np.array([[3, 0, 15, 7]], np.int32)
    kept._image = SimpleNamespace(batch=2, begin=lambda pictures: lambda: np.repeat(codes, len(pictures), axis=0))
    for parts, question in (
        (("a cat", b"picture"), ""),
        ((b"picture", "The cat", b"picture", b"picture", " sat on"), ""),
        (("The cat", b"picture"), "Draw 2*2 cats"),
        (("The cat",), "</s> <|endoftext|>"),
    ):
        ids = kept.encode_document(Document(parts, question))
        assert ids[0] == space.start if space.start_of_document is not None else ids[0] != space.start
        assert ids[-1] == space.end_of_document
        for whole in (ids, [*space.before_record, *ids], [*ids, space.pad, space.pad]):
            reading = kept.read_document(whole)
            assert not reading.fault
            assert reading.question == question
            assert [run if isinstance(run, str) else b"picture" for run in reading.runs] == list(parts)
            assert all((run == codes[0]).all() for run in reading.pictures)
        assert ids.count(space.start_of_image) == sum(isinstance(p, bytes) for p in parts)
    short = kept.encode_document(Document(("a cat", b"picture")))
    del short[short.index(space.start_of_image) + len(space.picture_layout) - 1]
    assert "breaks off" in kept.read_document(short).fault


def with_layout(kept: Tokenizer, row: str) -> TokenSpace:
    """Give a tokenizer pictures of 2 x 2 codes, without an image tokenizer."""
    kept.space = vocabulary.grammars.draw_with(kept.space, row, kept.text.names, kept.text.encode, 2)
    assert kept.space.picture_layout.count(CODE) == 4
    return kept.space


def test_other_layouts_of_files_are_found(tmp_path: Path) -> None:
    """tokenizer.model alone, and Meta's Chameleon, whose tokenizer lies beside the folder of the models."""
    (tmp_path / "gemma").mkdir()
    made = vocabularies.sentencepiece_model(tmp_path / "gemma" / "tokenizer.model", prefix=False)
    with vocabulary.of_checkpoint(tmp_path / "gemma", "", "gemma", 1000) as (kept, about):
        assert kept is not None and "documents as in gemma" in about
        assert (kept / "original" / "tokenizer.model").read_bytes() == made.read_bytes()
        text = "a <unused7> in ▁ 🎉"
        assert open_tokenizer(kept).decode_text(open_tokenizer(kept).encode_text(text)) == text
    meta = tmp_path / "meta"
    (meta / "models" / "7b").mkdir(parents=True)
    found = vocabularies.write(tmp_path / "chameleon", vocabularies.of_row("chameleon"))
    (meta / "tokenizer").mkdir()
    (found / "tokenizer.json").rename(meta / "tokenizer" / "text_tokenizer.json")
    for place in ("", str(meta / "tokenizer")):
        with vocabulary.of_checkpoint(meta / "models" / "7b", place, "auto", 1000) as (kept, about):
            assert kept is not None and "documents as in chameleon" in about
            assert (kept / "original" / "tokenizer.json").is_file()
        assert not kept.exists()


def test_mistakes_end_in_one_line_and_leave_no_target(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, target = theirs(tmp_path, "chameleon"), tmp_path / "target"
    capsys.readouterr()
    found = vocabularies.of_row("chameleon", without=("<eoss>",))
    vocabularies.write(source, found)
    fails(capsys, target, "no token '<eoss>', which documents of chameleon need", "import", "--source", source)
    fails(capsys, target, "no token '<bos>'", "import", "--source", source, "--grammar", "liquid")
    unknown = vocabularies.write(tmp_path / "unknown", vocabularies.contents("byte_level", ["[CLS]"]))
    fails(capsys, target, "none that is known here", "import", "--source", source, "--tokenizer", unknown)
    fails(capsys, target, "(--tokenizer none leaves it behind)", "import", "--source", source)
    kept = tokenizer_of(tmp_path / "kept", "chameleon").directory
    bare = ("--grammar", "opt", "--source", Path(__file__).parent / "golden" / "checkpoints" / "a_singleton")
    fails(capsys, target, "holds no tokenizer", "import", *bare)
    fails(capsys, target, "drop one of them", "import", *bare, "--tokenizer", "none")
    fails(capsys, target, "leave --grammar out", "import", "--source", source, "--tokenizer", kept, "--grammar", "opt")
    fails(capsys, target, "is damaged", "import", "--source", source, "--tokenizer", torn(tmp_path))
    fails(capsys, target, "holds no tokenizer", "import", "--source", source, "--tokenizer", tmp_path / "nowhere")
    big = vocabularies.write(tmp_path / "big", vocabularies.of_row("emu3"))
    fails(capsys, target, "but the embedding has", "import", "--source", source, "--tokenizer", big)
    assert command("import", "--source", source, "--target", target, "--tokenizer", "none") == 0
    assert not (target / "tokenizer").exists()
    with pytest.raises(ValueError, match="holds no tokenizer"):
        jam_jax.load(target).generate(["x"])


def torn(root: Path) -> Path:
    (root / "torn").mkdir()
    (root / "torn" / "tokenizer.json").write_text('{"model": ')
    return root / "torn"


def test_an_image_tokenizer_must_fit(tmp_path: Path, vqgan: Path) -> None:
    kept = tokenizer_of(tmp_path, "chameleon").directory
    before = (kept / "tokens.json").read_bytes()
    other = dataclasses.replace(VQGAN, codes=8)
    checkpoint.save_model(tmp_path / "other", other, random_params(other))
    odd = dataclasses.replace(VQGAN, resolution=12)  # 3 x 3 codes
    checkpoint.save_model(tmp_path / "odd", odd, random_params(odd))
    lumina = tokenizer_of(tmp_path / "l", "lumina").directory
    llama = tokenizer_of(tmp_path / "t", "llama").directory
    for directory, image, message in (
        (kept, tmp_path / "other", "draws with 8 codes, but the vocabulary of .* has 16"),
        (kept, kept, "no model directory"),
        (lumina, tmp_path / "odd", "a multiple of 2 codes, not 3"),
        (llama, vqgan, "no image codes, so it has no use for an image tokenizer"),
    ):
        with pytest.raises(ValueError, match=message):
            data_main(["assemble", "--text", str(directory), "--image", str(image)])
        assert not (directory / "image").exists()
    assert (kept / "tokens.json").read_bytes() == before
    vocabulary.add_image_tokenizer(kept, vqgan)
    assert open_tokenizer(kept).space.codes_per_image == 4
    with pytest.raises(ValueError, match="has an image tokenizer already"):
        vocabulary.add_image_tokenizer(kept, vqgan)
    with pytest.raises(ValueError, match="give the new one a place with --target"):
        data_main(["assemble", "--text", str(tmp_path / "text.model"), "--image", str(vqgan)])


def test_contents_are_of_the_words_and_of_the_pictures(tmp_path: Path, vqgan: Path) -> None:
    """Equal ids of other words, or of other pictures, are another tokenizer; the kind of file does not matter."""
    a, b = (tokenizer_of(tmp_path / n, "chameleon").space for n in "ab")
    assert a == b
    c = tokenizer_of(tmp_path / "c", "chameleon", vqgan).space
    assert c.contents != a.contents and dataclasses.replace(c, picture_layout=(), picture_closers=(), contents="") == (
        dataclasses.replace(a, contents="")
    )
    found = vocabularies.of_row("chameleon")
    words = sorted(n for n in found["model"]["vocab"] if n.isalpha() and len(n) == 1)[:2]
    ids = found["model"]["vocab"]
    ids[words[0]], ids[words[1]] = ids[words[1]], ids[words[0]]
    files = {"tokenizer.json": vocabularies.write(tmp_path / "d", found) / "tokenizer.json"}
    d = vocabulary.build(tmp_path / "d" / "t", files, a.vocab_size, "chameleon")
    assert d.contents != a.contents and d == dataclasses.replace(a, contents=d.contents)


def test_a_damaged_directory_is_told(tmp_path: Path) -> None:
    kept = tokenizer_of(tmp_path, "chameleon")
    small = vocabularies.contents("byte_level", ["<s>"])
    small["model"] |= {"vocab": {"a": 0, "b": 1}, "merges": []}
    (kept.directory / "original" / "tokenizer.json").write_text(json.dumps(small | {"added_tokens": []}))
    with pytest.raises(ValueError, match="is damaged: its files have 2 tokens, tokens.json goes to"):
        open_tokenizer(kept.directory)
    (kept.directory / "vocabulary.json").write_text("{}")
    with pytest.raises(ValueError, match="vocabulary.json is missing or damaged"):
        vocabulary.grammar(kept.directory)
