"""Decoders of Hugging Face that are Llama (arXiv 2302.13971) with switches: what they share, given a row of data each.

Pre-norm blocks of RMSNorm, grouped heads with rotary positions in the half-split order, and a gated feed-forward.
The rows are in `decoders`; here is how a row becomes a config and a table, in both directions.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from jam_jax.convert.families import hugging_face, opt
from jam_jax.convert.readers import Weights, open_weights, shown
from jam_jax.convert.rules import Parent, Rule, Table, nested, set_apart
from jam_jax.model_config import Bias, DecoderConfig, ModelConfig
from jam_jax.tokens import TokenSpace

BLOCK = (
    *opt.SPLIT,
    ("self_attn.o_proj.weight", "D(NH) -> NHD", "attn/o"),
    ("mlp.gate_proj.weight", "FD -> DF", "ffn/gate"),
    ("mlp.up_proj.weight", "FD -> DF", "ffn/up"),
    ("mlp.down_proj.weight", "DF -> FD", "ffn/down"),
    ("input_layernorm.weight", "D -> D", "attn_norm/scale"),
    ("post_attention_layernorm.weight", "D -> D", "ffn_norm/scale"),
)
# Projection → the row of its bias.
BIAS = dict(zip("qkv", opt.SPLIT_BIAS, strict=True)) | {
    "o": ("self_attn.o_proj.bias", "D -> D", "attn/o_bias"),
    "gate": ("mlp.gate_proj.bias", "F -> F", "ffn/gate_bias"),
    "up": ("mlp.up_proj.bias", "F -> F", "ffn/up_bias"),
    "down": ("mlp.down_proj.bias", "D -> D", "ffn/down_bias"),
}
# Attributes that switch biases on, by our config's `bias`.
SWITCHES: dict[Bias, tuple[str, ...]] = {
    "none": (),
    "attention": ("attention_bias",),
    "ffn": ("mlp_bias",),
    "all": ("attention_bias", "mlp_bias"),
}
# Chameleon's norm of the heads of the queries and keys. Stored as one for all heads, (H) or (1, H), or as one for each
# of G groups of M neighbouring heads, (G, H): the groups are the devices that Meta trained on, or single heads.
HEAD_NORM = tuple(
    (f"self_attn.{x}_norm.{theirs}", heads, f"attn/{x}_norm/{ours}")
    for x, heads in (("q", "N"), ("k", "K"))
    for theirs, ours in (("weight", "scale"), ("bias", "bias"))
)

SIZES = (
    "vocab_size",
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)
ROPE = ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor")
# Read by name; `attention_dropout` is of training alone, `pretraining_tp` cuts the same products into pieces.
HANDLED = (*SIZES, *ROPE, "num_key_value_heads", "head_dim", "rms_norm_eps", "tie_word_embeddings", "layer_types")
HARMLESS = ("attention_dropout", "pretraining_tp")


@dataclasses.dataclass(frozen=True)
class Family:
    """One family: what its config.json says beyond the sizes, and where its decoder lies in the files."""

    name: str  # for messages
    model_types: tuple[str, ...]  # as config.json has them; the first is written
    architecture: str  # class of transformers that loads an export
    activations: tuple[str, ...] = ("silu",)  # names of the gate's function; the first is written
    ffn: Literal["silu_gated", "gelu_gated"] = "silu_gated"
    norm: Literal["rmsnorm", "rmsnorm_plus_one"] = "rmsnorm"
    bias: Literal["none", "qkv"] = "none"  # without switches
    switches: tuple[str, ...] = ()  # attributes that switch further biases on
    qk_norm: Literal["none", "layernorm"] = "none"
    scaled: bool = False  # embeddings are multiplied by sqrt(width)
    head_size: Literal["free", "divides", "quotient"] = "free"  # divides: width / heads must be whole; quotient: is it
    norm_eps: tuple[float, ...] = ()  # the only values there are; empty: any
    rope_theta: float = 1e4  # of a file that does not say
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of attributes that a file may leave out
    only: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)  # all that we compute of an attribute
    harmless: tuple[str, ...] = ()  # attributes that do not change what a trained model computes
    unlike: Mapping[str, str] = dataclasses.field(default_factory=dict)  # model_type of a relative → why it is refused
    inside: str = ""  # attribute that holds the decoder's own attributes, in files of a larger model
    layouts: tuple[tuple[str, str], ...] = (("model.", ""),)  # beginnings of the decoder's names and of the head's
    apart: tuple[str, ...] = ()  # beginnings of the names of another model in the same files
    written: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # attributes that every export has
    ids: tuple[int, int, int] = (1, 2, 0)  # begin, end and pad, for an export without a tokenizer
    no_id: int | None = None  # written for one of them that lies outside the vocabulary

    def recognises(self, source: Path) -> bool:
        """Whether `source` is a checkpoint of this family, or of a relative that it refuses."""
        return any(hugging_face.is_family(source, kind) for kind in (*self.model_types, *self.unlike))

    def read(self, source: Path) -> Parent:
        """The decoder that a checkpoint directory (or a weights file beside its config.json) holds.

        ValueError if the config asks for what our decoder does not compute (named), or if the weights are damaged.
        """
        path, values = hugging_face.config_path(source), hugging_face.read_config(source)
        config = self.read_config(values, path)
        weights = open_weights(source)
        table = self.table(config, weights)
        if values.get("qk_layernorm") and any(r.layout.startswith("H ->") for r in table.rules):
            raise ValueError(
                f"{path}: qk_layernorm=True with one norm for all heads is of the draft of Chameleon in transformers "
                "that Anole's code trains: some of its files turn neighbouring rows of a head and some its halves, and "
                "nothing tells them apart; import Meta's own files, or what a released transformers saved"
            )
        hugging_face.check_rows(config, weights, table, path)
        apart = set_apart(table, weights)
        such = f"{len(apart)} tensors such as {apart[0]}" if apart else ""
        return Parent(config, table, weights, such and f"{source}  holds another model too, which stays there: {such}")

    def read_config(self, values: dict[str, Any], path: Path) -> DecoderConfig:
        """Our config from theirs; `path` is for messages. ValueError names what we do not compute."""
        kind = str(values.get("model_type"))
        if kind in self.unlike:
            raise ValueError(f"{path}: model_type={kind!r} cannot be imported: {self.unlike[kind]}")
        if kind not in self.model_types:
            raise ValueError(f"{path} is no {self.name}: its model_type is {kind!r}")
        if self.inside in values:
            values = self._inner(values, path)
        known = (*HANDLED, *HARMLESS, *self.harmless, *self.only, *self.switches, "hidden_act")
        hugging_face.refuse_unknown(values, known, path)
        values = {**self.defaults, **{k: v for k, v in values.items() if v is not None}}
        hugging_face.refuse_others(values, {"hidden_act": self.activations, **self.only}, path)
        kinds = values.get("layer_types") or []
        if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
            raise ValueError(f"{path}: layer_types={shown(kinds)} is not supported, only full_attention")
        vocab, layers, width, heads, ffn, positions = hugging_face.numbers(values, SIZES, path)
        if "head_dim" not in values and width % heads:
            raise ValueError(f"{path}: hidden_size ({width}) does not divide by num_attention_heads ({heads})")
        sizes = {"num_key_value_heads": heads, "head_dim": width // heads} | values
        kv_heads, head_size = hugging_face.numbers(sizes, ("num_key_value_heads", "head_dim"), path)
        if self.head_size == "quotient" and head_size * heads != width:
            raise ValueError(f"{path}: head_dim={head_size} is not supported, only hidden_size / num_attention_heads")
        if heads % kv_heads:
            raise ValueError(f"{path}: num_attention_heads={heads} does not divide by num_key_value_heads={kv_heads}")
        eps = hugging_face.positive(values, "rms_norm_eps", path)
        if self.norm_eps and eps not in self.norm_eps:
            raise ValueError(f"{path}: rms_norm_eps={eps} is not {self.name}'s {self.norm_eps[0]}")
        tied = hugging_face.switch(values, "tie_word_embeddings", False, path)
        on = tuple(name for name in self.switches if hugging_face.switch(values, name, False, path))
        base, scaling = hugging_face.rope(values, self.rope_theta, path)
        if head_size % 2:
            raise ValueError(f"{path}: head_dim should be even for rotary positions, got {head_size}")
        return DecoderConfig(
            vocab_size=vocab,
            layers=layers,
            width=width,
            heads=heads,
            head_size=head_size,
            ffn_width=ffn,
            max_positions=positions,
            kv_heads=None if kv_heads == heads else kv_heads,
            norm=self.norm,
            norm_eps=eps,
            positions="rope",
            rope_base=base,
            rope_scaling=scaling,
            ffn=self.ffn,
            bias=next(bias for bias, names in SWITCHES.items() if names == on) if on else self.bias,
            qk_norm=self.qk_norm,
            tied=tied,
            embed_scale=width**0.5 if self.scaled else 1.0,
            init_std=hugging_face.positive({"initializer_range": 0.02} | values, "initializer_range", path),
        )

    def _inner(self, values: dict[str, Any], path: Path) -> dict[str, Any]:
        """The decoder's attributes out of a larger model's; whether the head is tied is said by either."""
        hugging_face.refuse_unknown(values, (self.inside, "tie_word_embeddings", *self.harmless), path)
        inner = values[self.inside]
        if not isinstance(inner, dict):
            raise ValueError(f"{path}: {self.inside} should be an object of attributes, got {shown(inner)}")
        tied = {d["tie_word_embeddings"] for d in (values, inner) if isinstance(d.get("tie_word_embeddings"), bool)}
        if len(tied) > 1:
            raise ValueError(f"{path} contradicts itself: tie_word_embeddings differs in {self.inside}")
        return inner | ({"tie_word_embeddings": tied.pop()} if tied else {})

    def write_config(self, config: ModelConfig, space: TokenSpace | None) -> dict[str, Any]:
        """Their config.json for one of ours; ValueError lists all that the family does not have.

        `space` gives the special ids; without one they are the family's own, as far as the vocabulary has them.
        """
        c = hugging_face.decoder_of(config, self.name)
        needs: dict[str, tuple[Any, ...]] = {
            "norm": (self.norm,),
            "positions": ("rope",),
            "ffn": (self.ffn,),
            "bias": (self.bias, *(b for b, names in SWITCHES.items() if names and set(names) <= set(self.switches))),
            "qk_norm": (self.qk_norm,),
            "embed_scale": (c.width**0.5 if self.scaled else 1.0,),
        }
        if self.norm_eps:
            needs["norm_eps"] = self.norm_eps
        if self.head_size == "quotient":
            needs["head_size"] = (c.width / c.heads,)
        if self.head_size == "divides":
            needs["width"] = (-(-c.width // c.heads) * c.heads,)
        hugging_face.refuse_fields(c, needs, self.name)
        ids = self.ids if space is None else (space.start, space.end_of_document, space.pad)
        begin, end, pad = (i if i < c.vocab_size else self.no_id for i in ids)
        return {
            "architectures": [self.architecture],
            "model_type": self.model_types[0],
            "vocab_size": c.vocab_size,
            "num_hidden_layers": c.layers,
            "hidden_size": c.width,
            "intermediate_size": c.ffn_width,
            "num_attention_heads": c.heads,
            "num_key_value_heads": c.key_value_heads,
            **({} if self.head_size == "quotient" else {"head_dim": c.head_size}),
            "hidden_act": self.activations[0],
            "max_position_embeddings": c.max_positions,
            "rms_norm_eps": c.norm_eps,
            **hugging_face.write_rope(c),
            "tie_word_embeddings": c.tied,
            "initializer_range": c.init_std,
            "attention_dropout": 0.0,
            "bos_token_id": begin,
            "eos_token_id": end,
            "pad_token_id": pad,
            **{name: name in SWITCHES.get(c.bias, ()) for name in self.switches},
            **self.written,
        }

    def table(self, config: DecoderConfig, weights: Weights | None = None) -> Table:
        """The names of the weights: as an export has them, or as `weights` does."""
        names = [] if weights is None else weights.names()
        layouts = (*self.layouts, ("", ""))  # the last: a decoder saved without its head
        decoder, head = next((p for p in layouts if p[0] + "embed_tokens.weight" in names), layouts[0])
        layer = decoder + "layers.{L}."
        rules = [
            Rule(decoder + "embed_tokens.weight", "VD -> VD", "embed/tokens"),
            *nested(layer, "layers/", BLOCK),
            Rule(decoder + "norm.weight", "D -> D", "final_norm/scale"),
        ]
        rules += nested(layer, "layers/", tuple(row for name, row in BIAS.items() if config.has_bias(name)))
        if self.qk_norm != "none":
            sizes = opt.sizes(config)
            rules += [_head_norm(layer, *row, sizes, weights) for row in HEAD_NORM]
        output = head + "lm_head.weight"
        if not config.tied:
            rules.append(Rule(output, "VD -> VD", "unembed"))
        copies = {output: decoder + "embed_tokens.weight"} if config.tied else {}
        # Frequencies of the rotary embedding, which older files hold; they follow from the config.
        inert = tuple(name for name in names if name.startswith(decoder) and name.endswith("rotary_emb.inv_freq"))
        return Table(tuple(rules), opt.sizes(config), copies, inert, self.apart)


def _head_norm(layer: str, name: str, heads: str, path: str, sizes: dict[str, int], weights: Weights | None) -> Rule:
    """The rule for a head norm, by how `weights` stores that of the first layer; an export has one for each head."""
    first = layer.replace("{L}", "0") + name
    shape = weights.shape(first) if weights is not None and first in weights.names() else ()
    groups = 1 if len(shape) == 1 else shape[0] if shape else sizes[heads]
    own = {"G": groups, "M": sizes[heads] // max(groups, 1)}
    if groups == sizes[heads] or groups * own["M"] != sizes[heads]:
        return Rule(layer + name, f"{heads}H -> {heads}H", "layers/" + path)
    return Rule(layer + name, f"{'H' if len(shape) == 1 else 'GH'} -> (GM)H", "layers/" + path, own)
