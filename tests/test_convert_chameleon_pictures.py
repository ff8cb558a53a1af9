"""An export of Chameleon with its image tokenizer: transformers reads the same codes, and all of it comes back."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import torch
import vocabularies
from parents import close, randomised, same_bits
from safetensors.torch import load_file
from test_convert_main import command, fails
from transformers import ChameleonConfig, ChameleonForConditionalGeneration

from jam_jax import checkpoint, tokens
from jam_jax.config import DecoderConfig, VqganConfig
from jam_jax.convert import writers
from jam_jax.data import tokenizers, vocabulary
from jam_jax.data.__main__ import main as data_main
from jam_jax.data.sentencepiece_text import train_text_tokenizer
from jam_jax.models import model, vqgan
from tests.tiny import randomise

torch.set_num_threads(1)  # its threads and those of jax would wait for one another

# Widths that differ everywhere, attention beside the middle's, 4 x 4 codes a picture.
IMAGES = VqganConfig(16, 32, (1, 3, 2), 1, (8,), 32, z_channels=12, codes=16, code_width=10)
DECODER = DecoderConfig(
    vocab_size=1, layers=2, width=24, heads=4, head_size=6, ffn_width=20, max_positions=32, kv_heads=2,
    norm="rmsnorm", positions="rope", ffn="silu_gated", qk_norm="layernorm", tied=False,
)  # fmt: skip


def saved(directory, config, **beside):
    params = randomise(checkpoint.shapes(config), std=0.2)
    checkpoint.save_model(directory, config, params, **beside)
    return directory


def of_transformers(directory, names):
    """A random Chameleon as transformers saves it, with the tokenizer of its checkpoint."""
    ids = vocabularies.contents("byte_level", names)
    rows = len(ids["model"]["vocab"]) + 3
    sizes = {"vocab_size": rows, "hidden_size": 24, "intermediate_size": 20, "max_position_embeddings": 32}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    small = {"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "num_embeddings": 16}
    settings = ChameleonConfig(**sizes, **heads, pad_token_id=0, vq_config=small, vocabulary_map={})
    randomised(ChameleonForConditionalGeneration(settings)).save_pretrained(directory)
    return vocabularies.write(directory, ids)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """`imported` with its checkpoint's tokenizer and `own` with one made here, which has its image tokenizer inside."""
    root = tmp_path_factory.mktemp("chameleon")
    images = saved(root / "images", IMAGES)
    of_transformers(root / "theirs", [*vocabularies.marks("chameleon"), "<image>"])
    assert command("import", "--source", root / "theirs", "--target", root / "imported") == 0
    train_text_tokenizer(["a cat on a mat", "the dog in the sun"] * 20, root / "text.model", 270)
    data_main(["assemble", "--text", f"{root}/text.model", "--image", str(images), "--target", f"{root}/tokenizer"])
    rows = tokens.load(root / "tokenizer").vocab_size
    saved(root / "own", dataclasses.replace(DECODER, vocab_size=rows), tokenizer=root / "tokenizer")
    return root


def export(source, target, *more):
    return command("export", "--source", source, "--target", target, "--family", "chameleon", *more)


def config_of(directory):
    return json.loads((directory / "config.json").read_text())


@pytest.mark.parametrize(("name", "placeholder"), [("imported", "<image>"), ("own", "<s>")])
def test_transformers_reads_the_same_codes_and_goes_on_from_them_alike(name, placeholder, made, tmp_path, capsys):
    given = ("--image-tokenizer", made / "images") if name == "imported" else ()
    assert export(made / name, tmp_path / "out", *given) == 0
    said = capsys.readouterr().out
    assert "with the image tokenizer " in said and "decoder" in said
    theirs, about = ChameleonForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not about["missing_keys"] and not about["mismatched_keys"]
    assert all(key.startswith("model.vqmodel.decoder.") for key in about["unexpected_keys"])

    pictures = np.random.default_rng(0).uniform(-1, 1, (50, 16, 16, 3)).astype(np.float32)
    codes = jax.jit(vqgan.encode, static_argnums=0)(IMAGES, checkpoint.load_model(made / "images")[1], pictures)
    space = tokens.load(made / name / "tokenizer")
    ids = np.array(space.image_ids)[np.asarray(codes)]
    shown = torch.tensor(pictures).permute(0, 3, 1, 2)
    with torch.no_grad():
        np.testing.assert_array_equal(theirs.get_image_tokens(shown), ids)
    assert len(np.unique(codes)) > 5

    slot = theirs.config.image_token_id
    assert tokenizers.names(made / name / "tokenizer")[slot] == placeholder
    text = tokens.ids_of(space.text)[20:29]
    prompt = np.array([space.start, *text[:5], space.start_of_image, *[slot] * 16, space.end_of_image, *text[5:]])
    config, params = checkpoint.load_model(made / name)
    with torch.no_grad():  # without the ban on image tokens that transformers adds to the decoder's output
        hidden = theirs.model(torch.tensor(prompt)[None].repeat(2, 1), pixel_values=shown[:2]).last_hidden_state
        found = theirs.lm_head(hidden).numpy()
    prompts = np.stack([prompt, prompt])
    prompts[:, 7:23] = ids[:2]
    ours = jax.jit(model.forward, static_argnums=0)(config, params, prompts)[0]
    close(found, ours)
    assert np.abs(found[0, -1] - found[1, -1]).max() > 1e-3  # the picture matters


