"""Perplexity by its definition, a target at a time in float64, and a model with a store that tests of it share."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jam_jax import checkpoint, tokens
from jam_jax.data import store
from jam_jax.evaluate.sums import GROUPS
from jam_jax.model_config import CrossConfig, DecoderConfig
from jam_jax.models import model

SPACE = tokens.jam(text=20, codes=8, codes_per_image=4, sentinels=3, pad_to=8)
TOWER = DecoderConfig(SPACE.vocab_size, 2, 16, 4, 4, 32, max_positions=24)
CROSS = CrossConfig(TOWER, TOWER, every=1)

_states = jax.jit(model.forward, static_argnums=0)


@functools.cache
def random_params(config):
    """Output projections start at zero; drawn ones let every layer take part."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), model.shapes(config))


def record(rng: np.random.Generator, words: int, pictures: int = 0) -> np.ndarray:
    """A document of random words and pictures, as a store holds it."""
    ids = list(rng.integers(*SPACE.text, words))
    for _ in range(pictures):
        ids += [SPACE.start_of_image, *(SPACE.image_ids[c] for c in rng.integers(0, 8, 4))]
    return np.array([*ids, SPACE.end_of_document], np.int32)


def logits_of(config, params: dict, sequence: Sequence[int]) -> np.ndarray:
    """float64 [T, V]: what is made of each id, read from position 0; padded behind (causal: without effect)."""
    padded = np.full((1, config.max_positions), SPACE.pad)
    padded[0, : len(sequence)] = sequence
    return np.asarray(_states(config, params, padded)[0][0, : len(sequence)], np.float64)


def surprise(logits: np.ndarray, target: int, allowed: np.ndarray) -> float:
    """-log of the softmax over the allowed ids, of one target."""
    kept = logits[allowed]
    return kept.max() + math.log(np.exp(kept - kept.max()).sum()) - logits[target]


def group_of(target: int) -> str:
    """What an id of SPACE is counted as."""
    if target in (SPACE.end_of_document, SPACE.start_of_image):
        return "end" if target == SPACE.end_of_document else "break"
    return ("text", "image", "special")[SPACE.modality[target]]


def plain(config, params: dict, records: Sequence[np.ndarray], size: int = 0, stride: int = 0) -> dict:
    """The definition: for each target the window that it counts in, without batches; sums by group."""
    size = size or config.max_positions
    stride = stride or size // 2
    sums = {name: dict.fromkeys(GROUPS, 0.0) for name in ("nll", "within")} | {"count": dict.fromkeys(GROUPS, 0)}
    for ids in records:
        sequence = [SPACE.end_of_document, *ids.tolist()]
        made: dict[int, np.ndarray] = {}
        for place in range(1, len(sequence)):
            start = 0 if place <= size else -(-(place - size) // stride) * stride
            if start not in made:
                made[start] = logits_of(config, params, sequence[start : start + size])
            target = sequence[place]
            logits, name = made[start][place - start - 1], group_of(target)
            everything = np.ones(len(logits), bool)
            sums["nll"][name] += surprise(logits, target, everything)
            sums["within"][name] += surprise(logits, target, SPACE.modality == SPACE.modality[target])
            sums["count"][name] += 1
    return {name: tuple(of.values()) for name, of in sums.items()}


def agree(found, expected: dict) -> None:
    """What was found equals the definition to 1e-5."""
    assert found.count == expected["count"]
    np.testing.assert_allclose(found.nll, expected["nll"], rtol=1e-5)
    np.testing.assert_allclose(found.within, expected["within"], rtol=1e-5)


SIZES = [(3, 1), (70, 0), (0, 2), (1, 0), (16, 1), (5, 0), (12, 3), (30, 4), (2, 0), (23, 0), (22, 0)]


def some_records(seed: int = 0) -> list[np.ndarray]:
    """Documents of all sizes, three of them longer than the context, one of one token."""
    rng = np.random.default_rng(seed)
    return [record(rng, *size) for size in SIZES] + [np.array([7], np.int32)]


def write_case(root: Path, config=TOWER, records: Sequence[np.ndarray] | None = None) -> list[str]:
    """A model directory and a store on disk; gives the options that measure it."""
    (root / "tokenizer").mkdir()
    (root / "tokenizer/tokens.json").write_text(SPACE.to_json())
    checkpoint.save_model(root / "model", config, random_params(config), tokenizer=root / "tokenizer")
    found = some_records() if records is None else records
    store.write_ids(root / "store", [(ids, 0) for ids in found], SPACE)
    return ["perplexity", "--model", str(root / "model"), "--store", str(root / "store")]
