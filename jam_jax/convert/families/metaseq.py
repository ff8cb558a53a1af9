"""metaseq's checkpoints ↔ ours: OPT, CM3leon's architecture, and JAM-Cross of the original implementation.

In the original's JAM-Cross (arXiv 2309.15564, section 2.2.3) the image tower is called `cm3`; both towers read one
token table and the image tower's position table.
"""

import re
from pathlib import Path
from typing import Any

from jam_jax.config import CrossConfig, DecoderConfig, ModelConfig
from jam_jax.convert import parts
from jam_jax.convert.families import hugging_face, opt
from jam_jax.convert.readers import Weights, refuse_odd_names, shown
from jam_jax.convert.rules import Parent, Rule, Table, nested
from jam_jax.models.model import computes_the_same

# Fused rows are keys, values, queries.
FUSED = (("self_attn.qkv_proj.weight", "(NH)D -> DNH", "attn/k attn/v attn/q"),)
FUSED_BIAS = (("self_attn.qkv_proj.bias", "(NH) -> NH", "attn/k_bias attn/v_bias attn/q_bias"),)

SIZES = ("decoder_embed_dim", "decoder_ffn_embed_dim", "decoder_attention_heads", "decoder_layers")
# What changes the computation, and the only values that we compute. An attribute that is absent has this value.
ONLY: dict[str, tuple[Any, ...]] = {
    "decoder_learned_pos": (True,),
    "decoder_learned_sinusoidal": (False,),
    "decoder_normalize_before": (True,),
    "no_decoder_final_norm": (False,),
    "no_token_positional_embeddings": (False,),
    "layernorm_embedding": (False,),
    "adaptive_input": (False,),
    "add_bos_token": (False,),
    "alibi": (False,),
    "use_alibi": (False,),
    "use_rope": (False,),
    "rotary": (False,),
    "use_ffn_ln": (False,),
    "use_head_scale": (False,),
    "scale_attn": (False,),
    "scale_fc": (False,),
    "scale_heads": (False,),
    "scale_resids": (False,),
    "moe_freq": (0,),
    "cross_self_attention": (False,),
    "quant_noise_pq": (0, 0.0),
    "activation_fn": ("relu", "gelu"),
}
SWITCHES = {  # read below, with the values if they are absent
    "disable_affine_ln": False,
    "disable_bias": False,
    "share_decoder_input_output_embed": True,
    "no_scale_embedding": True,
}
DECODER_TRAINING = ("decoder_layerdrop", "decoder_layers_to_keep")
OUTPUT = "decoder.output_projection.weight"
ARCHITECTURES: dict[type, str] = {
    DecoderConfig: "transformer_lm_megatron",
    CrossConfig: "transformer_lm_megatron_joint",
}


def recognises(source: Path) -> bool:
    """Whether `source` is a metaseq checkpoint, whole or in pieces."""
    return parts.is_metaseq(source)


def read(source: Path) -> Parent:
    """The model that a directory, or one of its `.pt` files, holds: a DecoderConfig, or a CrossConfig for JAM-Cross.

    ValueError if the settings ask for what we do not compute (named), or if files are missing or damaged.
    """
    settings, weights = parts.open_parts(source)
    return understand(settings, weights, str(source))


def understand(settings: dict[str, Any], weights: Weights, what: str) -> Parent:
    """Config and rules for metaseq's settings (`cfg["model"]`, plain) and the names that the file holds."""
    names = set(weights.names())
    cross = any(name.startswith("decoder.layers_llm.") for name in names)
    decoder = _decoder(settings, weights, "decoder.embed_positions_cm3.weight" if cross else None, what)
    if not cross:
        return Parent(decoder, _table(decoder, names), weights)
    config = CrossConfig(llm=decoder, img=decoder, every=_every(decoder, names, what))
    return Parent(config, _cross_table(config, names), weights)


