"""Hugging Face's `config.json`: read, and held to account for every attribute that could change the computation."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Attributes that any family's config.json may carry and that do not change what a trained model computes.
HARMLESS = frozenset(
    (
        "architectures",
        "auto_map",
        "bos_token_id",
        "chunk_size_feed_forward",
        "cls_token_id",
        "decoder_start_token_id",
        "dtype",
        "eos_token_id",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "gradient_checkpointing",
        "id2label",
        "initializer_range",
        "label2id",
        "mask_token_id",
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
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is damaged: expected an object of attributes")
    return config


def is_family(source: Path, model_type: str) -> bool:
    """Whether the checkpoint's config says that it is of this type; ValueError if the config is damaged."""
    return config_path(source).is_file() and read_config(source).get("model_type") == model_type


def numbers(config: dict[str, Any], names: Iterable[str], path: Path) -> list[int]:
    """Sizes from the config; ValueError names one that is missing or no positive whole number."""
    for name in names:
        if type(config.get(name)) is not int or config[name] < 1:
            raise ValueError(f"{path}: {name} should be a positive whole number, got {config.get(name)!r}")
    return [config[name] for name in names]


def refuse_unknown(config: dict[str, Any], handled: Iterable[str], path: Path) -> None:
    """ValueError names every attribute that is switched on and that neither the family nor this file knows."""
    known = HARMLESS | set(handled)
    odd = [f"{k}={v!r}" for k, v in config.items() if k not in known and not k.startswith("_name") and v]
    if odd:
        raise ValueError(
            f"{path}: {', '.join(odd)[:300]} may change what the model computes and is not supported; "
            "remove it from a copy of the config if you know that it does not"
        )
