"""Chameleon in Hugging Face's layout and in Meta's: the same logits in and out, and every tensor accounted for."""

import numpy as np
import pytest
import torch
from parents import TOKENS, close, edited, exported, gathered, meta, our_logits, randomised, same_bits
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


def stored_norms(theirs, directory, groups, change):
    """Save `theirs` with one norm for each of so many groups of heads, stored as `change` makes it of [groups, H]."""
    norms = {k: v for k, v in theirs.state_dict().items() if ".q_norm." in k or ".k_norm." in k}
    few = {k: v[:: len(v) // groups].contiguous() for k, v in norms.items()}
    wide = {k: v.repeat_interleave(len(norms[k]) // groups, 0) for k, v in few.items()}
    theirs.load_state_dict(wide, strict=False)
    theirs.save_pretrained(directory)
    stored = load_file(directory / "model.safetensors")
    save_file(
        stored | {k: change(v).contiguous() for k, v in few.items()}, directory / "model.safetensors", {"format": "pt"}
    )


@pytest.mark.parametrize(
    ("groups", "change"),
    [(1, lambda v: v), (1, lambda v: v[0]), (2, lambda v: v), (4, lambda v: v)],
    ids=["1H", "H", "GH", "NH"],
)
def test_a_norm_for_some_heads_is_the_same_as_one_for_each(groups, change, tmp_path):
    """As Lumina-mGPT (one for each device of the training, 1 or 4) and drafts of transformers store them."""
    theirs = chameleon(num_key_value_heads=4)
    stored_norms(theirs, tmp_path, groups, change)
    config, params = gathered(tmp_path)
    close(our_logits(config, params), their_logits(theirs))
    assert params["layers"]["attn"]["q_norm"]["scale"].shape == (3, 4, 6)


def test_one_norm_for_all_heads_that_may_be_of_either_order_of_rows_is_refused(tmp_path):
    stored_norms(chameleon(num_key_value_heads=4), tmp_path, 1, lambda v: v[0])
    with pytest.raises(ValueError, match="qk_layernorm=True with one norm for all heads"):
        gathered(edited(tmp_path, {"qk_layernorm": True}))


def test_norms_for_groups_that_do_not_divide_the_heads_are_mis_shaped(tmp_path):
    stored_norms(chameleon(num_key_value_heads=4), tmp_path, 4, lambda v: v[:3])
    with pytest.raises(ValueError, match=r"mis-shaped: .*q_norm\.weight is \[3, 6\], not \[4, 6\]"):
        gathered(tmp_path)


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
        ({"attention_bias": "yes"}, "attention_bias should be true or false, got 'yes'"),
        ({"head_dim": 8}, "head_dim=8"),
        ({"num_attention_heads": 8}, "head_dim should be even"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(changes, message, tmp_path):
    ChameleonConfig(**SMALL, vocabulary_map=NAMES).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        families.read(edited(tmp_path, changes))


def test_lumina_mgpt_and_anole_are_chameleons_decoder(tmp_path):
    chameleon().save_pretrained(tmp_path)
    config = gathered(tmp_path, "lumina")[0]
    edited(tmp_path, {"z_loss_weight": 1e-5, "dropout": 0.05, "mask_image_logits": False, "model_parallel_size": 4})
    edited(tmp_path, {"architectures": ["ChameleonXLLMXForConditionalGeneration"]})
    assert gathered(tmp_path)[0] == gathered(tmp_path, "lumina")[0] == config


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
        for n, heads in (("q", 4), ("k", 2)):  # each device norms its own heads
            norms = (w[f"attention.{n}_normalization.{x}"] for x in ("weight", "bias"))
            scale, bias = (norm.repeat_interleave(heads // len(norm), 0) for norm in norms)
            normed = torch.nn.functional.layer_norm(q if n == "q" else k, (6,)) * scale + bias
            q, k = (rotate(normed), k) if n == "q" else (q, rotate(normed))
        k, v = (a.repeat_interleave(2, dim=2) for a in (k, v))
        y = torch.nn.functional.scaled_dot_product_attention(*(a.transpose(1, 2) for a in (q, k, v)), is_causal=True)
        x = x + y.transpose(1, 2).flatten(-2) @ w["attention.wo.weight"].T
        h = rms(x, w["ffn_norm.weight"])
        gate = torch.nn.functional.silu(h @ w["feed_forward.w1.weight"].T)
        x = x + (gate * (h @ w["feed_forward.w3.weight"].T)) @ w["feed_forward.w2.weight"].T
    return (rms(x, weights["norm.weight"]) @ weights["output.weight"].T).numpy()


@pytest.mark.parametrize("parts", [1, 2])
def test_metas_own_layout_computes_what_meta_computes_and_leaves_as_hugging_faces(parts, tmp_path):
    weights = meta(tmp_path / "in", parts)
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


def test_a_download_of_everything_and_a_file_that_names_nothing_for_the_frequencies(tmp_path):
    """Anole: models/7b beside tokenizer/, and `rope.freqs` is None in what its code converts."""
    meta(tmp_path / "anole" / "models" / "7b")
    (tmp_path / "anole" / "tokenizer").mkdir()
    path = tmp_path / "anole" / "models" / "7b" / "consolidated.pth"
    torch.save(torch.load(path) | {"rope.freqs": None}, path)
    config, params = gathered(tmp_path / "anole")
    config_inner, params_inner = gathered(path.parent, "lumina")
    assert config_inner == config
    same_bits(params_inner, params)


def change_part(directory, name, change):
    path = directory / "consolidated.01.pth"
    part = torch.load(path)
    torch.save(part | {name: change(part[name])}, path)


def test_norms_of_parts_that_drifted_apart_are_averaged_and_other_models_found_out(tmp_path):
    weights = meta(tmp_path / "in", 2)
    norm = weights["layers.1.ffn_norm.weight"]
    change_part(tmp_path / "in", "layers.1.ffn_norm.weight", lambda part: part + 0.01)
    _, params = gathered(tmp_path / "in")
    np.testing.assert_allclose(params["layers"]["ffn_norm"]["scale"][1], norm + 0.005, rtol=1e-6)
    change_part(tmp_path / "in", "layers.1.ffn_norm.weight", lambda part: part + 1)
    with pytest.raises(ValueError, match=r"layers\.1\.ffn_norm\.weight should be the same in all model parts"):
        gathered(tmp_path / "in")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("layers.0.attention.wq.weight", lambda v: v[:-1], r"mis-shaped: layers\.0\.attention\.wq"),
        ("layers.0.attention.wq.weight", lambda v: v[:, 1:], "wq.weight: the model parts' shapes cannot be joined"),
        ("layers.0.attention_norm.weight", lambda v: v[1:], "should have one shape in all model parts"),
        ("layers.0.attention.q_normalization.bias", lambda v: v[1:], "should have one shape in all model parts"),
    ],
)
def test_a_part_of_another_shape_is_named_in_one_line(name, change, message, tmp_path):
    meta(tmp_path / "in", 2)
    change_part(tmp_path / "in", name, change)
    with pytest.raises(ValueError, match=message) as caught:
        gathered(tmp_path / "in")
    assert "\n" not in str(caught.value)


def test_parts_that_are_not_all_there_are_refused(tmp_path):
    meta(tmp_path / "in", 2)
    (tmp_path / "in" / "consolidated.01.pth").rename(tmp_path / "in" / "consolidated.02.pth")
    with pytest.raises(
        ValueError, match=r"holds consolidated\.00\.pth, consolidated\.02\.pth, .*model_parallel_size=2"
    ):
        gathered(tmp_path / "in")
    (tmp_path / "in" / "consolidated.02.pth").unlink()
    with pytest.raises(
        ValueError, match=r"holds consolidated\.00\.pth, and its settings say model_parallel_size=2: copy"
    ):
        gathered(tmp_path / "in")
    (tmp_path / "in" / "consolidated.00.pth").unlink()
    with pytest.raises(ValueError, match=r"holds no consolidated\.pth"):
        gathered(tmp_path / "in")


def test_another_number_of_rows_than_the_settings_say_is_one_line(tmp_path):
    meta(tmp_path / "in", vocab_size=13)
    with pytest.raises(ValueError, match=r"vocab_size=13 and tok_embeddings\.weight has 14 rows"):
        gathered(tmp_path / "in")
