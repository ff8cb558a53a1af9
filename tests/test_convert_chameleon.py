"""Chameleon in Hugging Face's layout and in Meta's: the same logits in and out, and every tensor accounted for."""

import json

import numpy as np
import pytest
import torch
from parents import TOKENS, close, edited, exported, gathered, our_logits, randomised, same_bits
from safetensors.torch import load_file, save_file
from test_convert_main import command
from transformers import ChameleonConfig, ChameleonForConditionalGeneration

from jam_jax.convert import families

SMALL = {
    "vocab_size": 13,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 10,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
# A tokenizer of pictures that is small, and as many names of codes as it has.
PICTURES = {"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "embed_dim": 4, "latent_channels": 4}
PICTURES |= {"num_embeddings": 4, "resolution": 16}
NAMES = {"<image>": 3} | {f"IMGIMG{letter}Z": 4 + i for i, letter in enumerate("ABCD")}


def chameleon(**changes):
    settings = ChameleonConfig(**SMALL | {"vq_config": PICTURES, "vocabulary_map": NAMES} | changes)
    return randomised(ChameleonForConditionalGeneration(settings))


def their_logits(theirs):
    """Without the ban on image tokens that transformers adds to the decoder's output."""
    with torch.no_grad():
        return theirs.lm_head(theirs.model(torch.tensor(TOKENS)).last_hidden_state).numpy()


@pytest.mark.parametrize(
    "changes",
    [{}, {"num_key_value_heads": 4, "rope_theta": 5e4}, {"num_attention_heads": 6, "tie_word_embeddings": True}],
)
def test_imported_and_exported_models_give_the_same_logits_and_the_same_bits(changes, tmp_path):
    theirs = chameleon(**changes)
    theirs.save_pretrained(tmp_path / "in")
    config, params = gathered(tmp_path / "in")
    ours = our_logits(config, params)
    close(ours, their_logits(theirs))
    assert np.abs(ours).max() > 0.1

    exported("chameleon", config, params, tmp_path / "out", vq_config=PICTURES)
    again = ChameleonForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    close(their_logits(again), ours)
    # An export names no image tokens, which transformers would forbid.
    with torch.no_grad():
        close(again(torch.arange(13)[None]).logits.min(), again.lm_head(again.model(torch.arange(13)[None])[0]).min())
    wanted = {k: v for k, v in theirs.state_dict().items() if "vqmodel" not in k}
    assert all(torch.equal(again.state_dict()[k], v) for k, v in wanted.items())

    config_back, back = gathered(tmp_path / "out")
    assert config_back == config
    same_bits(back, params)


def test_pickled_weights(tmp_path):
    theirs = chameleon()
    theirs.config.save_pretrained(tmp_path)
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    close(our_logits(*gathered(tmp_path)), their_logits(theirs))


def test_one_norm_for_all_heads_is_the_same_as_one_for_each(tmp_path):
    theirs = chameleon()
    heads = {k: v for k, v in theirs.state_dict().items() if ".q_norm." in k or ".k_norm." in k}
    theirs.load_state_dict({k: v[:1].expand(v.shape) for k, v in heads.items()}, strict=False)
    theirs.save_pretrained(tmp_path)
    config, params = gathered(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    save_file(stored | {k: stored[k][:1].contiguous() for k in heads}, tmp_path / "model.safetensors", {"format": "pt"})
    config_one, params_one = gathered(tmp_path)
    assert config_one == config
    same_bits(params_one, params)


def test_the_image_tokenizers_tensors_are_told_apart_and_nothing_else_is(tmp_path, capsys):
    chameleon().save_pretrained(tmp_path / "in")
    assert command("import", "--source", tmp_path / "in", "--target", tmp_path / "ours") == 0
    said = capsys.readouterr().out
    stored = load_file(tmp_path / "in" / "model.safetensors")
    count = sum(name.startswith("model.vqmodel.") for name in stored)
    assert f"{count} tensors such as model.vqmodel." in said
    assert command("export", "--source", tmp_path / "ours", "--target", tmp_path / "out", "--family", "chameleon") == 0
    assert command("import", "--source", tmp_path / "out", "--target", tmp_path / "back") == 0

    save_file(stored | {"model.other.weight": torch.ones(1)}, tmp_path / "in" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"left over: model\.other\.weight$"):
        gathered(tmp_path / "in")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"swin_norm": True}, "swin_norm=True"),
        ({"rms_norm_eps": 1e-6}, "rms_norm_eps=1e-06 is not Chameleon's 1e-05"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"head_dim": 8}, "head_dim=8"),
        ({"num_attention_heads": 8}, "head_dim should be even"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(changes, message, tmp_path):
    ChameleonConfig(**SMALL, vocabulary_map=NAMES).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        families.read(edited(tmp_path, changes))


def test_what_lumina_mgpt_adds_does_not_matter(tmp_path):
    chameleon().save_pretrained(tmp_path)
    edited(tmp_path, {"z_loss_weight": 1e-5, "dropout": 0.05, "mask_image_logits": False, "model_parallel_size": 4})
    assert gathered(tmp_path)[0].qk_norm == "layernorm"


PARAMS = {"dim": 24, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 13, "ffn_dim_multiplier": 1.0}
PARAMS |= {"multiple_of": 10, "norm_eps": 1e-5, "qk_normalization": True, "swin_norm": False, "rope_theta": 10000.0}
FFN = 70  # 8/3 of 24, up to the next multiple of 10


def meta(directory, **changes):
    """A random checkpoint as Meta's loader reads it."""
    rng = torch.Generator().manual_seed(0)
    shapes = {"tok_embeddings": (13, 24), "norm": (24,), "output": (13, 24)}
    for i in range(2):
        block = {"wq": (24, 24), "wk": (12, 24), "wv": (12, 24), "wo": (24, 24)}
        shapes |= {f"layers.{i}.attention.{k}": v for k, v in block.items()}
        shapes |= {f"layers.{i}.attention.{x}_normalization": (6,) for x in "qk"}
        shapes |= {f"layers.{i}.feed_forward.w{n}": (24, FFN) if n == 2 else (FFN, 24) for n in (1, 2, 3)}
        shapes |= {f"layers.{i}.{x}_norm": (24,) for x in ("attention", "ffn")}
    weights = {f"{k}.weight": torch.randn(v, generator=rng) * 0.3 + ("norm" in k) for k, v in shapes.items()}
    weights |= {f"{k}.bias": torch.randn(6, generator=rng) for k in shapes if "normalization" in k}
    directory.mkdir()
    torch.save(weights | {"rope.freqs": torch.ones(3)}, directory / "consolidated.pth")
    (directory / "params.json").write_text(json.dumps({"run": "x", "model": PARAMS | changes}))
    (directory / "consolidate_params.json").write_text(json.dumps({"model_parallel_size": 1}))
    return weights


def as_meta_computes(weights, tokens):
    """The forward pass of Meta's `transformer.py`, written down plainly: rotations of neighbouring pairs."""

    def rms(x, scale):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * scale

    def rotate(x):
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], 3, 2))
        angles = torch.arange(x.shape[1])[:, None] * 1e4 ** (-torch.arange(3) / 3)
        return torch.view_as_real(pairs * torch.polar(torch.ones(3), angles)[:, None]).flatten(-2)

    x = weights["tok_embeddings.weight"][tokens]
    batch, length = tokens.shape
    for i in range(2):
        w = {k.removeprefix(f"layers.{i}."): v for k, v in weights.items() if k.startswith(f"layers.{i}.")}
        h = rms(x, w["attention_norm.weight"])
        q, k, v = ((h @ w[f"attention.w{n}.weight"].T).view(batch, length, -1, 6) for n in "qkv")
        norms = {n: (w[f"attention.{n}_normalization.weight"], w[f"attention.{n}_normalization.bias"]) for n in "qk"}
        q, k = (rotate(torch.nn.functional.layer_norm(a, (6,), *norms[n])) for a, n in ((q, "q"), (k, "k")))
        k, v = (a.repeat_interleave(2, dim=2) for a in (k, v))
        y = torch.nn.functional.scaled_dot_product_attention(*(a.transpose(1, 2) for a in (q, k, v)), is_causal=True)
        x = x + y.transpose(1, 2).flatten(-2) @ w["attention.wo.weight"].T
        h = rms(x, w["ffn_norm.weight"])
        gate = torch.nn.functional.silu(h @ w["feed_forward.w1.weight"].T)
        x = x + (gate * (h @ w["feed_forward.w3.weight"].T)) @ w["feed_forward.w2.weight"].T
    return (rms(x, weights["norm.weight"]) @ weights["output.weight"].T).numpy()


