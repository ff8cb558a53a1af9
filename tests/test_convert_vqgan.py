"""Image tokenizers of other systems: the same codes and pictures, bit-equal round trips, misfits named together."""

import contextlib
import dataclasses
import json
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file, save_file
from transformers import ChameleonConfig, ChameleonForConditionalGeneration, ChameleonVQVAE, ChameleonVQVAEConfig

from jam_jax import checkpoint, config
from jam_jax.config import DecoderConfig, VqganConfig
from jam_jax.convert import families, rules, writers
from jam_jax.convert.__main__ import main
from jam_jax.convert.families import vqgan as family
from jam_jax.convert.families import vqgan_settings
from jam_jax.data.__main__ import main as data_main
from jam_jax.data.image_tokenizer import ImageTokenizer
from jam_jax.data.sentencepiece_text import train_text_tokenizer
from jam_jax.data.tokenizers import open_tokenizer
from jam_jax.models import codebook, vqgan
from jam_jax.trees import paths
from tests.tiny import leaves, whole

torch.set_num_threads(1)  # its threads and those of jax would wait for one another

# Widths that differ everywhere, so that a swapped axis or a missing shortcut shows.
SMALL = VqganConfig(8, 32, (1, 3), 2, (8,), 32, z_channels=12, codes=40, code_width=10)
GUMBEL = dataclasses.replace(SMALL, z_channels=11, code_width=11, codes_by="logits")
KINDS = {"nearest": SMALL, "gumbel": GUMBEL}
CLASS = {"nearest": "taming.models.vqgan.VQModel", "logits": "taming.models.vqgan.GumbelVQ"}


# The original from the paper's table 7, over a flat dict of its weights. `Reference` runs it; `random_state` lists it.


class Reference:
    """Encoder and decoder over weights by name; with `make`, the weights are drawn as they are asked for."""

    def __init__(self, state, c, make=False):
        self.state, self.c, self.make = state, c, make

    def weight(self, name, *shape):
        if self.make:
            offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            self.state[name] = offset + 0.15 * torch.randn(shape)
        return self.state[name]

    def conv(self, name, x, out, size=3, stride=1):
        weight = self.weight(f"{name}.weight", out, x.shape[1], size, size)
        x = F.pad(x, (0, 1, 0, 1)) if stride == 2 else x
        return F.conv2d(x, weight, self.weight(f"{name}.bias", out), stride, size // 2 if stride == 1 else 0)

    def norm(self, name, x):
        n = x.shape[1]
        return F.group_norm(x, 32, self.weight(f"{name}.weight", n), self.weight(f"{name}.bias", n), 1e-6)

    def residual(self, name, x, out):
        h = self.conv(f"{name}.conv1", F.silu(self.norm(f"{name}.norm1", x)), out)
        h = self.conv(f"{name}.conv2", F.silu(self.norm(f"{name}.norm2", h)), out)
        return h + (x if x.shape[1] == out else self.conv(f"{name}.nin_shortcut", x, out, 1))

    def attend(self, name, x):
        b, n, height, width = x.shape
        h = self.norm(f"{name}.norm", x)
        q, k, v = (self.conv(f"{name}.{part}", h, n, 1).flatten(2).transpose(1, 2) for part in "qkv")
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, height, width)
        return x + self.conv(f"{name}.proj_out", h, n, 1)

    def middle(self, half, x):
        x = self.attend(f"{half}.mid.attn_1", self.residual(f"{half}.mid.block_1", x, x.shape[1]))
        return self.residual(f"{half}.mid.block_2", x, x.shape[1])

    def level(self, name, x, out, blocks):
        for j in range(blocks):
            x = self.residual(f"{name}.block.{j}", x, out)
            if x.shape[-1] in self.c.attn_resolutions:
                x = self.attend(f"{name}.attn.{j}", x)
        return x

    def last(self, half, x, out):
        return self.conv(f"{half}.conv_out", F.silu(self.norm(f"{half}.norm_out", x)), out)

    def latents(self, pictures):
        c, x = self.c, self.conv("encoder.conv_in", pictures, self.c.channels)
        for i, m in enumerate(c.multipliers):
            x = self.level(f"encoder.down.{i}", x, c.channels * m, c.res_blocks)
            if i < len(c.multipliers) - 1:
                x = self.conv(f"encoder.down.{i}.downsample.conv", x, x.shape[1], stride=2)
        x = self.last("encoder", self.middle("encoder", x), c.z_channels)
        return self.conv("quant_conv", x, c.code_width, 1)

    def pictures(self, entries):
        c, x = self.c, self.conv("post_quant_conv", entries, self.c.z_channels, 1)
        x = self.middle("decoder", self.conv("decoder.conv_in", x, c.channels * c.multipliers[-1]))
        for i, m in reversed(list(enumerate(c.multipliers))):
            x = self.level(f"decoder.up.{i}", x, c.channels * m, c.res_blocks + 1)
            if i:
                x = self.conv(f"decoder.up.{i}.upsample.conv", F.interpolate(x, scale_factor=2.0), x.shape[1])
        return self.last("decoder", x, 3)

    def codes(self, z):
        c = self.c
        if c.codes_by == "logits":
            return self.conv("quantize.proj", z, c.codes, 1).argmax(1).flatten(1)
        book = self.weight("quantize.embedding.weight", c.codes, c.code_width)
        return torch.cdist(z.flatten(2).transpose(1, 2).double(), book.double()).argmin(-1)


