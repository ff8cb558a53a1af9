"""CLIPs of other systems: the same vectors as transformers', bit-equal round trips, misfits named in one line."""

import contextlib
import dataclasses
import gzip
import json
import re
import shutil
import sys
import warnings
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from jam_jax import checkpoint, config
from jam_jax.config import DecoderConfig
from jam_jax.convert import families, readers, rules
from jam_jax.convert.__main__ import main
from jam_jax.convert.families import clip as family
from jam_jax.convert.families import clip_settings
from jam_jax.data import clip_text
from jam_jax.data.clip_pictures import clip_pictures
from jam_jax.data.clip_text import ClipTokenizer
from jam_jax.model_config import ClipConfig, TowerConfig
from jam_jax.models import clip
from tests.parents import edited, randomised, same_bits
from tests.tiny import whole

torch.set_num_threads(1)  # its threads and those of jax would wait for one another

MERGES = ["t h", "th e</w>", "c a", "ca t</w>"]
VOCABULARY = 512 + len(MERGES) + 2
END = VOCABULARY - 1


def tiny(text_act="quick_gelu", image_act="quick_gelu", eos=2):
    """A CLIP of transformers of sizes that differ everywhere, with every weight random."""
    text = {"vocab_size": VOCABULARY, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 3, "max_position_embeddings": 11, "hidden_act": text_act, "eos_token_id": eos}
    image = {"hidden_size": 10, "intermediate_size": 14, "num_hidden_layers": 3, "num_attention_heads": 2}
    image |= {"image_size": 15, "patch_size": 5, "hidden_act": image_act, "layer_norm_eps": 1e-3}
    return randomised(CLIPModel(CLIPConfig(text_config=text, vision_config=image, projection_dim=7)))


def inputs(c, count=5):
    """Ids that end at different places, with anything behind, and pictures."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, c.vocab_size - 2, (count, c.context)).astype(np.int32)
    tokens[np.arange(count), rng.integers(1, c.context, count)] = c.vocab_size - 1
    return tokens, rng.normal(size=(count, c.resolution, c.resolution, 3)).astype(np.float32)


def their_vectors(theirs, tokens, pixels):
    with torch.no_grad():
        found = theirs(
            input_ids=torch.tensor(tokens, dtype=torch.int64), pixel_values=torch.tensor(pixels).permute(0, 3, 1, 2)
        )
    return found.text_embeds.numpy(), found.image_embeds.numpy(), found.logits_per_text.numpy()


embed = (jax.jit(clip.embed_texts, static_argnums=0), jax.jit(clip.embed_pictures, static_argnums=0))


def our_vectors(c, params, tokens, pixels):
    return tuple(f(c, params, x) for f, x in zip(embed, (tokens, pixels), strict=True))


def agree(found, expected):
    for a, b in zip(found, expected, strict=False):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)
        assert (np.asarray(a) * b).sum(1).min() >= 0.99999


def gathered(source, name="auto"):
    parent = families.read(Path(source), name)
    return parent.config, whole(
        rules.leaves(parent.table, parent.weights, checkpoint.shapes(parent.config), str(source))
    )


def command(*args):
    """Run the command as a shell does; give its exit code."""
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(SystemExit):
        patch.setattr(sys, "argv", ["convert", *map(str, args)])
        config.run(main)
        return 0
    return 1


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A directory as Hugging Face holds it, and the model in it."""
    theirs, path = tiny(image_act="gelu"), tmp_path_factory.mktemp("clip") / "published"
    theirs.save_pretrained(path)
    return path, theirs


@pytest.mark.parametrize(("text_act", "image_act", "eos"), [("quick_gelu", "gelu", 2), ("gelu", "quick_gelu", 9)])
def test_vectors_are_those_of_transformers(text_act, image_act, eos, tmp_path):
    theirs = tiny(text_act, image_act, eos)
    theirs.save_pretrained(tmp_path)
    c, params = gathered(tmp_path)
    assert (c.text.activation, c.image.activation) == (text_act, image_act)
    assert c.end_of_text == (None if eos == 2 else eos) and c.image.norm_eps == 1e-3
    tokens, pixels = inputs(c)
    tokens[::2, 3] = 9  # an end of its own, for one of them
    tokens[1::2, -1] = 9
    found, expected = our_vectors(c, params, tokens, pixels), their_vectors(theirs, tokens, pixels)
    agree(found, expected)
    np.testing.assert_allclose(clip.logits(params, *found), expected[2], rtol=0, atol=1e-3)
    assert np.ptp(expected[2]) > 0.2, "the vectors differ from one another"


