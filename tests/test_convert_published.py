"""The config.json of published models is understood, or refused with a line that names the attribute.

The dicts hold the numbers and switches of the published files. Those of Lumina-mGPT, Anole, Liquid and SimpleAR are put
together from their configuration classes and the code that saved them.
"""

import dataclasses
import json

import pytest

from jam_jax.convert import families
from jam_jax.model_config import RopeScaling
from jam_jax.models import model

COMMON = {"attention_bias": False, "attention_dropout": 0.0, "initializer_range": 0.02, "torch_dtype": "bfloat16"}
COMMON |= {"use_cache": True, "rope_scaling": None, "transformers_version": "4.43.0"}
LLAMA_2_7B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "_name_or_path": "meta-llama/Llama-2-7b-hf",
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096, "hidden_act": "silu",
    "rms_norm_eps": 1e-05, "rope_scaling": None, "pretraining_tp": 1, "tie_word_embeddings": False,
    "initializer_range": 0.02, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float16", "use_cache": True,
}  # fmt: skip
TINYLLAMA = LLAMA_2_7B | {
    "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_key_value_heads": 4,
    "max_position_embeddings": 2048, "rope_theta": 10000.0, "attention_bias": False,
}  # fmt: skip
LLAMA3 = {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192}
LLAMA_3_2_1B = COMMON | {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256, "hidden_size": 2048,
    "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 64, "max_position_embeddings": 131072, "hidden_act": "silu", "mlp_bias": False, "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0, "rope_scaling": LLAMA3 | {"rope_type": "llama3"}, "tie_word_embeddings": True,
    "pretraining_tp": 1, "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009],
}  # fmt: skip
QWEN_2_5 = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896,
    "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
    "max_position_embeddings": 32768, "hidden_act": "silu", "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "tie_word_embeddings": True, "sliding_window": 32768, "use_sliding_window": False, "max_window_layers": 24,
    "use_mrope": False, "attention_dropout": 0.0, "initializer_range": 0.02, "bos_token_id": 151643,
    "eos_token_id": 151643, "torch_dtype": "bfloat16", "use_cache": True,
}  # fmt: skip
# 64,000 codes behind the tokenizer's 151,665 tokens and seven new ones; its training writes what it read of LLaVA's.
SIMPLEAR = QWEN_2_5 | {
    "architectures": ["SimpARForCausalLM"], "vocab_size": 215672, "use_pos_skipping": False, "pos_skipping_range": 4096,
    "mm_spatial_pool_mode": "bilinear",
}  # fmt: skip
GEMMA_7B = COMMON | {
    "architectures": ["GemmaForCausalLM"], "model_type": "gemma", "vocab_size": 256000, "hidden_size": 3072,
    "intermediate_size": 24576, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 16,
    "head_dim": 256, "max_position_embeddings": 8192, "hidden_act": "gelu", "hidden_activation": None,
    "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
LIQUID = GEMMA_7B | {"vocab_size": 264192, "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"}
EMU3_GEN = {
    "architectures": ["Emu3ForCausalLM"], "model_type": "Emu3", "attention_dropout": 0.1,
    "auto_map": {"AutoConfig": "configuration_emu3.Emu3Config"}, "vocab_size": 184622, "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "max_position_embeddings": 9216, "hidden_act": "silu", "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
    "rope_scaling": None, "pretraining_tp": 1, "tie_word_embeddings": False, "initializer_range": 0.02,
    "image_area": 518400, "bos_token_id": 151849, "eos_token_id": 151850, "pad_token_id": 151643,
    "img_token_id": 151851, "boi_token_id": 151852, "eoi_token_id": 151853, "eol_token_id": 151846,
    "eof_token_id": 151847, "torch_dtype": "float32", "use_cache": True, "attn_implementation": "flash_attention_2",
}  # fmt: skip
EMU3_CHAT = EMU3_GEN | {"max_position_embeddings": 131072}
CHAMELEON_7B = COMMON | {
    "architectures": ["ChameleonForConditionalGeneration"], "model_type": "chameleon", "vocab_size": 65536,
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "max_position_embeddings": 4096, "hidden_act": "silu", "mlp_bias": False,
    "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "swin_norm": False, "model_parallel_size": 1,
    "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    "vocabulary_map": {"<image>": 8711, "IMGIMGAZ": 4}, "vq_config": {"model_type": "chameleon_vqgan"},
}  # fmt: skip
ANOLE_HF = CHAMELEON_7B | {"boi_token_id": 8197, "eoi_token_id": 8196, "qk_layernorm": True}
LUMINA = CHAMELEON_7B | {
    "architectures": ["ChameleonXLLMXForConditionalGeneration"], "max_position_embeddings": 10240, "dropout": 0.05,
    "mask_image_logits": False, "z_loss_weight": 1e-05, "vocabulary_map": None,
}  # fmt: skip
CHAMELEON_30B = CHAMELEON_7B | {
    "hidden_size": 8192, "intermediate_size": 22016, "num_hidden_layers": 48, "num_attention_heads": 64,
    "num_key_value_heads": 8, "model_parallel_size": 4,
}  # fmt: skip
OPT_125M = {
    "architectures": ["OPTForCausalLM"], "model_type": "opt", "vocab_size": 50272, "hidden_size": 768, "ffn_dim": 3072,
    "num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": 2048, "word_embed_proj_dim": 768,
    "activation_function": "relu", "do_layer_norm_before": True, "dropout": 0.1, "attention_dropout": 0.0,
    "activation_dropout": 0.0, "layerdrop": 0.0, "init_std": 0.02, "_remove_final_layer_norm": False,
    "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1, "prefix": "</s>", "torch_dtype": "float16",
    "use_cache": True,
}  # fmt: skip

# Model → its family, its file, and its parameters (those of the decoder alone) in billions, as published.
UNDERSTOOD = {
    "Llama-2-7b": ("llama", LLAMA_2_7B, 6.738),
    "TinyLlama-1.1B": ("llama", TINYLLAMA, 1.100),
    "Llama-3.2-1B": ("llama", LLAMA_3_2_1B, 1.236),
    "Llama-3.2-1B, of a mirror": ("llama", LLAMA_3_2_1B | {"unsloth_fixed": True, "pad_token_id": 128004}, 1.236),
    "Qwen2.5-0.5B": ("qwen2", QWEN_2_5, 0.494),
    "SimpleAR-0.5B": ("qwen2", SIMPLEAR, None),
    "gemma-7b": ("gemma", GEMMA_7B, 8.538),
    "Liquid_V1_7B": ("gemma", LIQUID, 8.563),
    "Emu3-Gen": ("emu3", EMU3_GEN, 8.492),
    "Emu3-Chat": ("emu3", EMU3_CHAT, 8.492),
    "Chameleon-7b": ("chameleon", CHAMELEON_7B, None),
    "Anole-7b-v0.1-hf": ("lumina", ANOLE_HF, None),
    "Lumina-mGPT-7B-512": ("lumina", LUMINA, None),
    "Chameleon-30b": ("chameleon", CHAMELEON_30B, None),
    "opt-125m": ("opt", OPT_125M, 0.125),
}


def write(directory, values):
    (directory / "config.json").write_text(json.dumps(values))
    return directory


def config_of(family, values, path):
    return families.writer("chameleon" if family == "lumina" else family).read_config(values, path)


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_a_published_config_is_understood_by_itself_and_by_its_familys_name(name, tmp_path):
    family, values, billions = UNDERSTOOD[name]
    config = config_of(family, values, tmp_path / "config.json")
    assert config.max_positions == values["max_position_embeddings"] and config.vocab_size == values["vocab_size"]
    if billions:
        assert round(model.count(config) / 1e9, 3) == billions
    # With no weights beside it, that is all that can still be missed.
    for asked in ("auto", family):
        with pytest.raises(ValueError, match="holds no weights"):
            families.read(write(tmp_path, values), asked)


def test_what_the_published_configs_mean():
    def of(name):
        family, values, _ = UNDERSTOOD[name]
        return config_of(family, values, name)

    assert of("Llama-3.2-1B").rope_scaling == RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)
    assert of("Llama-2-7b").rope_scaling == RopeScaling() and of("Llama-2-7b").bias == "none"
    assert of("SimpleAR-0.5B") == dataclasses.replace(of("Qwen2.5-0.5B"), vocab_size=151665 + 7 + 64000)
    assert of("Qwen2.5-0.5B").bias == "qkv" and of("Qwen2.5-0.5B").tied
    assert of("Liquid_V1_7B") == dataclasses.replace(of("gemma-7b"), vocab_size=256000 + 8192)
    assert of("gemma-7b").embed_scale == 3072**0.5 and of("gemma-7b").head_size == 256 and of("gemma-7b").tied
    assert of("Emu3-Chat") == dataclasses.replace(of("Emu3-Gen"), max_positions=131072)
    assert of("Emu3-Gen").rope_base == 1e6 and of("Emu3-Gen").kv_heads == 8
    assert of("Lumina-mGPT-7B-512") == dataclasses.replace(of("Chameleon-7b"), max_positions=10240)
    assert of("Anole-7b-v0.1-hf") == of("Chameleon-7b") and of("Chameleon-7b").qk_norm == "layernorm"
    assert of("opt-125m").bias == "all" and of("opt-125m").norm == "layernorm"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (LLAMA_3_2_1B | {"quantization_config": {"quant_method": "fp8"}}, "quantization_config="),
        (LLAMA_3_2_1B | {"rope_scaling": {"factor": 4.0, "rope_type": "yarn"}}, "rope_scaling=.*yarn"),
        (QWEN_2_5 | {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling=.*yarn"),
        (QWEN_2_5 | {"dual_chunk_attention_config": {"chunk_size": 262144}}, "dual_chunk_attention_config="),
        (QWEN_2_5 | {"model_type": "qwen2_moe", "num_experts": 60}, "model_type 'qwen2_moe'"),
        (QWEN_2_5 | {"use_sliding_window": True}, "use_sliding_window=True"),
        (GEMMA_7B | {"model_type": "gemma2", "final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        (LLAMA_2_7B | {"model_type": "mistral", "sliding_window": 4096}, "model_type 'mistral'"),
        (LLAMA_2_7B | {"sliding_window": 4096}, "sliding_window=4096"),
        (CHAMELEON_30B | {"swin_norm": True}, "swin_norm=True"),
        (OPT_125M | {"hidden_size": 1024, "word_embed_proj_dim": 512, "do_layer_norm_before": False}, "OPT-350M"),
        (EMU3_GEN | {"action_config": {"hidden_size": 1024}}, "action_config="),
    ],
)
def test_a_relative_that_is_another_computation_is_refused_by_the_attribute(values, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        families.read(write(tmp_path, values))
    assert "\n" not in str(caught.value)
