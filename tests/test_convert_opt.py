"""Hugging Face's OPT: the same logits in and out, bit-equal round trips, and what we do not compute refused by name."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import OPTConfig, OPTForCausalLM

from jam_jax.config import CrossConfig, DecoderConfig, VqganConfig
from jam_jax.convert import families, rules, writers
from jam_jax.convert.__main__ import export_model, import_model
from jam_jax.convert.families import opt
from jam_jax.models import model
from jam_jax.trees import paths
from tests.tiny import leaves, whole

SMALL = {
    "vocab_size": 13,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "ffn_dim": 20,
    "max_position_embeddings": 10,
    "num_attention_heads": 2,
}
KINDS = {
    "cm3leon": {"enable_bias": False, "layer_norm_elementwise_affine": False},
    "opt": {},
    "norms only": {"enable_bias": False, "activation_function": "gelu"},
    "untied": {"layer_norm_elementwise_affine": False, "tie_word_embeddings": False},
}
TOKENS = np.random.default_rng(0).integers(3, 13, (2, 10))


def random_opt(**kind):
    """A model all of whose weights are drawn: biases and norms too, which start as 0 and 1."""
    torch.manual_seed(0)
    theirs = OPTForCausalLM(OPTConfig(**SMALL, **kind)).eval()
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            p.normal_(std=0.3).add_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return theirs


def gathered(source):
    parent = families.read(source)
    return parent.config, whole(rules.leaves(parent.table, parent.weights, model.shapes(parent.config), str(source)))


def export(config, params, target, **options):
    weights = rules.Exported(opt.table(config), leaves(params))
    writers.write_hugging_face(target, opt.write_config(config, None), weights, **options)


def our_logits(config, params):
    with jax.default_matmul_precision("highest"):
        return jax.jit(model.forward, static_argnums=0)(config, params, TOKENS)[0]


def their_logits(theirs):
    with torch.no_grad():
        return theirs(torch.tensor(TOKENS)).logits.numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_imported_and_exported_models_give_the_same_logits_and_the_same_bits(kind, tmp_path):
    theirs = random_opt(**KINDS[kind])
    theirs.save_pretrained(tmp_path / "in")
    config, params = gathered(tmp_path / "in")
    np.testing.assert_allclose(our_logits(config, params), their_logits(theirs), rtol=0, atol=2e-5)

    export(config, params, tmp_path / "out")
    again = OPTForCausalLM.from_pretrained(tmp_path / "out").eval()
    np.testing.assert_allclose(their_logits(again), our_logits(config, params), rtol=0, atol=2e-5)
    wanted = theirs.state_dict()
    assert again.state_dict().keys() == wanted.keys()
    for name, value in again.state_dict().items():
        assert torch.equal(value, wanted[name]), name

    config_back, back = gathered(tmp_path / "out")
    assert config_back == config
    for path, value in paths(back).items():
        np.testing.assert_array_equal(value, paths(params)[path], err_msg=path)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_imports_as_its_exact_values(kind, tmp_path):
    theirs = random_opt().to(kind)
    theirs.save_pretrained(tmp_path / "in")
    config, params = gathered(tmp_path / "in")
    np.testing.assert_allclose(our_logits(config, params), their_logits(theirs.float()), rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_an_export_has_the_type_that_came_in_and_says_it(kind, tmp_path):
    random_opt().to(kind).save_pretrained(tmp_path / "in")
    import_model(tmp_path / "in", tmp_path / "ours")
    export_model(tmp_path / "ours", tmp_path / "out", "opt")
    came, went = (load_file(tmp_path / name / "model.safetensors") for name in ("in", "out"))
    assert came.keys() == went.keys()
    for name, value in went.items():
        assert value.dtype == kind and torch.equal(value, came[name]), name
    # Whoever leaves the choice to config.json would else hold halves in twice the memory.
    assert OPTForCausalLM.from_pretrained(tmp_path / "out").dtype == kind


def test_pickled_weights_and_names_without_the_outer_model(tmp_path):
    """The first OPT checkpoints: pytorch_model.bin, saved from the bare decoder."""
    theirs = random_opt()
    theirs.config.save_pretrained(tmp_path)
    bare = {k.removeprefix("model."): v for k, v in theirs.state_dict().items() if k != "lm_head.weight"}
    torch.save(bare, tmp_path / "pytorch_model.bin")
    config, params = gathered(tmp_path)
    np.testing.assert_allclose(our_logits(config, params), their_logits(theirs), rtol=0, atol=2e-5)


def test_export_in_shards_loads_as_one(tmp_path):
    theirs = random_opt()
    theirs.save_pretrained(tmp_path / "in")
    config, params = gathered(tmp_path / "in")
    export(config, params, tmp_path / "out", shard_bytes=3000)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert len(files) > 2
    assert all(sum(t.nbytes for t in load_file(f).values()) <= 3000 for f in files)
    assert index["metadata"]["total_size"] == sum(t.nbytes for f in files for t in load_file(f).values())
    again = OPTForCausalLM.from_pretrained(tmp_path / "out")
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in again.state_dict().items())
    back = gathered(tmp_path / "out")[1]
    for path, value in paths(back).items():
        np.testing.assert_array_equal(value, paths(params)[path])


def write(directory, changes):
    random_opt().save_pretrained(directory)
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return directory


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_layer_norm_before": False}, "do_layer_norm_before=False.*OPT-350M"),
        ({"word_embed_proj_dim": 6}, "word_embed_proj_dim=6.*OPT-350M"),
        ({"_remove_final_layer_norm": True}, "_remove_final_layer_norm"),
        ({"activation_function": "silu"}, "activation_function='silu'"),
        ({"rope_scaling": {"factor": 2}}, "rope_scaling"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"num_attention_heads": 5}, "hidden_size .* num_attention_heads"),
        ({"ffn_dim": None}, "ffn_dim should be"),
        ({"vocab_size": 14}, r"vocab_size=14 and model\.decoder\.embed_tokens\.weight has 13 rows"),
        ({"enable_bias": "false"}, "enable_bias should be true or false, got 'false'"),
        ({"init_std": "x"}, "init_std should be a positive number, got 'x'"),
        ({"ffn_dim": 24}, r"mis-shaped: .*fc1\.weight is \[20, 12\], not \[24, 12\]"),
        ({"num_hidden_layers": 4}, r"missing: model\.decoder\.layers\.3"),
        ({"num_hidden_layers": 2}, r"left over: model\.decoder\.layers\.2"),
        ({"enable_bias": False}, r"left over: .*bias"),
        ({"model_type": "gpt2"}, "is no checkpoint that is known here"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        gathered(write(tmp_path, changes))
    assert "\n" not in str(caught.value)


def test_attributes_that_are_off_or_of_training_do_not_matter(tmp_path):
    changes = {
        "rope_scaling": None,
        "some_switch": False,
        "layerdrop": 0.1,
        "attention_dropout": 0.1,
        "use_cache": False,
    }
    assert gathered(write(tmp_path, changes))[0].layers == 3


def test_a_tied_head_that_was_stored_and_differs_is_refused(tmp_path):
    write(tmp_path, {})
    stored = load_file(tmp_path / "model.safetensors")
    head = stored["model.decoder.embed_tokens.weight"].clone()
    save_file(stored | {"lm_head.weight": head}, tmp_path / "model.safetensors", {"format": "pt"})
    gathered(tmp_path)
    save_file(stored | {"lm_head.weight": head + 1}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lm_head\.weight .* differs"):
        gathered(tmp_path)


def test_a_missing_or_damaged_config_is_named(tmp_path):
    write(tmp_path, {})
    for text in ("{", "[]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config\.json is damaged"):
            families.read(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"there is no .*config\.json"):
        families.read(tmp_path, "opt")


OURS = DecoderConfig(vocab_size=13, layers=2, width=12, heads=2, head_size=6, ffn_width=20, max_positions=10)


@pytest.mark.parametrize(
    "changes",
    [
        {"norm": "rmsnorm"},
        {"norm_eps": 1e-6},
        {"positions": "rope"},
        {"position_offset": 0},
        {"ffn": "silu_gated"},
        {"bias": "qkv"},
        {"qk_norm": "rmsnorm"},
        {"kv_heads": 1},
        {"head_size": 8},
        {"embed_scale": 2.0},
    ],
)
def test_a_decoder_that_opt_cannot_be_is_refused_by_the_field(changes):
    opt.write_config(OURS, None)
    with pytest.raises(ValueError, match=f"no such decoder: {next(iter(changes))}="):
        opt.write_config(dataclasses.replace(OURS, **changes), None)


def test_models_that_no_other_system_runs_are_refused():
    with pytest.raises(ValueError, match="no other system can run it"):
        opt.write_config(CrossConfig(OURS, OURS), None)
    with pytest.raises(ValueError, match="image tokenizer"):
        opt.write_config(VqganConfig(), None)


def test_an_export_that_fails_leaves_nothing(tmp_path):
    class Broken:
        def names(self):
            return ["a", "b"]

        def shape(self, _):
            return (2,)

        def dtype(self, _):
            return np.dtype(np.float32)

        def read(self, name):
            if name == "b":
                raise OSError("the disk went away")
            return np.zeros(2, np.float32)

    with pytest.raises(OSError, match="went away"):
        writers.write_hugging_face(tmp_path / "out", {}, Broken(), shard_bytes=8)
    assert list(Path(tmp_path).iterdir()) == []