def test_both_models_come_back_to_the_bit(made, tmp_path, monkeypatch):
    monkeypatch.setitem(writers.write_hugging_face.__kwdefaults__, "shard_bytes", 200_000)
    assert export(made / "imported", tmp_path / "out", "--image-tokenizer", made / "images") == 0
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert {"model.norm.weight", "model.vqmodel.quantize.embedding.weight"} < set(index["weight_map"])
    for family, before in (("auto", "imported"), ("vqgan", "images")):
        target = tmp_path / before
        assert command("import", "--source", tmp_path / "out", "--target", target, "--family", family) == 0
        (config, params), (config_back, back) = (checkpoint.load_model(d) for d in (made / before, target))
        assert config_back == config
        same_bits(back, params)
    assert tokens.load(tmp_path / "imported" / "tokenizer") == tokens.load(made / "imported" / "tokenizer")


def test_the_language_models_type_is_the_exports(made, tmp_path):
    """A tokenizer of pictures in float32 does not make those who load the export take twice the memory."""
    half = ChameleonForConditionalGeneration.from_pretrained(made / "theirs").bfloat16()
    half.save_pretrained(tmp_path / "theirs")
    shutil.copyfile(made / "theirs" / "tokenizer.json", tmp_path / "theirs" / "tokenizer.json")
    assert command("import", "--source", tmp_path / "theirs", "--target", tmp_path / "ours") == 0
    assert export(tmp_path / "ours", tmp_path / "out", "--image-tokenizer", made / "images") == 0
    assert config_of(tmp_path / "out")["torch_dtype"] == "bfloat16"
    stored = load_file(tmp_path / "out" / "model.safetensors")
    kinds = {name.startswith("model.vqmodel."): tensor.dtype for name, tensor in stored.items()}
    assert kinds == {False: torch.bfloat16, True: torch.float32}


def test_a_tokenizers_own_image_tokenizer_goes_along_unless_told_otherwise(made, tmp_path, capsys):
    assert export(made / "own", tmp_path / "out", "--image-tokenizer", "none") == 0
    assert config_of(tmp_path / "out")["vocabulary_map"] == {}  # so that transformers lets it draw
    assert "image tokenizer" not in capsys.readouterr().out
    assert export(made / "imported", tmp_path / "bare") == 0
    said = capsys.readouterr().out
    assert "no image tokenizer: transformers fills in a random one" in said and "--image-tokenizer DIR" in said
    assert "vq_config" not in config_of(tmp_path / "bare")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes_by": "logits"}, "codes_by='logits'"),
        ({"groups": 16}, "groups=16"),
        ({"codes": 17}, "draws with 17 codes, but the model's vocabulary has 16"),
        ({"resolution": 32}, "gives 64 codes a picture, but the model's tokenizer says 16"),
    ],
)
def test_an_image_tokenizer_that_does_not_fit_is_one_line(changes, message, made, tmp_path, capsys):
    other = saved(tmp_path / "other", dataclasses.replace(IMAGES, **changes))
    words = ("export", "--source", made / "own", "--family", "chameleon", "--image-tokenizer", other)
    fails(capsys, tmp_path / "out", message, *words)


def test_what_is_no_image_tokenizer_or_has_no_place_for_one_is_one_line(made, tmp_path, capsys):
    images, target = ("--image-tokenizer", made / "images"), tmp_path / "out"
    source = ("export", "--source", made / "own", "--family")
    fails(capsys, target, "is for --family chameleon, and opt has no place", *source, "opt", *images)
    fails(capsys, target, "but a language model", *source, "chameleon", "--image-tokenizer", made / "own")
    fails(capsys, target, "is no model directory", *source, "chameleon", "--image-tokenizer", tmp_path)
    bare = saved(tmp_path / "bare", DECODER)
    fails(capsys, target, "has no tokenizer that says", "export", "--source", bare, "--family", "chameleon", *images)


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["<reserved08707>", "<image>"], "<image>"), (["<reserved08707>"], "<reserved08707>"), (["<unk>"], "<unk>")],
)
def test_what_stands_for_a_picture_in_a_prompt_has_no_other_meaning(names, expected, tmp_path):
    ids = built(tmp_path, names)["model"]["vocab"]
    wanted = {name: i for name, i in ids.items() if name.startswith("IMGIMG") and name.endswith("Z")}
    assert tokenizers.vocabulary_map(tmp_path / "tokenizer") == wanted | {"<image>": ids[expected]}


def test_a_vocabulary_without_a_token_to_spare_is_one_line(tmp_path):
    built(tmp_path, [])
    with pytest.raises(ValueError, match="no token that could stand for a picture"):
        tokenizers.vocabulary_map(tmp_path / "tokenizer")


def built(directory, names):
    """A tokenizer directory of Chameleon's marks and more tokens; gives its tokenizer.json."""
    found = vocabularies.contents("byte_level", [*vocabularies.marks("chameleon"), *names])
    file = vocabularies.write(directory, found) / "tokenizer.json"
    vocabulary.build(directory / "tokenizer", {"tokenizer.json": file}, len(found["model"]["vocab"]), "chameleon")
    return found
