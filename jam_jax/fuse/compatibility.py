"""Do two parents fit each other? One comparison for every fusion, made before any weight is read."""

import dataclasses
from pathlib import Path

from jam_jax import tokens
from jam_jax.config import DecoderConfig, ModelConfig
from jam_jax.models.model import RUN_TIME


def config_misfits(llm: ModelConfig, img: ModelConfig) -> list[str]:
    """What differs between two parents' configs, one line each; empty when any fusion is possible."""
    for name, parent in (("LLM", llm), ("image parent", img)):
        if not isinstance(parent, DecoderConfig):
            return [f"the {name} is a {type(parent).__name__}, not a plain decoder: fuse its parents instead"]
    names = [f.name for f in dataclasses.fields(DecoderConfig) if f.name not in RUN_TIME]
    return [
        f"{name}: the LLM has {getattr(llm, name)}, the image parent {getattr(img, name)}"
        for name in names
        if _value(llm, name) != _value(img, name)
    ]


def _value(config: ModelConfig, name: str) -> object:
    return config.key_value_heads if name == "kv_heads" and isinstance(config, DecoderConfig) else getattr(config, name)


def tokenizer_misfits(llm: Path, img: Path) -> list[str]:
    """What differs between two tokenizers' directories: the meaning of an id, or the pieces of text."""
    misfits = []
    if tokens.load(llm) != tokens.load(img):
        misfits.append("tokenizer: the parents' token spaces give ids different meanings")
    pieces = [directory / "text.model" for directory in (llm, img)]
    if all(p.exists() for p in pieces) and pieces[0].read_bytes() != pieces[1].read_bytes():
        misfits.append("tokenizer: the parents' text pieces differ")
    return misfits


def require_fit(misfits: list[str]) -> None:
    """ValueError with every misfit in one line."""
    if misfits:
        raise ValueError("these parents cannot be fused: " + "; ".join(misfits))