def _decoder(settings: dict[str, Any], weights: Weights, positions: str | None, what: str) -> DecoderConfig:
    refuse_odd_names(settings, what)
    width, ffn, heads, layers = hugging_face.numbers(settings, SIZES, what)
    hugging_face.refuse_others(settings, ONLY, what)
    on = {name: hugging_face.switch(settings, name, default, what) for name, default in SWITCHES.items()}
    for name in ("decoder_input_dim", "decoder_output_dim"):
        if settings.get(name) not in (None, width):
            raise ValueError(
                f"{what}: {name}={shown(settings[name])} with a width of {width} (OPT-350M) is not supported"
            )
    known = {*SIZES, *ONLY, *DECODER_TRAINING, "decoder_input_dim", "decoder_output_dim"}
    if odd := [f"{k}={shown(v)}" for k, v in settings.items() if k.startswith("decoder_") and v and k not in known]:
        raise ValueError(f"{what}: {', '.join(odd)[:300]} may change what the model computes and is not supported")
    if width % heads:
        raise ValueError(f"{what}: decoder_embed_dim ({width}) does not divide by decoder_attention_heads ({heads})")
    fc1 = next((weights.shape(n)[0] for n in weights.names() if n.endswith(".fc1.weight") and weights.shape(n)), ffn)
    if 0 < fc1 < ffn and ffn % fc1 == 0:
        raise ValueError(f"{what} holds 1/{ffn // fc1} of every matrix: model-parallel parts of it are missing")
    # The settings do not say how many rows the tables have.
    rows = {}
    for name in ("decoder.embed_tokens.weight", positions or "decoder.embed_positions.weight"):
        if name not in weights.names() or len(weights.shape(name)) != 2:
            raise ValueError(f"{what} is no language model of metaseq: it has no table {name}")
        rows[name] = weights.shape(name)[0]
    vocab, places = rows.values()
    if places < 3:
        raise ValueError(f"{what}: a table of {places} positions holds none, the first two belonging to the padding")
    return DecoderConfig(
        vocab_size=vocab,
        layers=layers,
        width=width,
        heads=heads,
        head_size=width // heads,
        ffn_width=ffn,
        max_positions=places - 2,
        norm="layernorm_plain" if on["disable_affine_ln"] else "layernorm",
        ffn=settings.get("activation_fn") or "relu",
        bias="none" if on["disable_bias"] else "all",
        tied=on["share_decoder_input_output_embed"],
        embed_scale=1.0 if on["no_scale_embedding"] else width**0.5,
    )


def _every(decoder: DecoderConfig, names: set[str], what: str) -> int:
    """Self layers per cross block. The original has layers // 2 blocks a direction, so it fails for odd depths."""
    stacks = ("layers_cm3", "layers_llm", "x_attn_layers_cm3", "x_attn_layers_llm")
    counts = {s: len({m[1] for n in names if (m := re.match(rf"decoder\.{s}\.(\d+)\.", n))}) for s in stacks}
    img, llm, cross, back = counts.values()
    if img == llm == decoder.layers and cross == back:
        if not cross:
            return 0
        if decoder.layers % cross == 0:
            return decoder.layers // cross
    raise ValueError(
        f"{what}: expected {decoder.layers} layers in both towers and cross blocks in both directions whose number "
        f"divides it (one after every second layer is {decoder.layers / 2:g}), got "
        + ", ".join(f"{count} {stack}" for stack, count in counts.items())
    )


