"""Hugging Face's OPT (arXiv 2205.01068) ↔ our decoder; without biases and norm weights it is CM3leon's architecture."""

from pathlib import Path
from typing import Any

from jam_jax.config import DecoderConfig, ModelConfig
from jam_jax.convert.families import hugging_face
from jam_jax.convert.readers import Weights, open_weights, shown
from jam_jax.convert.rules import Parent, Rule, Table, nested
from jam_jax.tokens import TokenSpace

# A block's names are metaseq's own, so `metaseq` uses these rows too.
SPLIT = (
    ("self_attn.q_proj.weight", "(NH)D -> DNH", "attn/q"),
    ("self_attn.k_proj.weight", "(KH)D -> DKH", "attn/k"),
    ("self_attn.v_proj.weight", "(KH)D -> DKH", "attn/v"),
)
SPLIT_BIAS = (
    ("self_attn.q_proj.bias", "(NH) -> NH", "attn/q_bias"),
    ("self_attn.k_proj.bias", "(KH) -> KH", "attn/k_bias"),
    ("self_attn.v_proj.bias", "(KH) -> KH", "attn/v_bias"),
)
BLOCK = (
    ("self_attn.out_proj.weight", "D(NH) -> NHD", "attn/o"),
    ("fc1.weight", "FD -> DF", "ffn/up"),
    ("fc2.weight", "DF -> FD", "ffn/down"),
)
BLOCK_BIAS = (
    ("self_attn.out_proj.bias", "D -> D", "attn/o_bias"),
    ("fc1.bias", "F -> F", "ffn/up_bias"),
    ("fc2.bias", "D -> D", "ffn/down_bias"),
)
NORM = (("weight", "D -> D", "scale"), ("bias", "D -> D", "bias"))

SIZES = (
    "vocab_size",
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "ffn_dim",
    "max_position_embeddings",
)
SWITCHES = {"enable_bias": True, "layer_norm_elementwise_affine": True, "tie_word_embeddings": True}  # and defaults
# What changes the computation, and the values that we compute.
ONLY: dict[str, tuple[Any, ...]] = {
    "_remove_final_layer_norm": (False,),
    "scale_embedding": (False,),
    "layer_norm_eps": (1e-5,),
    "activation_function": ("relu", "gelu"),
}
# Read by name below.
OTHER = ("do_layer_norm_before", "word_embed_proj_dim", "init_std")
TRAINING = ("dropout", "attention_dropout", "activation_dropout", "layerdrop")
HANDLED = (*SIZES, *SWITCHES, *ONLY, *OTHER, *TRAINING)


def recognises(source: Path) -> bool:
    """Whether `source` is an OPT checkpoint of Hugging Face."""
    return hugging_face.is_family(source, "opt")


def read(source: Path) -> Parent:
    """The decoder that a checkpoint directory (or a weights file beside its config.json) holds.

    ValueError if the config asks for what our decoder does not compute (named), or if the weights are damaged.
    """
    path = hugging_face.config_path(source)
    config = read_config(hugging_face.read_config(source), path)
    weights = open_weights(source)
    found = table(config, weights)
    hugging_face.check_rows(config, weights, found, path)
    return Parent(config, found, weights)


def read_config(values: dict[str, Any], path: Path) -> DecoderConfig:
    """Our config from OPT's; `path` is for messages."""
    if values.get("model_type") != "opt":
        raise ValueError(f"{path} is no OPT: its model_type is {shown(values.get('model_type'))}")
    vocab, layers, width, heads, ffn, positions = hugging_face.numbers(values, SIZES, path)
    projected = values.get("word_embed_proj_dim") or width
    before = hugging_face.switch(values, "do_layer_norm_before", True, path)
    if projected != width or not before:
        raise ValueError(
            f"{path}: word_embed_proj_dim={shown(projected)} with hidden_size={width}, do_layer_norm_before={before}: "
            "a post-norm decoder with projected embeddings, as OPT-350M is, cannot be imported; the other sizes can"
        )
    hugging_face.refuse_others(values, ONLY, path)
    hugging_face.refuse_unknown(values, HANDLED, path)
    if width % heads:
        raise ValueError(f"{path}: hidden_size ({width}) does not divide by num_attention_heads ({heads})")
    switches = {name: hugging_face.switch(values, name, default, path) for name, default in SWITCHES.items()}
    return DecoderConfig(
        vocab_size=vocab,
        layers=layers,
        width=width,
        heads=heads,
        head_size=width // heads,
        ffn_width=ffn,
        max_positions=positions,
        norm="layernorm" if switches["layer_norm_elementwise_affine"] else "layernorm_plain",
        ffn=values.get("activation_function") or "relu",
        bias="all" if switches["enable_bias"] else "none",
        tied=switches["tie_word_embeddings"],
        init_std=hugging_face.positive({"init_std": 0.02} | values, "init_std", path),
    )


