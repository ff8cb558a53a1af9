"""Hugging Face's `config.json`: read, and held to account for every attribute that could change the computation."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jam_jax.convert.readers import Weights, read_json, refuse_odd_names, shown
from jam_jax.convert.rules import Table
from jam_jax.model_config import CrossConfig, DecoderConfig, ModelConfig, RopeScaling
from jam_jax.models.model import KINDS

# Attributes that any family's config.json may carry and that do not change what a trained model computes.
HARMLESS = frozenset(
    (
        "_attn_implementation",
        "_attn_implementation_autoset",
        "attn_implementation",
        "architectures",
        "auto_map",
        "chunk_size_feed_forward",
        "do_sample",
        "dtype",
        "gradient_checkpointing",
        "id2label",
        "initializer_range",
        "label2id",
        "max_length",
        "model_type",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "prefix",
        "problem_type",
        "return_dict",
        "temperature",
        "top_k",
        "top_p",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "unsloth_fixed",
        "use_cache",
    )
)


def config_path(source: Path) -> Path:
    """Where the config of a checkpoint (a directory, or a file in it) lies."""
    return (source if source.is_dir() else source.parent) / "config.json"


def read_config(source: Path) -> dict[str, Any]:
    """The config of a checkpoint; ValueError if it is missing or damaged."""
    path = config_path(source)
    if not path.is_file():
        raise ValueError(f"there is no {path}: a Hugging Face checkpoint has its config.json beside the weights")
    return read_object(path)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file of attributes; ValueError if it is damaged."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged: expected an object of attributes")
    refuse_odd_names(values, path)
    return values


def is_family(source: Path, model_type: str) -> bool:
    """Whether the checkpoint's config says that it is of this type; ValueError if the config is damaged."""
    return config_path(source).is_file() and read_config(source).get("model_type") == model_type


def numbers(config: Mapping[str, Any], names: Iterable[str], path: Path | str) -> list[int]:
    """Sizes from the config; ValueError names one that is missing, no positive whole number, or beyond all reason."""
    for name in names:
        if type(config.get(name)) is not int or not 1 <= config[name] < 2**31:
            raise ValueError(f"{path}: {name} should be a positive whole number, got {shown(config.get(name))}")
    return [config[name] for name in names]


def positive(config: Mapping[str, Any], name: str, path: Path) -> float:
    """One number from the config; ValueError if it is missing or not a positive number."""
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{path}: {name} should be a positive number, got {shown(value)}")
    return float(value)


def switch(config: Mapping[str, Any], name: str, default: bool, path: Path | str) -> bool:
    """One attribute that is on or off; ValueError if it is neither. Absent or null it has its default."""
    value = config.get(name)
    if value is not None and type(value) is not bool:
        raise ValueError(f"{path}: {name} should be true or false, got {shown(value)}")
    return default if value is None else value


def refuse_others(config: Mapping[str, Any], only: Mapping[str, tuple[Any, ...]], path: Path | str) -> None:
    """ValueError names an attribute whose value is none of those that we compute; null says nothing."""
    for name, allowed in only.items():
        value = config.get(name)
        if value is not None and value not in allowed:
            raise ValueError(f"{path}: {name}={shown(value)} is not supported, only {' and '.join(map(repr, allowed))}")


# What stretches the rotary frequencies: transformers' name of a kind → our field → its attribute.
STRETCHES = {
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low": "low_freq_factor",
        "high": "high_freq_factor",
        "original_positions": "original_max_position_embeddings",
    },
}


def rope(config: Mapping[str, Any], default: float, path: Path) -> tuple[float, RopeScaling]:
    """The base of the rotary positions and how they are stretched; ValueError names what we do not compute.

    transformers 5 keeps in `rope_parameters` what older files spread over `rope_theta`, `rope_scaling` and
    `partial_rotary_factor`: both are read, and may not contradict each other.
    """
    refuse_others(config, {"partial_rotary_factor": (1,)}, path)
    bases: dict[str, Any] = {"rope_theta": config.get("rope_theta")}
    stretches: dict[str, RopeScaling] = {}
    for name in ("rope_parameters", "rope_scaling"):
        value = config.get(name) or {}
        if not isinstance(value, dict):
            raise ValueError(f"{path}: {name} should be an object of attributes, got {shown(value)}")
        rest = {k: v for k, v in value.items() if v is not None}
        bases[f"{name}.rope_theta"] = rest.pop("rope_theta", None)
        if rest:
            stretches[f"{name}={shown(value)}"] = _stretch(rest, f"{path}: {name}={shown(value)}")
    given = {name: positive(bases, name, path) for name, base in bases.items() if base is not None}
    if len(set(given.values())) > 1:
        raise ValueError(f"{path} contradicts itself: {', '.join(f'{name}={base}' for name, base in given.items())}")
    if len(set(stretches.values())) > 1:
        raise ValueError(f"{path} contradicts itself: {', '.join(stretches)}")
    return next(iter(given.values()), default), next(iter(stretches.values()), RopeScaling())


