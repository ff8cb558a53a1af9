"""Hugging Face's `config.json`: read, and held to account for every attribute that could change the computation."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jam_jax.config import CrossConfig, DecoderConfig, ModelConfig, VqganConfig

# Attributes that any family's config.json may carry and that do not change what a trained model computes.
HARMLESS = frozenset(
    (
        "_attn_implementation",
        "_attn_implementation_autoset",
        "architectures",
        "auto_map",
        "bos_token_id",
        "chunk_size_feed_forward",
        "cls_token_id",
        "decoder_start_token_id",
        "do_sample",
        "dtype",
        "eos_token_id",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "gradient_checkpointing",
        "id2label",
        "initializer_range",
        "label2id",
        "mask_token_id",
        "max_length",
        "model_type",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "prefix",
        "problem_type",
        "return_dict",
        "sep_token_id",
        "temperature",
        "top_k",
        "top_p",
        "torch_dtype",
        "torchscript",
        "transformers_version",
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
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged: expected an object of attributes")
    return values


def is_family(source: Path, model_type: str) -> bool:
    """Whether the checkpoint's config says that it is of this type; ValueError if the config is damaged."""
    return config_path(source).is_file() and read_config(source).get("model_type") == model_type


def numbers(config: dict[str, Any], names: Iterable[str], path: Path) -> list[int]:
    """Sizes from the config; ValueError names one that is missing or no positive whole number."""
    for name in names:
        if type(config.get(name)) is not int or config[name] < 1:
            raise ValueError(f"{path}: {name} should be a positive whole number, got {config.get(name)!r}")
    return [config[name] for name in names]


def positive(config: Mapping[str, Any], name: str, path: Path) -> float:
    """One number from the config; ValueError if it is missing or not a positive number."""
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{path}: {name} should be a positive number, got {value!r}")
    return float(value)


def refuse_others(config: Mapping[str, Any], only: Mapping[str, tuple[Any, ...]], path: Path) -> None:
    """ValueError names an attribute whose value is none of those that we compute; null says nothing."""
    for name, allowed in only.items():
        value = config.get(name)
        if value is not None and value not in allowed:
            raise ValueError(f"{path}: {name}={value!r} is not supported, only {' and '.join(map(repr, allowed))}")


def rope_base(config: Mapping[str, Any], default: float, path: Path) -> float:
    """The base of plain rotary positions; ValueError names what would stretch, cut or vary them.

    transformers 5 keeps in `rope_parameters` what older files spread over `rope_theta`, `rope_scaling` and
    `partial_rotary_factor`: both are read, and may not contradict each other.
    """
    bases: dict[str, Any] = {"rope_theta": config.get("rope_theta")}
    plain: dict[str, Any] = {"rope_type": "default", "type": "default", "partial_rotary_factor": 1}
    for name in ("rope_parameters", "rope_scaling"):
        value = config.get(name) or {}
        rest = {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else {"": value}
        bases[f"{name}.rope_theta"] = rest.pop("rope_theta", None)
        if any(k not in plain or v != plain[k] for k, v in rest.items()):
            raise ValueError(f"{path}: {name}={value!r} is not supported, only rotary positions of rope_type 'default'")
    refuse_others(config, {"partial_rotary_factor": (1,)}, path)
    given = {name: positive(bases, name, path) for name, base in bases.items() if base is not None}
    if len(set(given.values())) > 1:
        raise ValueError(f"{path} contradicts itself: {', '.join(f'{name}={base}' for name, base in given.items())}")
    return next(iter(given.values()), default)


def refuse_unknown(config: dict[str, Any], handled: Iterable[str], path: Path) -> None:
    """ValueError names every attribute that is switched on and that neither the family nor this file knows."""
    known = HARMLESS | set(handled)
    odd = [f"{k}={v!r}" for k, v in config.items() if k not in known and not k.startswith("_name") and v]
    if odd:
        raise ValueError(
            f"{path}: {', '.join(odd)[:300]} may change what the model computes and is not supported; "
            "remove it from a copy of the config if you know that it does not"
        )


def decoder_of(config: ModelConfig, family: str) -> DecoderConfig:
    """The config of a model that can be exported; ValueError for the kinds that no other system runs."""
    if isinstance(config, CrossConfig):
        raise ValueError(
            "this model is a JAM-Cross, two towers that read each other: no other system can run it, so it has no "
            "export; JAM-Uniform, JAM-Width and the parents do"
        )
    if isinstance(config, VqganConfig):
        raise ValueError(f"this model is an image tokenizer, not a language model: {family} has no place for it")
    return config


def refuse_fields(config: DecoderConfig, needs: Mapping[str, tuple[Any, ...]], family: str) -> None:
    """ValueError lists every field of our config whose value the family does not have."""
    values = {name: config.key_value_heads if name == "kv_heads" else getattr(config, name) for name in needs}
    odd = [f"{k}={values[k]} ({family}: {' or '.join(map(str, ok))})" for k, ok in needs.items() if values[k] not in ok]
    if odd:
        raise ValueError(f"{family} has no such decoder: {', '.join(odd)}; export it as another family")