def write_config(config: ModelConfig, space: TokenSpace | None) -> dict[str, Any]:
    """OPT's config.json for one of ours; ValueError lists all that OPT does not have.

    `space` gives the special ids; without one they are OPT's own (pad 1, end of document 2).
    """
    c = hugging_face.decoder_of(config, "OPT")
    needs = {
        "norm": ("layernorm", "layernorm_plain"),
        "norm_eps": (1e-5,),
        "positions": ("learned",),
        "position_offset": (2,),
        "ffn": ("relu", "gelu"),
        "bias": ("none", "all"),
        "qk_norm": ("none",),
        "kv_heads": (c.heads,),
        "head_size": (c.width / c.heads,),
        "embed_scale": (1.0,),
    }
    hugging_face.refuse_fields(c, needs, "OPT")
    end, pad = (2, 1) if space is None else (space.end_of_document, space.pad)
    return {
        "architectures": ["OPTForCausalLM"],
        "model_type": "opt",
        "vocab_size": c.vocab_size,
        "num_hidden_layers": c.layers,
        "hidden_size": c.width,
        "word_embed_proj_dim": c.width,
        "num_attention_heads": c.heads,
        "ffn_dim": c.ffn_width,
        "max_position_embeddings": c.max_positions,
        "activation_function": c.ffn,
        "do_layer_norm_before": True,
        "enable_bias": c.bias == "all",
        "layer_norm_elementwise_affine": c.norm == "layernorm",
        "tie_word_embeddings": c.tied,
        "init_std": c.init_std,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "layerdrop": 0.0,
        # A document begins with the end-of-document token, as in OPT.
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": pad,
    }


def table(config: DecoderConfig, weights: Weights | None = None) -> Table:
    """The names of OPT's weights: as `OPTForCausalLM` stores them, or as `weights` does (OPTModel: no `model.`)."""
    bare = weights is not None and "decoder.embed_tokens.weight" in weights.names()
    decoder = "decoder." if bare else "model.decoder."
    rules = [
        Rule(decoder + "embed_tokens.weight", "VD -> VD", "embed/tokens"),
        Rule(decoder + "embed_positions.weight", "PD -> PD", "embed/positions"),
        *block(config, decoder + "layers.{L}.", "layers/", SPLIT, SPLIT_BIAS),
    ]
    if config.norm == "layernorm":
        rules += nested(decoder + "final_layer_norm.", "final_norm/", NORM)
    if not config.tied:
        rules.append(Rule("lm_head.weight", "VD -> VD", "unembed"))
    copies = {"lm_head.weight": decoder + "embed_tokens.weight"} if config.tied else {}
    return Table(tuple(rules), sizes(config), copies)


def sizes(config: DecoderConfig) -> dict[str, int]:
    """The letters' values."""
    c = config
    return {
        **{"V": c.vocab_size, "P": c.max_positions + c.position_offset, "L": c.layers, "D": c.width, "F": c.ffn_width},
        **{"N": c.heads, "K": c.key_value_heads, "H": c.head_size},
    }


Rows = tuple[tuple[str, str, str], ...]


def block(config: DecoderConfig, source: str, path: str, qkv: Rows, qkv_bias: Rows) -> list[Rule]:
    """Rules of one stack of blocks, with biases and norm weights where the config has them."""
    rules = [*nested(source, path, qkv + BLOCK)]
    if config.bias == "all":
        rules += nested(source, path, qkv_bias + BLOCK_BIAS)
    if config.norm == "layernorm":
        rules += nested(source + "self_attn_layer_norm.", path + "attn_norm/", NORM)
        rules += nested(source + "final_layer_norm.", path + "ffn_norm/", NORM)
    return rules
