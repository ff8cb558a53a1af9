"""metaseq's checkpoints → ours: OPT, CM3leon's architecture, and JAM-Cross of the original implementation.

In the original's JAM-Cross (arXiv 2309.15564, section 2.2.3) the image tower is called `cm3`; both towers read one
token table and the image tower's position table.
"""

import re
from pathlib import Path
from typing import Any

from jam_jax.config import CrossConfig, DecoderConfig
from jam_jax.convert import parts
from jam_jax.convert.families import opt
from jam_jax.convert.readers import Weights
from jam_jax.convert.rules import Parent, Rule, Table, nested

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
DECODER_TRAINING = ("decoder_layerdrop", "decoder_layers_to_keep")
OUTPUT = "decoder.output_projection.weight"


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
    for name in SIZES:
        if type(settings.get(name)) is not int or settings[name] < 1:
            raise ValueError(f"{what}: {name} should be a positive whole number, got {settings.get(name)!r}")
    width, ffn, heads, layers = (settings[name] for name in SIZES)
    for name, allowed in ONLY.items():
        value = settings.get(name)
        if value is not None and value not in allowed:
            raise ValueError(f"{what}: {name}={value!r} is not supported, only {' and '.join(map(str, allowed))}")
    for name in ("decoder_input_dim", "decoder_output_dim"):
        if settings.get(name) not in (None, width):
            raise ValueError(f"{what}: {name}={settings[name]} with a width of {width} (OPT-350M) is not supported")
    known = {*SIZES, *ONLY, *DECODER_TRAINING, "decoder_input_dim", "decoder_output_dim"}
    if odd := [f"{k}={v!r}" for k, v in settings.items() if k.startswith("decoder_") and v and k not in known]:
        raise ValueError(f"{what}: {', '.join(odd)} may change what the model computes and is not supported")
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
    return DecoderConfig(
        vocab_size=vocab,
        layers=layers,
        width=width,
        heads=heads,
        head_size=width // heads,
        ffn_width=ffn,
        max_positions=places - 2,
        norm="layernorm_plain" if settings.get("disable_affine_ln") else "layernorm",
        ffn=settings.get("activation_fn") or "relu",
        bias="none" if settings.get("disable_bias") else "all",
        tied=bool(settings.get("share_decoder_input_output_embed", True)),
        embed_scale=1.0 if settings.get("no_scale_embedding", True) else width**0.5,
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


def _table(config: DecoderConfig, names: set[str]) -> Table:
    rules = [
        Rule("decoder.embed_tokens.weight", "VD -> VD", "embed/tokens"),
        Rule("decoder.embed_positions.weight", "PD -> PD", "embed/positions"),
        *_block(config, "decoder.layers.{L}.", "layers/", names),
    ]
    return _finish(config, rules, opt.sizes(config))


def _cross_table(config: CrossConfig, names: set[str]) -> Table:
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


def _block(config: DecoderConfig, source: str, path: str, names: set[str]) -> list[Rule]:
    fused = re.sub(r"\{\w\}", "0", source) + "self_attn.qkv_proj.weight" in names
    return opt.block(config, source, path, *((FUSED, FUSED_BIAS) if fused else (opt.SPLIT, opt.SPLIT_BIAS)))


def _finish(config: DecoderConfig, rules: list[Rule], sizes: dict[str, int]) -> Table:
    if config.norm == "layernorm":
        rules = [*rules, *nested("decoder.layer_norm.", "final_norm/", opt.NORM)]
    if config.tied:
        return Table(tuple(rules), sizes, {OUTPUT: "decoder.embed_tokens.weight"}, ("decoder.version",))
    return Table((*rules, Rule(OUTPUT, "VD -> VD", "unembed")), sizes, {}, ("decoder.version",))