def write_settings(config: ModelConfig) -> dict[str, Any]:
    """metaseq's settings of a model (`cfg["model"]`) for one of ours; ValueError lists what metaseq does not have."""
    if isinstance(config, CrossConfig):
        _refuse_cross(config)
    c = config.img if isinstance(config, CrossConfig) else hugging_face.decoder_of(config, "metaseq")
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
        "embed_scale": (1.0, c.width**0.5),
    }
    hugging_face.refuse_fields(c, needs, "metaseq")
    return {
        "arch": ARCHITECTURES[type(config)],
        "_name": ARCHITECTURES[type(config)],
        "decoder_layers": c.layers,
        "decoder_embed_dim": c.width,
        "decoder_input_dim": c.width,
        "decoder_output_dim": c.width,
        "decoder_attention_heads": c.heads,
        "decoder_ffn_embed_dim": c.ffn_width,
        "decoder_normalize_before": True,
        "decoder_learned_pos": True,
        "decoder_learned_sinusoidal": False,
        "add_bos_token": False,
        "activation_fn": c.ffn,
        "disable_bias": c.bias == "none",
        "disable_affine_ln": c.norm == "layernorm_plain",
        "share_decoder_input_output_embed": c.tied,
        "no_scale_embedding": c.embed_scale == 1.0,
        "tokens_per_sample": c.max_positions,
        "max_target_positions": None,  # those of a sample
        "model_parallel_size": 1,
        "dropout": 0.0,
        "attention_dropout": 0.0,
    }


def _refuse_cross(config: CrossConfig) -> None:
    """ValueError for a JAM-Cross that the original cannot build: it has one kind of block, half as many cross ones."""
    if not computes_the_same(config.llm, config.img):
        raise ValueError("metaseq has no such JAM-Cross: its towers are alike in every setting, and these are not")
    if config.every != 2 or config.img.layers % 2:
        raise ValueError(
            f"metaseq has no such JAM-Cross: cross blocks every={config.every} of {config.img.layers} layers (metaseq: "
            "every 2 of an even number)"
        )


def table(config: DecoderConfig | CrossConfig) -> Table:
    """The names of the weights in an export: keys, values and queries fused, as metaseq trains them."""
    return _cross_table(config, None) if isinstance(config, CrossConfig) else _table(config, None)


def _table(config: DecoderConfig, names: set[str] | None) -> Table:
    """The names, as `names` has them or, for None, as in an export."""
    rules = [
        Rule("decoder.embed_tokens.weight", "VD -> VD", "embed/tokens"),
        Rule("decoder.embed_positions.weight", "PD -> PD", "embed/positions"),
        *_block(config, "decoder.layers.{L}.", "layers/", names),
    ]
    return _finish(config, rules, opt.sizes(config))


def _cross_table(config: CrossConfig, names: set[str] | None) -> Table:
    rules = [
        Rule("decoder.embed_tokens.weight", "VD -> VD", "embed/tokens"),
        Rule("decoder.embed_positions_cm3.weight", "PD -> PD", "embed/positions"),
        Rule("decoder.feature_projection.weight", "DE -> ED", "project"),  # columns: image tower, then LLM tower
    ]
    for theirs, ours, tower in (("cm3", "img", config.img), ("llm", "llm", config.llm)):
        rules += _block(tower, f"decoder.layers_{theirs}.{{L}}.", f"{ours}/layers/", names)
        rules += _block(tower, f"decoder.x_attn_layers_{theirs}.{{X}}.", f"cross/{ours}/", names)
    extra = {"X": config.cross_blocks, "E": 2 * config.img.width}
    return _finish(config.img, rules, opt.sizes(config.img) | extra)


def _block(config: DecoderConfig, source: str, path: str, names: set[str] | None) -> list[Rule]:
    # The original has no fused projection where keys and queries come from different towers.
    fused = "x_attn" not in source if names is None else source.format(L=0, X=0) + FUSED[0][0] in names
    return opt.block(config, source, path, *((FUSED, FUSED_BIAS) if fused else (opt.SPLIT, opt.SPLIT_BIAS)))


def _finish(config: DecoderConfig, rules: list[Rule], sizes: dict[str, int]) -> Table:
    if config.norm == "layernorm":
        rules = [*rules, *nested("decoder.layer_norm.", "final_norm/", opt.NORM)]
    if config.tied:
        return Table(tuple(rules), sizes, {OUTPUT: "decoder.embed_tokens.weight"}, ("decoder.version",))
    return Table((*rules, Rule(OUTPUT, "VD -> VD", "unembed")), sizes, {}, ("decoder.version",))