def random_state(c):
    torch.manual_seed(0)
    state = {}
    reference = Reference(state, c, make=True)
    z = reference.latents(torch.zeros(1, 3, c.resolution, c.resolution))
    reference.codes(z)
    reference.pictures(z)
    if c.codes_by == "logits":
        reference.weight("quantize.embed.weight", c.codes, c.code_width)
    return state


def settings(c, **changes):
    """A yaml as taming-transformers' repository has them."""
    parts = {
        **{"double_z": False, "z_channels": c.z_channels, "resolution": c.resolution, "in_channels": 3, "out_ch": 3},
        **{"ch": c.channels, "ch_mult": list(c.multipliers), "num_res_blocks": c.res_blocks, "dropout": 0.0},
        "attn_resolutions": list(c.attn_resolutions),
    }
    params = {"embed_dim": c.code_width, "n_embed": c.codes, "monitor": "val/rec_loss", "lossconfig": {"target": "x"}}
    return {"model": {"target": CLASS[c.codes_by], "params": params | {"ddconfig": parts | changes}}}


def write(directory, c, state=None, **changes):
    """A directory as taming-transformers trains them: what PyTorch Lightning adds, and the loss's networks."""
    (directory / "checkpoints").mkdir(parents=True)
    (directory / "configs").mkdir()
    state = random_state(c) if state is None else state
    extra = {"loss.perceptual_loss.lin0.model.1.weight": torch.zeros(1, 4, 1, 1)}
    extra["loss.discriminator.main.3.num_batches_tracked"] = torch.tensor(7)
    contents = {"epoch": 3, "state_dict": state | extra, "optimizer_states": [{"state": {0: torch.zeros(2)}}]}
    with pytest.MonkeyPatch.context() as patch:  # Lightning's first versions key their state by the class itself
        name = "pytorch_lightning.callbacks.model_checkpoint"
        for end in (17, 27, None):
            patch.setitem(sys.modules, name[:end], types.ModuleType(name[:end]))
        sys.modules[name].ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": name})
        contents["callbacks"] = {sys.modules[name].ModelCheckpoint: {"best_model_path": "x"}}
        torch.save(contents, directory / "checkpoints" / "last.ckpt")
    (directory / "configs" / "model.yaml").write_text(yaml.safe_dump(settings(c, **changes)))
    return directory


def gathered(source, name="auto", resolution=0):
    parent = families.read(source, name, resolution)
    return parent, whole(rules.leaves(parent.table, parent.weights, checkpoint.shapes(parent.config), str(source)))


def command(*args):
    """Run the command as a shell does; give its exit code."""
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(SystemExit):
        patch.setattr(sys, "argv", ["convert", *map(str, args)])
        config.run(main)
        return 0
    return 1


def same(a, b):
    a, b = paths(a), paths(b)
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(np.asarray(a[path]), np.asarray(b[path]), err_msg=path)


@pytest.fixture(scope="module")
def pictures():
    return torch.tensor(np.random.default_rng(0).uniform(-1, 1, (100, 3, 8, 8)), dtype=torch.float32)


def nhwc(x):
    return np.ascontiguousarray(x.permute(0, 2, 3, 1).numpy())


encode = jax.jit(vqgan.encode, static_argnums=0)