def _stretch(values: dict[str, Any], what: str) -> RopeScaling:
    """One object of rotary attributes, its nulls and the base taken out; `what` is for messages."""
    kinds = [values.pop(name) for name in ("rope_type", "type") if name in values] or ["default"]
    if values.pop("partial_rotary_factor", 1) != 1 or any(kind != kinds[0] for kind in kinds):
        raise ValueError(f"{what} is not supported: all of a head turns, in one way")
    attributes = STRETCHES.get(kinds[0], {}) if isinstance(kinds[0], str) else {}
    odd = sorted(set(values) ^ set(attributes.values()))
    if odd or not (attributes or kinds[0] == "default"):
        known = "; ".join(f"{kind!r} with {', '.join(names.values())}" for kind, names in STRETCHES.items())
        raise ValueError(f"{what} is not supported, only rotary positions of rope_type 'default'; {known}")
    fields: dict[str, Any] = {}
    for ours, theirs in attributes.items():
        fields[ours] = values[theirs]
        number = type(fields[ours]) in ((int,) if ours == "original_positions" else (int, float))
        if not number or not 0 < fields[ours] < math.inf:
            raise ValueError(f"{what}: {theirs} should be a positive number, got {shown(fields[ours])}")
    if not attributes:
        return RopeScaling()
    try:
        return RopeScaling(kinds[0], **fields)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error


def write_rope(config: DecoderConfig) -> dict[str, Any]:
    """The attributes that `rope` reads, as every version of transformers understands them."""
    stretch = config.rope_scaling
    scaling = {theirs: getattr(stretch, ours) for ours, theirs in STRETCHES.get(stretch.form, {}).items()}
    out: dict[str, Any] = {"rope_theta": config.rope_base}
    return out | ({"rope_scaling": {"rope_type": stretch.form} | scaling} if scaling else {})


def refuse_unknown(config: dict[str, Any], handled: Iterable[str], path: Path) -> None:
    """ValueError names every attribute that is switched on and that neither the family nor this file knows."""
    known = HARMLESS | set(handled)
    # A token's id says what stands for something, not how anything is computed.
    passed = [k for k in config if k in known or k.startswith("_name") or k.endswith("_token_id")]
    odd = [f"{k}={shown(v)}" for k, v in config.items() if k not in passed and v]
    if odd:
        raise ValueError(
            f"{path}: {', '.join(odd)[:300]} may change what the model computes and is not supported; "
            "remove it from a copy of the config if you know that it does not"
        )


def check_rows(config: DecoderConfig, weights: Weights, table: Table, path: Path) -> None:
    """ValueError if the token table has another number of rows than the config says, as after a resize."""
    name = next(rule.source for rule in table.rules if rule.path == "embed/tokens")
    rows = weights.shape(name)[:1] if name in weights.names() else ()
    if rows and rows[0] != config.vocab_size:
        raise ValueError(
            f"{path} says vocab_size={config.vocab_size} and {name} has {rows[0]} rows: the table was resized after "
            f"the config was written; set vocab_size to {rows[0]} in a copy of it if the weights are the right ones"
        )


def decoder_of(config: ModelConfig, family: str) -> DecoderConfig:
    """The config of a model that can be exported; ValueError for the kinds that no other system runs."""
    if isinstance(config, CrossConfig):
        raise ValueError(
            "this model is a JAM-Cross, two towers that read each other: no other system can run it but the original "
            "implementation, --family metaseq; JAM-Uniform, JAM-Width and the parents have an export here"
        )
    if not isinstance(config, DecoderConfig):
        raise ValueError(f"this model is {KINDS[type(config)]}, not a language model: {family} has no place for it")
    return config


def refuse_fields(config: DecoderConfig, needs: Mapping[str, tuple[Any, ...]], family: str) -> None:
    """ValueError lists every field of our config whose value the family does not have."""
    values = {name: config.key_value_heads if name == "kv_heads" else getattr(config, name) for name in needs}
    odd = [f"{k}={values[k]} ({family}: {' or '.join(map(str, ok))})" for k, ok in needs.items() if values[k] not in ok]
    if odd:
        raise ValueError(f"{family} has no such decoder: {', '.join(odd)}; export it as another family")
