"""Chameleon (arXiv 2405.09818) in Meta's own layout → ours: `params.json` beside `consolidated.pth`.

Source: `chameleon/inference/{loader,transformer}.py` of facebookresearch/chameleon. Its rotary embedding turns
neighbouring rows of a head, ours the two halves, so the rows of wq and wk change places, and with them the q/k norms,
of which there is one for all heads.
"""

from pathlib import Path
from typing import Any

from jam_jax.config import DecoderConfig
from jam_jax.convert.families import hugging_face, opt
from jam_jax.convert.readers import open_file
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
HEAD_NORM = (
    ("attention.q_normalization.weight", "(IR) -> N(RI)", "attn/q_norm/scale"),
    ("attention.q_normalization.bias", "(IR) -> N(RI)", "attn/q_norm/bias"),
    ("attention.k_normalization.weight", "(IR) -> K(RI)", "attn/k_norm/scale"),
    ("attention.k_normalization.bias", "(IR) -> K(RI)", "attn/k_norm/bias"),
)
EMBEDDING = "tok_embeddings.weight"


def recognises(source: Path) -> bool:
    """Whether `source` is a directory of Meta's Chameleon, or a file in one."""
    return (_directory(source) / "params.json").is_file() and "swin_norm" in _params(source)


def read(source: Path) -> Parent:
    """The decoder that the directory holds; ValueError if it is in several parts, another computation, or damaged."""
    directory = _directory(source)
    params, path = _params(source), directory / "params.json"
    found = sorted(directory.glob("consolidated*.pth"))
    if len(found) != 1 or params.get("model_parallel_size", 1) != 1:
        raise ValueError(
            f"{directory} holds {len(found)} consolidated*.pth of model_parallel_size="
            f"{params.get('model_parallel_size', 1)}: only one whole file can be imported (7B); for the larger "
            "Chameleon import what transformers saves of it"
        )
    weights = open_file(found[0])
    if EMBEDDING not in weights.names() or len(weights.shape(EMBEDDING)) != 2:
        raise ValueError(f"{found[0]} is no Chameleon: it has no table {EMBEDDING}")
    config = read_config(params, weights.shape(EMBEDDING)[0], path)
    return Parent(config, table(config), weights)


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
    ffn = int(hugging_face.positive(params, "ffn_dim_multiplier", path) * int(8 * width / 3))
    return DecoderConfig(
        vocab_size=vocab,
        layers=layers,
        width=width,
        heads=heads,
        head_size=width // heads,
        ffn_width=-(-ffn // multiple) * multiple,
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


def table(config: DecoderConfig) -> Table:
    """The names of the weights."""
    rules = (
        Rule(EMBEDDING, "VD -> VD", "embed/tokens"),
        *nested("layers.{L}.", "layers/", BLOCK + HEAD_NORM),
        Rule("norm.weight", "D -> D", "final_norm/scale"),
        Rule("output.weight", "VD -> VD", "unembed"),
    )
    return Table(rules, opt.sizes(config) | {"R": 2, "I": config.head_size // 2}, inert=("rope.freqs",))


def _directory(source: Path) -> Path:
    return source if source.is_dir() else source.parent


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