@pytest.mark.parametrize(
    "kind", [kind if kind == "gumbel" else pytest.param(kind, marks=pytest.mark.long) for kind in KINDS]
)
def test_tamings_checkpoints_give_the_same_latents_codes_and_pictures(kind, pictures, tmp_path):
    c, state = KINDS[kind], random_state(KINDS[kind])
    parent, params = gathered(write(tmp_path / "run", c, state))
    assert parent.config == c
    reference = Reference(state, c)
    z = reference.latents(pictures)
    found = jax.jit(vqgan.latents, static_argnums=0)(c, params, nhwc(pictures))
    np.testing.assert_allclose(found, nhwc(z), rtol=0, atol=2e-5)
    codes = encode(c, params, nhwc(pictures))
    np.testing.assert_array_equal(codes, reference.codes(z))
    assert len(np.unique(codes)) > 5
    nearest = codebook.nearest(params["codebook"], found).reshape(codes.shape)
    assert (np.asarray(codes == nearest).mean() < 0.5) == (kind == "gumbel")

    book = state["quantize.embed.weight" if kind == "gumbel" else "quantize.embedding.weight"]
    entries = book[torch.tensor(np.array(codes[:20], np.int64))].reshape(20, 4, 4, -1).permute(0, 3, 1, 2)
    drawn = jax.jit(vqgan.pixels, static_argnums=0)(c, params, nhwc(entries))
    np.testing.assert_allclose(drawn, nhwc(reference.pictures(entries)), rtol=0, atol=2e-5)
    clipped = jax.jit(vqgan.decode, static_argnums=0)(c, params, codes[:20])
    np.testing.assert_allclose(clipped, np.clip(drawn, -1, 1), rtol=0, atol=2e-5)


@pytest.fixture(scope="module")
def chameleon(tmp_path_factory):
    """A tiny Chameleon as transformers saves it, and the same with the decoder that transformers leaves out."""
    c, root = SMALL, tmp_path_factory.mktemp("chameleon")
    vq = ChameleonVQVAEConfig(
        **{"resolution": c.resolution, "base_channels": c.channels, "channel_multiplier": list(c.multipliers)},
        **{"num_res_blocks": c.res_blocks, "attn_resolutions": list(c.attn_resolutions), "embed_dim": c.code_width},
        **{"latent_channels": c.z_channels, "num_embeddings": c.codes},
    )
    words = {
        "<image>": 8,
        **{f"IMGIMG{a}{b}Z": 10 + 10 * i + j for i, a in enumerate("ABCD") for j, b in enumerate("ABCDEFGHIJ")},
    }
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    theirs = ChameleonForConditionalGeneration(
        ChameleonConfig(**sizes, num_attention_heads=2, num_key_value_heads=2, vq_config=vq, vocabulary_map=words)
    )
    theirs.model.vqmodel.load_state_dict({k: v for k, v in random_state(c).items() if not k.startswith("decoder.")})
    theirs.save_pretrained(root / "encoder_only")
    theirs.save_pretrained(root / "whole")
    file = root / "whole" / "model.safetensors"
    decoder = {f"model.vqmodel.{k}": v for k, v in random_state(c).items() if k.startswith("decoder.")}
    save_file(load_file(file) | decoder, file, {"format": "pt"})
    theirs.model.vqmodel.save_pretrained(root / "vqvae")
    return root


def test_chameleons_codes_are_those_of_transformers_on_a_hundred_pictures(chameleon, pictures, capsys, tmp_path):
    theirs = ChameleonVQVAE.from_pretrained(chameleon / "vqvae").eval()
    with torch.no_grad():
        expected = theirs.encode(pictures).image_tokens.reshape(100, 16)
    args = ("import", "--source", chameleon / "whole", "--target", tmp_path / "ours", "--family", "vqgan")
    assert command(*args) == 0
    assert "left out, being no part of the tokenizer: 16 tensors of the language model" in capsys.readouterr().out
    c, params = checkpoint.load_model(tmp_path / "ours")
    assert c == SMALL
    codes = encode(c, params, nhwc(pictures))
    np.testing.assert_array_equal(codes, expected)
    assert len(np.unique(codes)) > 5
    # The same weights in Meta's layout: its two files.
    (tmp_path / "meta").mkdir()
    torch.save({"state_dict": random_state(SMALL)}, tmp_path / "meta" / "vqgan.ckpt")
    (tmp_path / "meta" / "vqgan.yaml").write_text(yaml.safe_dump(settings(SMALL)))
    same(gathered(tmp_path / "meta")[1], params)