TOWERS = {"text": CLIPTextModelWithProjection, "image": CLIPVisionModelWithProjection}


@pytest.mark.parametrize("layers", [2, pytest.param(12, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", TOWERS)
def test_vectors_at_the_real_size_of_vit_b_32_are_those_of_transformers(name, layers, tmp_path):
    """One tower at a time, which is half the memory; all of its layers in the long test."""
    depth = {"num_hidden_layers": layers}
    published = CLIPConfig(text_config=depth, vision_config=depth)
    c = clip_settings.read_config(published.to_dict(), tmp_path / "config.json")
    real = ClipConfig(end_of_text=49407)
    assert c == dataclasses.replace(
        real, **{tower: dataclasses.replace(getattr(real, tower), layers=layers) for tower in TOWERS}
    )
    tokens, pixels = inputs(c, 2)
    torch.manual_seed(0)
    if name == "text":
        x, theirs = tokens, CLIPTextModelWithProjection(published.text_config).eval()
        with torch.no_grad():
            expected = theirs(torch.tensor(tokens, dtype=torch.int64)).text_embeds
    else:
        x, theirs = pixels, CLIPVisionModelWithProjection(published.vision_config).eval()
        with torch.no_grad():
            expected = theirs(torch.tensor(pixels).permute(0, 3, 1, 2)).image_embeds
    shapes, table = checkpoint.shapes(c), family.table(c)
    half = dataclasses.replace(table, rules=tuple(r for r in table.rules if r.path.startswith(name)))
    weights = readers.Tensors(theirs.state_dict, tmp_path)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    params |= whole(rules.leaves(half, weights, {name: shapes[name]}, name))
    del theirs, weights
    found = embed[list(TOWERS).index(name)](c, params, x)
    agree([found], [(expected / expected.norm(dim=1, keepdim=True)).numpy()])


# Hugging Face's names → OpenAI's, written by hand as a check of the family's own table.
OPENAI = (
    ("text_model.embeddings.token_embedding", "token_embedding"),
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    ("text_model.final_layer_norm", "ln_final"),
    ("text_model.encoder.layers", "transformer.resblocks"),
    ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
    ("vision_model.embeddings.patch_embedding", "visual.conv1"),
    ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
    ("vision_model.pre_layrnorm", "visual.ln_pre"),
    ("vision_model.post_layernorm", "visual.ln_post"),
    ("vision_model.encoder.layers", "visual.transformer.resblocks"),
    ("layer_norm", "ln_"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
    ("self_attn.out_proj", "attn.out_proj"),
)


def openai_state(model):
    """The weights under OpenAI's names: queries, keys and values in one, projections the other way round."""
    state = {k: v.detach().clone() for k, v in model.state_dict().items()}
    out = {"text_projection": state.pop("text_projection.weight").T.contiguous()}
    out["visual.proj"] = state.pop("visual_projection.weight").T.contiguous()
    for hugging_face, value in state.items():
        name = hugging_face
        for old, new in OPENAI:
            name = name.replace(old, new)
        if ".q_proj." in name:
            parts = [state[hugging_face.replace("q_proj", f"{x}_proj")] for x in "qkv"]
            out[name.replace("self_attn.q_proj.", "attn.in_proj_")] = torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            out[name] = value
    return out


def scripted(state, path):
    """A TorchScript archive of modules with these parameters, and with what OpenAI's carry beside them."""
    root = torch.nn.Module()
    for name, value in state.items():
        *parents, last = name.split(".")
        module = root
        for part in parents:
            if part not in dict(module.named_children()):
                module.add_module(part, torch.nn.Module())
            module = getattr(module, part)
        module.register_parameter(last, torch.nn.Parameter(value))
    for name, number in (("input_resolution", 15), ("context_length", 11), ("vocab_size", VOCABULARY)):
        root.register_buffer(name, torch.tensor(number))
    for block in root.transformer.resblocks.children():
        block.attn_mask = torch.full((11, 11), -torch.inf).triu(1)
    with warnings.catch_warnings(action="ignore"):  # deprecated, and what OpenAI published
        torch.jit.save(torch.jit.script(root), path)


@pytest.fixture(scope="module")
def openai():
    """A CLIP with heads of 64, as all of OpenAI's."""
    text = {"vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 20, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 11, "eos_token_id": 2}
    image = {"hidden_size": 64, "intermediate_size": 14, "num_hidden_layers": 3, "num_attention_heads": 1}
    image |= {"image_size": 15, "patch_size": 5}
    return randomised(CLIPModel(CLIPConfig(text_config=text, vision_config=image, projection_dim=7)))


@pytest.mark.parametrize("form", ["torchscript", "directory", "half", "state dict", "trainer's"])
def test_openais_layout_gives_the_same_model(openai, form, tmp_path):
    openai.save_pretrained(tmp_path / "hf")
    expected, params = gathered(tmp_path / "hf")
    state, source = openai_state(openai), tmp_path / "openai" / "ViT-T-5.pt"
    source.parent.mkdir()
    if form == "half":
        state = {k: v.half() for k, v in state.items()}
        params = jax.tree.map(lambda a: a.astype(np.float16).astype(np.float32), params)
    if form in ("state dict", "trainer's"):
        torch.save({"state_dict": state, "epoch": 3} if form == "trainer's" else state, source)
    else:
        scripted(state, source)
    if form == "torchscript":  # beside another model
        shutil.copyfile(tmp_path / "hf" / "config.json", source.with_name("config.json"))
    c, found = gathered(source.parent if form == "directory" else source)
    assert c == expected
    same_bits(found, params)


def test_import_export_import_is_the_same_to_the_bit_and_transformers_loads_what_lies_between(published, tmp_path):
    source, theirs = shutil.copytree(published[0], tmp_path / "source"), published[1]
    with gzip.open(source / clip_text.OPENAI, "wt") as file:  # as OpenAI publishes it
        file.write("\n".join(["a version", *MERGES]))
    assert command("import", "--source", source / "model.safetensors", "--target", tmp_path / "ours") == 0
    assert command("export", "--source", tmp_path / "ours", "--target", tmp_path / "out", "--family", "clip") == 0
    assert command("import", "--source", tmp_path / "out", "--target", tmp_path / "again") == 0
    (c, params), (again, same) = (checkpoint.load_model(tmp_path / d) for d in ("ours", "again"))
    assert again == c
    same_bits(params, same)
    exported, original = (load_file(d / "model.safetensors") for d in (tmp_path / "out", source))
    assert exported.keys() == original.keys() and all(torch.equal(exported[k], original[k]) for k in original)
    kept = [(tmp_path / d / "tokenizer" / "merges.txt").read_text() for d in ("ours", "again")]
    assert kept[0] == kept[1]

    texts = ["the cat", "a THE cat's", "cat " * 20, "", "🐈"]
    pictures = [np.random.default_rng(i).integers(0, 256, (20 + i, 31, 3), np.uint8) for i in range(5)]
    tokenizer, processor = (t.from_pretrained(tmp_path / "out") for t in (CLIPTokenizer, CLIPImageProcessorPil))
    tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=c.context, return_tensors="np")
    pixels = processor(pictures, return_tensors="np")["pixel_values"].transpose(0, 2, 3, 1)
    loaded, info = CLIPModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    expected = their_vectors(loaded.eval(), tokens["input_ids"], pixels)
    for a, b in zip(their_vectors(theirs, tokens["input_ids"], pixels), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    ids = ClipTokenizer(tmp_path / "again" / "tokenizer").encode(texts, c.context)
    agree(our_vectors(c, params, ids, clip_pictures(c, pictures)), expected)


def test_colours_are_normalised_as_the_checkpoint_says(published, tmp_path):
    source = shutil.copytree(published[0], tmp_path / "source")
    colours = {"image_mean": [0.5, 0.25, 0.75], "image_std": [0.5, 1, 2], "size": 15, "crop_size": 15}
    (source / "preprocessor_config.json").write_text(json.dumps(colours))
    c = families.read(source).config
    assert c.mean == (0.5, 0.25, 0.75) and c.std == (0.5, 1.0, 2.0)
    (source / "preprocessor_config.json").write_text(json.dumps(clip_settings.write_preprocessor(c)))
    assert families.read(source).config == c


def fails(capsys, target, message, *args):
    assert command(*args, "--target", target) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert re.search(message, error), error
    assert not target.exists()
    assert not [p for p in target.parent.iterdir() if p.name.startswith(".")]


def test_mistakes_end_in_one_line_and_leave_no_target(published, openai, tmp_path, capsys):
    target, source = tmp_path / "target", shutil.copytree(published[0], tmp_path / "source")
    fails(capsys, target, "--resolution is for image tokenizers", "import", "--source", source, "--resolution", 15)
    with gzip.open(source / clip_text.OPENAI, "wt") as file:
        file.write("\n".join(["a version", *MERGES[:2]]))
    ends = rf"of another model: it has {VOCABULARY - 2} ids and ends texts with {END - 2}, the model has {VOCABULARY}"
    edited(
        source, {"text_config": json.loads((source / "config.json").read_text())["text_config"] | {"eos_token_id": 7}}
    )
    fails(capsys, target, ends + " and reads texts off at 7", "import", "--source", source)
    (source / clip_text.OPENAI).write_bytes(b"\x00")
    fails(capsys, target, "is damaged", "import", "--source", source)
    weights = (published[0] / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    fails(capsys, target, "is damaged", "import", "--source", source)

    path = tmp_path / "ViT.pt"
    scripted(openai_state(openai), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    fails(capsys, target, "is damaged", "import", "--source", path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/constants.pkl", b"")
        archive.writestr("x/data.pkl", f"cos\nsystem\n(S'touch {tmp_path}/mark'\ntR.")
    fails(capsys, target, r"holds os.system, .* nothing of it was run", "import", "--source", path)
    assert not (tmp_path / "mark").exists()
    (tmp_path / "two").mkdir()
    for name in ("a.pt", "b.pt"):
        (tmp_path / "two" / name).write_bytes(whole)
    fails(capsys, target, r"several files \(a.pt, b.pt\): give --source one", "import", "--source", tmp_path / "two")
    (tmp_path / "empty").mkdir()
    no = ("import", "--source", tmp_path / "empty")
    fails(capsys, target, "holds no CLIP; expected Hugging Face's config.json or one ViT", *no, "--family", "clip")
    fails(capsys, target, "known here", *no)


def test_all_that_does_not_fit_is_said_at_once(published, tmp_path):
    source = shutil.copytree(published[0], tmp_path / "source")
    state = load_file(source / "model.safetensors")
    state["surprise"] = state.pop("vision_model.pre_layrnorm.bias")
    state["logit_scale"] = torch.zeros(1)
    save_file(state, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError) as caught:
        gathered(source)
    for part in ("missing: vision_model.pre_layrnorm.bias", "left over: surprise", "logit_scale is [1], not []"):
        assert part in str(caught.value)


def test_older_files_hold_numbers_of_positions_and_others_lie_beside(published, tmp_path):
    source = tmp_path / "old"
    source.mkdir()
    shutil.copyfile(published[0] / "config.json", source / "config.json")
    state = published[1].state_dict()
    state |= {f"{t}_model.embeddings.position_ids": torch.arange(9)[None] for t in ("text", "vision")}
    torch.save(state, source / "pytorch_model.bin")
    torch.save({"visual.conv1.weight": torch.zeros(1)}, source / "open_clip_pytorch_model.bin")
    same_bits(gathered(source)[1], gathered(published[0])[1])


@pytest.mark.parametrize(
    ("where", "changes", "message"),
    [
        (
            "text_config",
            {"hidden_act": "gelu_new"},
            "hidden_act='gelu_new' is not supported, only 'quick_gelu' and 'gelu'",
        ),
        ("vision_config", {"hidden_act": "silu"}, "hidden_act='silu' is not supported"),
        ("vision_config", {"num_channels": 4}, "num_channels=4 is not supported, only 3"),
        ("vision_config", {"image_size": 16}, "resolution 16 does not divide by patch 5"),
        ("vision_config", {"image_size": [15, 15]}, r"image_size should be a positive whole number, got \[15, 15\]"),
        (
            "vision_config",
            {"num_attention_heads": 3},
            r"hidden_size \(10\) does not divide by num_attention_heads \(3\)",
        ),
        ("vision_config", {"use_rms": True}, "use_rms=True may change what the model computes"),
        ("text_config", {"layer_norm_eps": 0}, "layer_norm_eps should be a positive number, got 0"),
        ("text_config", {"num_hidden_layers": 1}, r"left over: text_model\.encoder\.layers\.1"),
        ("text_config", {"eos_token_id": [7, 8]}, r"eos_token_id should be one whole number, got \[7, 8\]"),
        ("text_config", {"eos_token_id": 49407}, "end_of_text must be an id from 0 to"),
        ("", {"text_config": 3}, "text_config should be an object of attributes, got 3"),
        ("", {"projection_dim": 8}, r"text_projection\.weight is \[7, 12\], not \[8, 12\]"),
        ("", {"logit_bias": 1.0}, "logit_bias=1.0 may change"),
        ("preprocessor", {"resample": 2}, "preprocessor_config.json: resample=2 is not supported, only 3"),
        ("preprocessor", {"do_center_crop": False}, "do_center_crop=False"),
        ("preprocessor", {"size": {"shortest_edge": 16}}, "size={'shortest_edge': 16} is not supported, only 15 and"),
        ("preprocessor", {"image_mean": [0.5]}, r"image_mean should be three numbers, got \[0.5\]"),
        ("preprocessor", {"image_std": [1, 0, 1]}, "std positive"),
    ],
)
def test_settings_that_we_do_not_compute_are_named_in_one_line(published, where, changes, message, tmp_path):
    source = shutil.copytree(published[0], tmp_path / "source")
    if where == "preprocessor":
        (source / "preprocessor_config.json").write_text(json.dumps(changes))
    elif where:
        inner = json.loads((source / "config.json").read_text())[where]
        edited(source, {where: inner | changes})
    else:
        edited(source, changes)
    with pytest.raises(ValueError, match=message) as caught:
        gathered(source)
    assert "\n" not in str(caught.value)


def test_published_configs_are_understood(tmp_path):
    """As openai/clip-vit-large-patch14 and older files have them: towers twice, with attributes of generation."""
    path = tmp_path / "config.json"
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
    image = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
    image |= {"patch_size": 14, "projection_dim": 768}
    noise = {
        "num_beams": 1,
        "top_k": 50,
        "length_penalty": 1.0,
        "max_length": 20,
        "dropout": 0.0,
        "bad_words_ids": None,
    }
    values = {"model_type": "clip", "projection_dim": 768, "logit_scale_init_value": 2.6592, "initializer_factor": 1.0}
    values |= {"text_config": text | noise | {"eos_token_id": 2}, "vision_config": image | noise}
    large = ClipConfig(
        text=TowerConfig(12, 768, 12, 3072), image=TowerConfig(24, 1024, 16, 4096), patch=14, embed_width=768
    )
    assert clip_settings.read_config(values, path) == large
    twice = values | {"text_config_dict": text | {"hidden_act": "gelu"}, "vision_config_dict": None}
    found = clip_settings.read_config(twice, path)
    theirs = CLIPConfig.from_dict(twice).text_config
    assert (found.text.activation, found.end_of_text) == (theirs.hidden_act, theirs.eos_token_id) == ("gelu", 49407)
    base = clip_settings.read_config({"model_type": "clip", "text_config": {"eos_token_id": 2}}, path)
    assert base == ClipConfig()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"visual.layer1.0.conv1.weight": torch.zeros(1)}, "reads pictures by a ResNet"),
        (
            lambda s: s | {"visual.conv1.weight": torch.zeros(60, 3, 5, 5)},
            "width of 60 does not divide into heads of 64",
        ),
        (lambda s: s | {"visual.positional_embedding": torch.zeros(9, 64)}, "9 rows, not one more than a square"),
        (lambda s: s | {"visual.conv1.weight": torch.zeros(64, 3, 5)}, r"it has no visual\.conv1\.weight of 4 axes"),
        (lambda s: {k: v for k, v in s.items() if k != "text_projection"}, "it has no text_projection of 2 axes"),
        (
            lambda s: {k: v for k, v in s.items() if ".1.ln_1." not in k},
            r"missing: transformer\.resblocks\.1\.ln_1\.weight",
        ),
        (lambda s: s | {"extra": torch.zeros(1)}, "left over: extra"),
    ],
)
def test_tensors_that_are_no_clip_of_openais_are_one_line(openai, change, message, tmp_path):
    torch.save(change(openai_state(openai)), tmp_path / "x.pt")
    with pytest.raises(ValueError, match=message) as caught:
        gathered(tmp_path / "x.pt", "clip")
    assert "\n" not in str(caught.value)


def test_openclips_files_are_refused_since_they_do_not_tell_the_activation(openai, tmp_path):
    torch.save(openai_state(openai), tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(ValueError, match="OpenCLIP's.*import the same model in Hugging Face's layout"):
        gathered(tmp_path / "open_clip_pytorch_model.bin", "clip")


def test_what_the_others_cannot_read_has_no_export():
    with pytest.raises(ValueError, match=r"at id 2 \(end_of_text\), which transformers takes for the highest id"):
        clip_settings.write_config(ClipConfig(end_of_text=2))
    with pytest.raises(ValueError, match="this model is a language model, not a CLIP"):
        clip_settings.write_config(DecoderConfig(13, 2, 12, 2, 6, 20, 10))
    with pytest.raises(ValueError, match="this model is a CLIP, not a language model: OPT has no place for it"):
        families.writer("opt").write_config(ClipConfig(), None)
