"""Chameleon (arXiv 2405.09818) in Meta's own layout → ours: `params.json` beside `consolidated.pth`, or its parts.

Source: `chameleon/inference/{loader,transformer}.py` of facebookresearch/chameleon. Its rotary embedding turns
neighbouring rows of a head, ours the two halves, so the rows of wq and wk change places, and with them the q/k norms,
of which there is one for all heads of a model-parallel part. The larger model comes in such parts,
`consolidated.00.pth` and so on. Anole (arXiv 2407.06135) is stored the same way.
"""

import dataclasses
from pathlib import Path
from typing import Any

from jam_jax.config import DecoderConfig
from jam_jax.convert.families import hugging_face, opt
from jam_jax.convert.parts import Cuts, Parallel
from jam_jax.convert.readers import open_file, shown
from jam_jax.convert.rules import Parent, Rule, Table, nested

# Rows of a head: I pairs of R = 2 there, two halves of I here.
BLOCK = (
    ("attention.wq.weight", "(NIR)D -> DN(RI)", "attn/q"),
    ("attention.wk.weight", "(KIR)D -> DK(RI)", "attn/k"),
    ("attention.wv.weight", "(KH)D -> DKH", "attn/v"),
    ("attention.wo.weight", "D(NH) -> NHD", "attn/o"),
    ("feed_forward.w1.weight", "FD -> DF", "ffn/gate"),
    ("feed_forward.w2.weight", "DF -> FD", "ffn/down"),
    ("feed_forward.w3.weight", "FD -> DF", "ffn/up"),
    ("attention_norm.weight", "D -> D", "attn_norm/scale"),
    ("ffn_norm.weight", "D -> D", "ffn_norm/scale"),
)
HEAD_NORM = tuple(
    (f"attention.{x}_normalization.{theirs}", f"(IR) -> (G{per})(RI)", f"attn/{x}_norm/{ours}")
    for x, per in (("q", "M"), ("k", "W"))  # M query heads, W key heads in each of G parts
    for theirs, ours in (("weight", "scale"), ("bias", "bias"))
)
# The norms outside the heads are averaged, as by transformers' converter of these files.
CUTS: Cuts = (
    (r"\.(wq|wk|wv|w1|w3)\.weight$|^output\.weight$", 0),
    (r"\.(wo|w2)\.weight$|^tok_embeddings\.weight$", 1),
    (r"\.[qk]_normalization\.(weight|bias)$", "own"),
    (r"(^|_)norm\.weight$", "drifted"),
)
EMBEDDING = "tok_embeddings.weight"


def recognises(source: Path) -> bool:
    """Whether `source` is a directory of Meta's Chameleon, or a file in one."""
    return (_directory(source) / "params.json").is_file() and "swin_norm" in _params(source)


def read(source: Path) -> Parent:
    """The decoder that the directory holds; ValueError if it is another computation, lacks a part, or is damaged."""
    directory = _directory(source)
    params, path = _params(source), directory / "params.json"
    parts = [open_file(file) for file in _files(directory, params)]
    weights = parts[0] if len(parts) == 1 else Parallel(parts, directory, CUTS)
    if EMBEDDING not in weights.names() or len(weights.shape(EMBEDDING)) != 2:
        raise ValueError(f"{directory} holds no Chameleon: it has no table {EMBEDDING}")
    config = read_config(params, weights.shape(EMBEDDING)[0], path)
    if config.key_value_heads % len(parts):
        raise ValueError(f"{path}: n_heads={config.heads}, n_kv_heads={config.key_value_heads} in {len(parts)} parts")
    found = table(config, len(parts))
    if params.get("vocab_size", -1) != -1:  # as an unfinished configuration has it
        (vocab,) = hugging_face.numbers(params, ("vocab_size",), path)
        hugging_face.check_rows(dataclasses.replace(config, vocab_size=vocab), weights, found, path)
    return Parent(config, found, weights)