def test_chameleon_without_its_decoder_is_refused(chameleon):
    for source in (chameleon / "encoder_only", chameleon / "vqvae"):
        with pytest.raises(ValueError, match=r"without its decoder.*Meta's vqgan\.ckpt") as caught:
            families.read(source, "vqgan")
        assert "\n" not in str(caught.value)


def test_the_published_sizes_are_understood(tmp_path):
    found = vqgan_settings.read_chameleon({"model_type": "chameleon", "vq_config": {}}, tmp_path)
    assert found == VqganConfig(512, 128, (1, 1, 2, 2, 4), 2, (), 32, 256, 8192, 256) and found.grid**2 == 1024
    published = dataclasses.replace(VqganConfig(), codes_by="logits")  # vqgan_gumbel_f8_8192
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(settings(published)))
    assert vqgan_settings.read_yaml(tmp_path / "model.yaml") == published
    table = family.table(published)
    names = rules.entries(table)
    assert rules.expected_shape(table, names["quantize.proj.weight"].rule) == (8192, 256, 1, 1)
    assert {n for n in names if ".attn." in n and n.endswith(".q.weight")} == {
        *(f"encoder.down.3.attn.{j}.q.weight" for j in range(2)),
        *(f"decoder.up.3.attn.{j}.q.weight" for j in range(3)),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_import_export_import_is_the_same_to_the_bit(kind, tmp_path):
    state = random_state(KINDS[kind])
    _, params = gathered(write(tmp_path / "run", KINDS[kind], state))
    weights = rules.Exported(family.table(KINDS[kind]), leaves(params))
    writers.write_taming(tmp_path / "out", family.write_config(KINDS[kind]), weights)
    parent, again = gathered(tmp_path / "out")
    assert parent.config == KINDS[kind]
    same(params, again)
    out = torch.load(tmp_path / "out" / "vqgan.ckpt", weights_only=True)["state_dict"]
    assert out.keys() == state.keys() and all(torch.equal(out[k], state[k]) for k in state)


@pytest.mark.parametrize("kind", KINDS)
def test_without_settings_the_tensors_and_a_resolution_say_all(kind, tmp_path):
    source = write(tmp_path / "run", KINDS[kind])
    (source / "configs" / "model.yaml").unlink()
    with pytest.raises(ValueError, match="give --resolution"):
        families.read(source)
    assert families.read(source, resolution=8).config == KINDS[kind]
    save_file(random_state(KINDS[kind]), tmp_path / "bare.safetensors")
    parent, params = gathered(tmp_path / "bare.safetensors", resolution=8)
    assert parent.config == KINDS[kind]
    book = random_state(KINDS[kind])[vqgan_settings.codebook_name(KINDS[kind].codes_by)]
    np.testing.assert_array_equal(params["codebook"], book)


def test_all_that_does_not_fit_is_said_at_once_and_nothing_is_written(tmp_path, capsys):
    state = random_state(SMALL)
    state["surprise"] = state.pop("encoder.mid.attn_1.q.bias")
    state["encoder.down.1.block.0.nin_shortcut.weight"] = torch.zeros(96, 32, 3, 3)
    state["quantize.embedding.weight"] = torch.zeros(40, 10, dtype=torch.int64)
    source = write(tmp_path / "run", SMALL, state)
    assert command("import", "--source", source, "--target", tmp_path / "ours") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and not (tmp_path / "ours").exists()
    for part in (
        "missing: encoder.mid.attn_1.q.bias",
        "left over: surprise",
        "nin_shortcut.weight is [96, 32, 3, 3], not [96, 32, 1, 1]",
        "quantize.embedding.weight (int64)",
    ):
        assert part in error
    assert "loss." not in error


def test_the_losss_networks_are_counted_out_loud(tmp_path, capsys):
    assert command("import", "--source", write(tmp_path / "run", SMALL), "--target", tmp_path / "ours") == 0
    printed = capsys.readouterr().out
    assert "left out, being no part of the tokenizer: 2 tensors of the training loss" in printed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"double_z": True}, "double_z=True is not supported, only False"),
        ({"attn_type": "none"}, "attn_type='none'"),
        ({"resamp_with_conv": False}, "resamp_with_conv=False"),
        ({"tanh_out": True}, "tanh_out=True"),
        ({"in_channels": 182}, "in_channels=182"),
        ({"num_heads": 4}, "num_heads=4 may change"),
        ({"ch_mult": [1, 0]}, r"ch_mult should be a list of positive whole numbers, got \(1, 0\)"),
        ({"ch_mult": 4}, "ch_mult should be a list"),
        ({"ch": "wide"}, "ch should be a positive whole number, got 'wide'"),
        ({"ch": 48}, "must divide by groups=32"),
        ({"resolution": 9}, "resolution 9 does not divide"),
        ({"attn_resolutions": []}, r"left over: encoder\.down\.0\.attn"),
        ({"attn_resolutions": [8, 4]}, r"missing: decoder\.up\.1\.attn\.0"),
        ({"num_res_blocks": 1}, r"left over: encoder\.down\.0\.block\.1"),
    ],
)
def test_settings_that_we_do_not_compute_are_named_in_one_line(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        gathered(write(tmp_path / "run", SMALL, **changes))
    assert "\n" not in str(caught.value)


def test_damaged_and_foreign_sources_are_one_line(tmp_path):
    source = write(tmp_path / "run", SMALL)
    yaml_file = source / "configs" / "model.yaml"
    for text, message in (("{", "is damaged"), ("model: 3", "no settings of a VQGAN"), ("[", "is damaged")):
        yaml_file.write_text(text)
        with pytest.raises(ValueError, match=message) as caught:
            families.read(source)
        assert "\n" not in str(caught.value)
    yaml_file.write_text(json.dumps(settings(SMALL)).replace("VQModel", "EMAVQ"))
    with pytest.raises(ValueError, match="class EMAVQ cannot be imported, only VQModel"):
        families.read(source)
    yaml_file.write_text(yaml.safe_dump(settings(SMALL)))
    with pytest.raises(ValueError, match="pictures of 8 by its settings, not 32"):
        families.read(source, resolution=32)
    with pytest.raises(ValueError, match="give --source one"):
        torch.save({"state_dict": random_state(SMALL)}, source / "checkpoints" / "other.ckpt")
        families.read(source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no image tokenizer"):
        families.read(tmp_path / "empty", "vqgan")
    with pytest.raises(ValueError, match="known here"):
        families.read(tmp_path / "empty")


def test_a_language_model_has_no_resolution(tmp_path, capsys):
    source = Path(__file__).parent / "golden" / "checkpoints" / "a_mp2"
    assert command("import", "--source", source, "--target", tmp_path / "ours", "--resolution", 8) == 1
    assert "--resolution is for image tokenizers" in capsys.readouterr().err


def test_what_the_others_cannot_read_has_no_export():
    with pytest.raises(ValueError, match="groups=4"):
        family.write_config(dataclasses.replace(SMALL, groups=4))
    with pytest.raises(ValueError, match="language model"):
        family.write_config(DecoderConfig(13, 2, 12, 2, 6, 20, 10))


def test_a_converted_tokenizer_is_assembled_used_and_exported_by_the_commands(tmp_path, capsys):
    c, state = GUMBEL, random_state(GUMBEL)
    source = write(tmp_path / "run", c, state)
    assert command("import", "--source", source, "--target", tmp_path / "ours", "--tokenizer", tmp_path) == 1
    assert "are for language models" in capsys.readouterr().err
    assert command("import", "--source", source, "--target", tmp_path / "ours") == 0
    train_text_tokenizer(["a cat on a mat", "the dog in the sun"] * 20, tmp_path / "text.model", 270)
    parts = ["--text", str(tmp_path / "text.model"), "--image", str(tmp_path / "ours"), "--sentinels", "3"]
    data_main(["assemble", *parts, "--target", str(tmp_path / "tok")])
    tokenizer = open_tokenizer(tmp_path / "tok")
    assert tokenizer.space.codes_per_image == 16 and len(tokenizer.space.image_ids) == 40
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    images = ImageTokenizer(tmp_path / "tok" / "image", tokenizer.space)
    codes = images.encode(pixels)
    reference = Reference(state, c)
    z = reference.latents(torch.tensor(pixels).permute(0, 3, 1, 2) / 127.5 - 1)
    np.testing.assert_array_equal(codes, reference.codes(z))
    assert images.decode(codes).shape == (3, 8, 8, 3)
    assert command("export", "--source", tmp_path / "ours", "--target", tmp_path / "out", "--family", "vqgan") == 0
    out = torch.load(tmp_path / "out" / "vqgan.ckpt", weights_only=True)["state_dict"]
    assert out.keys() == state.keys() and all(torch.equal(out[k], state[k]) for k in state)