def test_metas_own_layout_computes_what_meta_computes_and_leaves_as_hugging_faces(tmp_path):
    weights = meta(tmp_path / "in")
    config, params = gathered(tmp_path / "in")
    ours = our_logits(config, params)
    close(ours, as_meta_computes(weights, torch.tensor(TOKENS)))
    exported("chameleon", config, params, tmp_path / "out", vq_config=PICTURES)
    close(their_logits(ChameleonForConditionalGeneration.from_pretrained(tmp_path / "out").eval()), ours)
    config_back, back = gathered(tmp_path / "out")
    assert config_back == config
    same_bits(back, params)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"swin_norm": True}, "swin_norm=True"),
        ({"norm_eps": 1e-6}, "norm_eps=1e-06"),
        ({"qk_normalization": False}, "qk_normalization=False"),
        ({"qk_normalization": None}, "qk_normalization is missing"),
        ({"n_heads": 5}, "n_heads=5"),
        ({"dim": 0}, "dim should be a positive whole number"),
        ({"n_layers": 3, "multiple_of": 9}, r"missing: layers\.2.*mis-shaped: layers\.0\.feed_forward\.w1"),
    ],
)
def test_what_metas_settings_do_not_fit_is_named_in_one_line(changes, message, tmp_path):
    meta(tmp_path / "in", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        gathered(tmp_path / "in")
    assert "\n" not in str(caught.value)


def test_parts_of_metas_larger_model_are_refused(tmp_path):
    meta(tmp_path / "in")
    (tmp_path / "in" / "consolidated.pth").rename(tmp_path / "in" / "consolidated.00.pth")
    assert gathered(tmp_path / "in", "chameleon")[0].layers == 2
    (tmp_path / "in" / "consolidated.01.pth").write_bytes(b"")
    with pytest.raises(ValueError, match="holds 2 consolidated"):
        gathered(tmp_path / "in")
