"""Llama, Qwen2, Gemma and Emu3: the same logits in and out, bit-equal round trips, the rest refused by name."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from parents import close, edited, exported, gathered, our_logits, randomised, same_bits, their_logits
from safetensors.torch import load_file, save_file
from transformers import (
    Emu3Config,
    Emu3ForCausalLM,
    Emu3ForConditionalGeneration,
    Emu3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from jam_jax.convert import families
from jam_jax.model_config import CrossConfig, DecoderConfig, RopeScaling, VqganConfig
from jam_jax.models import model
from jam_jax.tokens import jam

SMALL = {
    "vocab_size": 13,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 10,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
# Factors that matter within ten tokens: of the wavelengths of a head of 10 one is kept, one blended, three divided.
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5}
CLASSES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "gemma": (GemmaConfig, GemmaForCausalLM),
    "emu3": (Emu3TextConfig, Emu3ForCausalLM),
}
KINDS = {
    "llama": ("llama", {"head_dim": 10, "rms_norm_eps": 1e-3}),
    "llama tied, long waves": ("llama", {"head_dim": 2, "tie_word_embeddings": True, "rope_theta": 5e5}),
    "llama, a key for every query": ("llama", {"num_attention_heads": 6, "num_key_value_heads": 6}),
    "qwen2": ("qwen2", {"num_attention_heads": 6}),
    "qwen2 tied": ("qwen2", {"num_key_value_heads": 1, "num_attention_heads": 3, "tie_word_embeddings": True}),
    "gemma": ("gemma", {"head_dim": 8, "num_key_value_heads": 1}),
    "gemma untied": ("gemma", {"num_attention_heads": 5, "head_dim": 6, "tie_word_embeddings": False}
                     | {"num_key_value_heads": 5}),
    "emu3": ("emu3", {"num_attention_heads": 6, "num_key_value_heads": 3}),
    "emu3 tied": ("emu3", {"num_attention_heads": 2, "tie_word_embeddings": True}),
    "llama 3.1": ("llama", {"head_dim": 10, "rope_parameters": LLAMA3}),
    "llama with every bias, positions divided": ("llama", {"head_dim": 10, "attention_bias": True, "mlp_bias": True}
                                                 | {"rope_parameters": LINEAR}),
    "llama with attention biases": ("llama", {"head_dim": 4, "attention_bias": True}),
    "llama with feed-forward biases": ("llama", {"head_dim": 4, "mlp_bias": True}),
    "gemma with attention biases": ("gemma", {"head_dim": 4, "attention_bias": True}),
}  # fmt: skip


def theirs_of(kind):
    family, changes = KINDS[kind]
    settings, decoder = CLASSES[family]
    return randomised(decoder(settings(**SMALL | changes)))


@pytest.fixture
def llama(tmp_path):
    theirs_of("llama").save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


@pytest.mark.parametrize("kind", KINDS)
def test_imported_and_exported_models_give_the_same_logits_and_the_same_bits(kind, tmp_path):
    family = KINDS[kind][0]
    theirs = theirs_of(kind)
    theirs.save_pretrained(tmp_path / "in")
    config, params = gathered(tmp_path / "in")
    ours = our_logits(config, params)
    close(ours, their_logits(theirs))
    assert np.abs(ours).max() > 0.1

    exported(family, config, params, tmp_path / "out")
    again = CLASSES[family][1].from_pretrained(tmp_path / "out").eval()
    close(their_logits(again), ours)
    wanted = theirs.state_dict()
    assert again.state_dict().keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in again.state_dict().items())

    config_back, back = gathered(tmp_path / "out")
    assert config_back == config
    same_bits(back, params)


@pytest.mark.parametrize("kind", ["llama 3.1", "llama with every bias, positions divided"])
def test_stretched_positions_matter_at_this_length(kind, tmp_path):
    theirs = theirs_of(kind)
    theirs.save_pretrained(tmp_path)
    config, params = gathered(tmp_path)
    plain = our_logits(dataclasses.replace(config, rope_scaling=RopeScaling()), params)
    assert np.abs(plain - their_logits(theirs)).max() > 1e-2


@pytest.mark.parametrize("family", CLASSES)
def test_pickled_weights_and_settings_as_older_files_have_them(family, tmp_path):
    """pytorch_model.bin with rotary frequencies in it, and rope_theta beside the sizes."""
    theirs = theirs_of(family)
    theirs.config.save_pretrained(tmp_path)
    base = theirs.config.rope_parameters["rope_theta"]
    edited(tmp_path, {"rope_parameters": ..., "rope_theta": base, "rope_scaling": None})
    extra = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(2) for i in range(3)}
    torch.save(theirs.state_dict() | extra, tmp_path / "pytorch_model.bin")
    config, params = gathered(tmp_path)
    assert config.rope_base == base
    close(our_logits(config, params), their_logits(theirs))


def test_a_decoder_saved_without_its_head(tmp_path):
    theirs = theirs_of("llama tied, long waves")
    theirs.model.save_pretrained(tmp_path)
    assert "embed_tokens.weight" in load_file(tmp_path / "model.safetensors")
    close(our_logits(*gathered(tmp_path)), their_logits(theirs))


def test_emu3_inside_the_larger_model_and_in_its_makers_own_files(tmp_path):
    names = {"<image>": 3, "<|extra_200|>": 4} | {f"<|visual token {i:06d}|>": 5 + i for i in range(4)}
    tokenizer = {"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "attn_resolutions": []}
    tokenizer |= {"codebook_size": 4, "hidden_size": 32}
    sizes = SMALL | {"num_attention_heads": 6}
    settings = Emu3Config(text_config=sizes, vq_config=tokenizer, vocabulary_map=names)
    theirs = randomised(Emu3ForConditionalGeneration(settings))
    wanted = their_logits(theirs)
    theirs.save_pretrained(tmp_path / "whole")
    config, params = gathered(tmp_path / "whole")
    close(our_logits(config, params), wanted)

    # The names that the model has in memory, and that some files have.
    (tmp_path / "renamed").mkdir()
    save_file(theirs.state_dict(), tmp_path / "renamed" / "model.safetensors", {"format": "pt"})
    theirs.config.save_pretrained(tmp_path / "renamed")
    same_bits(gathered(tmp_path / "renamed")[1], params)

    own = {k: v for k, v in sizes.items() if not k.endswith("token_id")} | {
        **{"model_type": "Emu3", "architectures": ["Emu3ForCausalLM"], "auto_map": {"AutoConfig": "x"}},
        **{"hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 1e6, "rope_scaling": None, "pretraining_tp": 1},
        **{"img_token_id": 3, "boi_token_id": 4, "eoi_token_id": 5, "eol_token_id": 6, "eof_token_id": 7},
        **{"image_area": 518400, "attention_dropout": 0.1, "tie_word_embeddings": False},
    }
    exported("emu3", config, params, tmp_path / "own")
    (tmp_path / "own" / "config.json").write_text(json.dumps(own))
    config_own, params_own = gathered(tmp_path / "own")
    assert config_own == config
    same_bits(params_own, params)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "contradicts itself: rope_parameters=.*linear"),
        ({"rope_parameters": LLAMA3 | {"factor": None}}, "rope_parameters=.*'llama3' with factor, low_freq_factor"),
        ({"rope_parameters": LLAMA3 | {"beta_fast": 32}}, "rope_parameters=.*beta_fast"),
        ({"rope_parameters": LLAMA3 | {"low_freq_factor": 4.0}}, "rope_parameters=.*0 < low < high"),
        ({"rope_parameters": LINEAR | {"factor": "2"}}, "factor should be a positive number, got '2'"),
        ({"rope_parameters": LINEAR | {"factor": 0}}, "factor should be a positive number, got 0"),
        ({"rope_parameters": LINEAR | {"type": "dynamic"}}, "rope_parameters=.*dynamic.*in one way"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_parameters=.*yarn"),
        ({"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0]}}, "rope_parameters=.*longrope"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_parameters=.*dynamic"),
        ({"rope_parameters": {"rope_type": ["linear"], "factor": 2.0}}, "rope_parameters=.*'linear'.* not supported"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor.*0.5"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "rope_parameters=.*full_attention"),
        ({"rope_parameters": "no"}, "rope_parameters should be an object of attributes, got 'no'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ({"rope_theta": 5e5}, "contradicts itself: rope_theta=500000.0, rope_parameters.rope_theta=10000.0"),
        ({"rope_parameters": ..., "rope_theta": "big"}, "rope_theta should be a positive number, got 'big'"),
        ({"sliding_window": 4096}, "sliding_window=4096"),
        ({"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}, "attn_.*=50.0, final_.*=30.0"),
        ({"attention_bias": 1}, "attention_bias should be true or false, got 1"),
        ({"mlp_bias": True}, r"missing: .*mlp\.gate_proj\.bias"),
        ({"vocab_size": 14}, r"vocab_size=14 and model\.embed_tokens\.weight has 13 rows: .* set vocab_size to 13"),
        ({"num_hidden_layers": 10**9}, "1000000000 layers by these, and 30 tensors in all"),
        ({"hidden_size": 2**31}, "hidden_size should be a positive whole number, got 2147483648"),
        ({"layer_types": 3}, "layer_types=3"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported, only 'silu'"),
        ({"layer_types": ["sliding_attention"]}, "layer_types=.*sliding"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rms_norm_eps": None}, "rms_norm_eps should be a positive number, got None"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings should be true or false"),
        ({"num_key_value_heads": 3}, "num_attention_heads=4 .* num_key_value_heads=3"),
        ({"num_attention_heads": 5, "head_dim": ...}, "hidden_size .* num_attention_heads"),
        ({"head_dim": 7}, "head_dim should be even"),
        ({"intermediate_size": None}, "intermediate_size should be"),
        ({"model_type": "gemma2"}, "attn_logit_softcapping.*query_pre_attn_scalar.*sliding_window"),
        ({"model_type": "mistral"}, "known here .model_type 'mistral'."),
        (
            {"num_hidden_layers": 4, "intermediate_size": 21, "tie_word_embeddings": True},
            r"missing: model\.layers\.3.*; mis-shaped: .*mlp\.gate_proj\.weight is \[20, 12\], not \[21, 12\]",
        ),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(llama, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        gathered(edited(llama, changes))
    assert "\n" not in str(caught.value)


def test_missing_left_over_and_mis_shaped_come_together(llama):
    stored = load_file(llama / "model.safetensors")
    stored["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(40)
    stored["model.norm.weight"] = torch.zeros(11)
    del stored["model.layers.2.mlp.up_proj.weight"]
    save_file(stored, llama / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"missing: .*up_proj.*; left over: .*q_proj\.bias; mis-shaped: model\.norm"):
        gathered(llama)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window=True"),
        ("qwen2", {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}, "layer_types"),
        ("gemma", {"hidden_activation": "gelu"}, "hidden_activation='gelu'"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        ("gemma", {"mlp_bias": True}, "mlp_bias=True may change"),
        ("qwen2", {"use_pos_skipping": True}, "use_pos_skipping=True"),
        ("emu3", {"text_config": []}, "text_config should be an object"),
        (
            "emu3",
            {"tie_word_embeddings": True, "text_config": {"tie_word_embeddings": False}},
            "contradicts itself: tie_word_embeddings",
        ),
    ],
)
def test_what_a_family_adds_is_refused_by_name(kind, changes, message, tmp_path):
    theirs_of(kind).config.save_pretrained(tmp_path)
    if "text_config" in changes:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "emu3"}))
    with pytest.raises(ValueError, match=message):
        families.read(edited(tmp_path, changes))


def test_attributes_that_are_off_or_of_training_do_not_matter(tmp_path):
    """What published files of these families hold beside the sizes."""
    theirs_of("qwen2").save_pretrained(tmp_path)
    edited(tmp_path, {"sliding_window": 32768, "max_window_layers": 21, "use_mrope": False, "layer_types": ...})
    assert gathered(tmp_path)[0].bias == "qkv"
    theirs_of("gemma").save_pretrained(tmp_path)
    edited(
        tmp_path, {"hidden_act": "gelu", "hidden_activation": None, "tie_word_embeddings": ..., "rope_scaling": None}
    )
    assert gathered(tmp_path)[0].tied
    theirs_of("llama").save_pretrained(tmp_path)
    edited(tmp_path, {"pretraining_tp": 2, "attention_dropout": 0.1, "_attn_implementation_autoset": True})
    assert gathered(tmp_path, "llama")[0].layers == 3


def test_a_family_that_was_asked_for_and_is_not_there_is_named(llama):
    with pytest.raises(ValueError, match="is no Qwen2: its model_type is 'llama'"):
        gathered(llama, "qwen2")


OURS = {
    "llama": DecoderConfig(13, 2, 12, 2, 6, 20, 10, norm="rmsnorm", positions="rope", ffn="silu_gated"),
    "gemma": DecoderConfig(13, 2, 12, 2, 8, 20, 10, norm="rmsnorm_plus_one", positions="rope", ffn="gelu_gated",
                           embed_scale=12**0.5),
}  # fmt: skip
OURS |= {"emu3": OURS["llama"], "qwen2": dataclasses.replace(OURS["llama"], bias="qkv")}
OURS |= {"chameleon": dataclasses.replace(OURS["llama"], qk_norm="layernorm")}


@pytest.mark.parametrize("family", OURS)
@pytest.mark.parametrize(
    "changes",
    [
        {"norm": "layernorm"},
        {"positions": "learned"},
        {"ffn": "relu"},
        {"bias": "ffn"},
        {"qk_norm": "rmsnorm"},
        {"embed_scale": 2.0},
    ],
)
def test_a_decoder_that_a_family_cannot_be_is_refused_by_the_field(family, changes):
    if "bias" in changes and family not in ("gemma", "qwen2"):  # these have a switch for it
        changes = {"bias": "qkv"}
    layout = families.writer(family)
    layout.write_config(OURS[family], None)
    with pytest.raises(ValueError, match=f"no such decoder: {next(iter(changes))}="):
        layout.write_config(dataclasses.replace(OURS[family], **changes), None)


def test_sizes_that_a_family_does_not_have_and_models_that_none_has():
    with pytest.raises(ValueError, match="Llama has no such decoder: width=13"):
        families.writer("llama").write_config(dataclasses.replace(OURS["llama"], width=13), None)
    with pytest.raises(ValueError, match="Chameleon has no such decoder: norm_eps=1e-06"):
        families.writer("chameleon").write_config(dataclasses.replace(OURS["chameleon"], norm_eps=1e-6), None)
    with pytest.raises(ValueError, match="Chameleon has no such decoder: head_size=8"):
        families.writer("chameleon").write_config(dataclasses.replace(OURS["chameleon"], head_size=8), None)
    with pytest.raises(ValueError, match="no other system can run it"):
        families.writer("llama").write_config(CrossConfig(OURS["llama"], OURS["llama"]), None)
    with pytest.raises(ValueError, match="Gemma has no place"):
        families.writer("gemma").write_config(VqganConfig(), None)


def test_special_ids_come_from_the_token_space():
    space = jam(text=8, codes=4, codes_per_image=4, sentinels=3)
    written = families.writer("llama").write_config(dataclasses.replace(OURS["llama"], vocab_size=17), space)
    assert (written["bos_token_id"], written["eos_token_id"], written["pad_token_id"]) == (2, 2, 1)


@pytest.mark.parametrize(
    ("family", "sizes", "parameters"),
    [
        ("llama", {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 128256}
         | {"num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192}, 8_030_261_248),
        ("qwen2", {"num_hidden_layers": 24, "hidden_size": 896, "intermediate_size": 4864, "vocab_size": 151936}
         | {"num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True}, 494_032_768),
        ("gemma", {}, 8_537_680_896),
    ],
)  # fmt: skip
def test_published_models_have_the_published_number_of_parameters(family, sizes, parameters, tmp_path):
    CLASSES[family][0](**sizes).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    config = families.writer(family).read_config(values, tmp_path / "config.json")
    assert model.count(config) == parameters