def _files(directory: Path, params: dict[str, Any]) -> list[Path]:
    """One file, or the parts in order; ValueError if some are missing. As in Meta's loader the whole goes first."""
    whole = directory / "consolidated.pth"
    if whole.is_file():
        return [whole]
    found = sorted(directory.glob("consolidated.*.pth"))
    wanted = [directory / f"consolidated.{i:02}.pth" for i in range(len(found))]
    if not found or found != wanted or params.get("model_parallel_size", 1) != len(found):
        raise ValueError(
            f"{directory} holds {', '.join(p.name for p in found[:8]) or 'no consolidated.pth'}, and its settings say "
            f"model_parallel_size={shown(params.get('model_parallel_size', 1))}: copy the other parts"
        )
    return found


def read_config(params: dict[str, Any], vocab: int, path: Path) -> DecoderConfig:
    """Our config from theirs; like their loader, this reads what the decoder knows and leaves the run's settings."""
    params = {"rope_theta": 1e4, "norm_eps": 1e-5, "multiple_of": 256, "ffn_dim_multiplier": 1} | {
        k: v for k, v in params.items() if v is not None
    }
    hugging_face.refuse_others(params, {"swin_norm": (False,), "qk_normalization": (True,), "norm_eps": (1e-5,)}, path)
    if "qk_normalization" not in params:
        raise ValueError(f"{path}: qk_normalization is missing: only a Chameleon that norms its queries can be read")
    width, layers, heads, multiple = hugging_face.numbers(params, ("dim", "n_layers", "n_heads", "multiple_of"), path)
    (kv_heads,) = hugging_face.numbers({"n_kv_heads": heads} | params, ("n_kv_heads",), path)
    if width % (2 * heads) or heads % kv_heads:
        raise ValueError(f"{path}: dim={width}, n_heads={heads}, n_kv_heads={kv_heads} do not make heads of even size")
    base = hugging_face.positive(params, "rope_theta", path)
    ffn = hugging_face.positive(params, "ffn_dim_multiplier", path) * int(8 * width / 3)
    if not 1 <= ffn < 2**31:
        raise ValueError(f"{path}: ffn_dim_multiplier={params['ffn_dim_multiplier']} makes a width of {ffn}")
    return DecoderConfig(
        vocab_size=vocab,
        layers=layers,
        width=width,
        heads=heads,
        head_size=width // heads,
        ffn_width=-(-int(ffn) // multiple) * multiple,
        # The file does not say; transformers' converter of it holds the longer-wavelength ones to be of 16,384.
        max_positions=4096 if base <= 1e4 else 16384,
        kv_heads=None if kv_heads == heads else kv_heads,
        norm="rmsnorm",
        norm_eps=params["norm_eps"],
        positions="rope",
        rope_base=base,
        ffn="silu_gated",
        qk_norm="layernorm",
        tied=False,
        init_std=0.02,  # as transformers has it
    )


def table(config: DecoderConfig, parts: int = 1) -> Table:
    """The names of the weights, of a model in so many parts."""
    # The norms of the heads of several parts are stacked in front.
    head_norm = HEAD_NORM if parts == 1 else tuple((name, "G" + layout, path) for name, layout, path in HEAD_NORM)
    rules = (
        Rule(EMBEDDING, "VD -> VD", "embed/tokens"),
        *nested("layers.{L}.", "layers/", BLOCK + head_norm),
        Rule("norm.weight", "D -> D", "final_norm/scale"),
        Rule("output.weight", "VD -> VD", "unembed"),
    )
    own = {"R": 2, "I": config.head_size // 2, "G": parts}
    own |= {"M": config.heads // parts, "W": config.key_value_heads // parts}
    return Table(rules, opt.sizes(config) | own, inert=("rope.freqs",))


def _directory(source: Path) -> Path:
    """Where the weights lie: in a download of everything, which has the tokenizer too, in the one folder of models."""
    directory = source if source.is_dir() else source.parent
    models = [path.parent for path in directory.glob("models/*/params.json")] if source.is_dir() else []
    return models[0] if len(models) == 1 and not (directory / "params.json").exists() else directory


def _params(source: Path) -> dict[str, Any]:
    """`params.json`, the model's part of it above the run's, and what `consolidate_params.json` changed."""
    directory = _directory(source)
    out: dict[str, Any] = {}
    for name in ("params.json", "consolidate_params.json"):
        if (directory / name).is_file():
            values = hugging_face.read_object(directory / name)
            model = values.get("model")
            out |= values | (model if isinstance(model, dict) else {})
    return out
