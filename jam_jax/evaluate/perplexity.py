"""Exact perplexity of a model on documents, apart for text and for images (arXiv 2309.15564, tables 2 to 5).

A document is read as in training's document mode, `</s>` + record, from position 0, and each of its record's tokens is
a target exactly once; where a vocabulary has a start of its own for documents, that takes the place of the `</s>`.
MS-COCO's perplexity in the paper is over all tokens of caption and picture together: `all` here.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jam_jax import tokens as ids
from jam_jax.losses import token_nll
from jam_jax.models import model
from jam_jax.models.model import LanguageConfig
from jam_jax.sharding import batch_sharding
from jam_jax.tokens import TokenSpace

NOTHING = np.empty(0, np.int32)  # no context
GROUPS = ("text", "image", "end", "special")  # of targets; "end" is the end of the document, "special" the rest


@dataclasses.dataclass(frozen=True)
class Perplexity:
    """Sums over a set of documents: natural-log nll and number of targets per group, in the order of GROUPS."""

    nll: tuple[float, ...]
    count: tuple[int, ...]

    def over(self, *groups: str) -> float:
        """exp(mean nll) over the targets of some groups; nan without any target."""
        chosen = [GROUPS.index(g) for g in groups]
        count = sum(self.count[i] for i in chosen)
        return math.exp(sum(self.nll[i] for i in chosen) / count) if count else math.nan

    @property
    def text(self) -> float:
        """Over text and the ends of documents: knowing where to stop is part of writing."""
        return self.over("text", "end")

    @property
    def image(self) -> float:
        """Over the codes of pictures only."""
        return self.over("image")

    @property
    def all(self) -> float:
        """Over every target: on caption-picture pairs, what the paper's MS-COCO perplexity is."""
        return self.over(*GROUPS)


def perplexity(
    config: LanguageConfig,
    params: dict,
    space: TokenSpace,
    records: Iterable[np.ndarray],
    *,
    contexts: Iterable[np.ndarray] | None = None,
    batch_tokens: int = 4096,
    mesh: Mesh | None = None,
) -> Perplexity:
    """Perplexity of a model on records of token ids, int32 [n] each (a store's: no leading `</s>`, a closing one).

    A record longer than the model's positions is read in windows that overlap by half, so that each target counted in
    a later window has at least half a window before it. `contexts` are ids that stand before each record, after the
    start of its document, and are read but are no targets: retrieved documents. `batch_tokens` bounds a batch's padded
    size. With a mesh the rows of a batch are spread over it; every process gives the same records and gets the same
    sums.
    ValueError if there is no record, an id outside the vocabulary, or no room for a record and its context.
    """
    rows = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    group = _groups(space)
    nll, count = np.zeros(len(GROUPS)), np.zeros(len(GROUPS), np.int64)
    paired = zip(records, itertools.repeat(NOTHING) if contexts is None else contexts, strict=contexts is not None)
    windows = (w for record, context in paired for w in _windows(record, context, config, space))
    with jax.set_mesh(mesh) if mesh is not None else contextlib.nullcontext():
        for tokens, counted in _batches(windows, config.max_positions, batch_tokens, rows, space.pad):
            placed = tokens if mesh is None else jax.device_put(tokens, batch_sharding(mesh))
            got = np.asarray(_score(config, params, placed), np.float64)[counted]
            which = group[tokens[:, 1:][counted]]
            nll += np.bincount(which, got, len(GROUPS))
            count += np.bincount(which, minlength=len(GROUPS))
    if not count.sum():
        raise ValueError("there is no document to measure perplexity on")
    return Perplexity(tuple(nll.tolist()), tuple(count.tolist()))


@functools.partial(jax.jit, static_argnums=0)
def _score(config: LanguageConfig, params: dict, tokens: jax.Array) -> jax.Array:
    """tokens [B, T + 1] int32 → the nll of each target, [B, T] float32, on every device."""
    logits, _ = model.forward(config, params, tokens[:, :-1])
    nll = token_nll(logits, tokens[:, 1:])
    # Replicated on a mesh, so that every process can read all of it.
    return nll if jax.sharding.get_abstract_mesh().empty else jax.lax.with_sharding_constraint(nll, PartitionSpec())


def _groups(space: TokenSpace) -> np.ndarray:
    """Index in GROUPS of every id, int64 [vocab_size]."""
    names = {ids.TEXT: "text", ids.IMAGE: "image", ids.SPECIAL: "special"}
    table = np.array([GROUPS.index(names[m]) for m in space.modality.tolist()])
    table[space.end_of_document] = GROUPS.index("end")
    return table


def _windows(
    record: np.ndarray, context: np.ndarray, config: LanguageConfig, space: TokenSpace
) -> Iterator[tuple[np.ndarray, int]]:
    """`</s>` + context + record in pieces of at most max_positions targets, each with its first target that counts."""
    if len(record) and not 0 <= record.min() <= record.max() < config.vocab_size:
        raise ValueError(
            f"a document holds id {record.max()}, but the model has {config.vocab_size} rows: "
            "its store was made with another tokenizer"
        )
    sequence = np.concatenate([space.before_record, record]).astype(np.int32)
    size = config.max_positions
    if len(context):
        sequence = np.concatenate([sequence[:1], context, sequence[1:]]).astype(np.int32)
        if len(sequence) - 1 > size:
            raise ValueError(
                f"a document of {len(record)} tokens and {len(context)} retrieved ones do not fit the model's {size} "
                "positions: retrieve fewer"
            )
    hop = max(size // 2, 1)
    for start in range(0, max(len(sequence) - 1 - size + hop, 1), hop):
        yield sequence[start : start + size + 1], size - hop if start else len(context)


def _batches(
    windows: Iterator[tuple[np.ndarray, int]], longest: int, batch_tokens: int, rows: int, pad: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Windows of like length together, in few fixed shapes: tokens int32 [R, T + 1], counted bool [R, T]."""
    waiting: dict[int, list[tuple[np.ndarray, int]]] = {}
    for window in windows:
        length = min(max(16, 1 << (len(window[0]) - 2).bit_length()), longest) if len(window[0]) > 1 else 16
        bucket = waiting.setdefault(length, [])
        bucket.append(window)
        if len(bucket) == _rows(length, batch_tokens, rows):
            yield _padded(bucket, length, len(bucket), pad)
            bucket.clear()
    for length, bucket in waiting.items():
        if bucket:
            yield _padded(bucket, length, _rows(length, batch_tokens, rows), pad)


def _rows(length: int, batch_tokens: int, multiple: int) -> int:
    return max(batch_tokens // length // multiple, 1) * multiple


def _padded(bucket: list[tuple[np.ndarray, int]], length: int, rows: int, pad: int) -> tuple[np.ndarray, np.ndarray]:
    tokens, counted = np.full((rows, length + 1), pad, np.int32), np.zeros((rows, length), bool)
    for row, (window, first) in enumerate(bucket):
        tokens[row, : len(window)] = window
        counted[row, first : len(window) - 1] = True
    return tokens, counted
