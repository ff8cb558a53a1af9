"""Exact perplexity of a model on documents, apart for text and for images (arXiv 2309.15564, tables 2 to 5).

A document is read as in training's document mode, `</s>` + record, from position 0, and each of its record's tokens is
a target exactly once; where a vocabulary has a start of its own for documents, that takes the place of the `</s>`.
docs/evaluation.md has the whole definition, and what of it the paper does not say.
"""

import array
import contextlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from jam_jax import hosts, progress
from jam_jax.evaluate import scoring, sums
from jam_jax.evaluate.documents import Documents, Share, of_records
from jam_jax.evaluate.sums import Perplexity
from jam_jax.evaluate.windows import cut
from jam_jax.models.model import LanguageConfig
from jam_jax.tokens import TokenSpace


class Reading(NamedTuple):
    """How documents are read; of 0 the default is taken."""

    context: int = 0  # targets of a window at most; by default the model's positions
    stride: int = 0  # new targets of each window after a document's first; by default half of the context
    batch_tokens: int = scoring.BATCH_TOKENS  # of a batch, on each device of data x fsdp

    def of(self, config: LanguageConfig) -> tuple[int, int]:
        """Context and stride for a model; ValueError where one is out of bounds."""
        size = self.context or config.max_positions
        if not 1 <= size <= config.max_positions:
            raise ValueError(f"context must be 1 to {config.max_positions}, the model's positions, got {size}")
        stride = self.stride or max(size // 2, 1)
        if not 1 <= stride <= size:
            raise ValueError(f"stride must be 1 to {size}, the context, got {stride}")
        return size, stride


def perplexity(
    config: LanguageConfig,
    params: dict,
    space: TokenSpace,
    documents: Documents | Iterable[np.ndarray],
    *,
    reading: Reading = Reading(),
    mesh: Mesh | None = None,
    text_bytes: Callable[[np.ndarray], int] | None = None,
    task: str = "",
) -> Perplexity:
    """The sums over documents, every token of which is a target once, on one device or on a mesh.

    `documents` are shares (`evaluate.documents`), or records of ids, int32 [n] each (a store's: no leading `</s>`, a
    closing one), the same on every process. On a mesh every process of the run calls this; each reads its own share
    alone, and all get the same sums. `text_bytes` counts the bytes of a record's texts; `task` names the progress line.
    ValueError, on every process, if no document holds a target, one cannot be read, one holds an id outside the
    vocabulary, or one does not fit together with what was retrieved for it. A likelihood that is no finite number is
    counted and told of in the sums (`require_finite`).
    """
    own = scoring.group(mesh)
    if not callable(documents):
        documents = of_records(list(documents))
    size, stride = reading.of(config)
    with hosts.together():
        share = documents(own.index, own.of)
        parts = _windows(share, config, space, size, stride)
    counts = hosts.gathered(np.array([share.count, len(parts)]))[list(own.leaders)]
    if not counts[:, 1].any():
        raise ValueError("there is no document to measure perplexity on: none holds a token to predict")
    before = int(counts[: own.index, 0].sum()) if share.first is None else share.first

    def read(i: int) -> np.ndarray:
        document, start, stop, _ = parts[i].tolist()
        ids, context = share.read(document)
        return _sequence(space, ids, context)[start:stop]

    group, tally, found = sums.groups(space), sums.Tally(share.count), 0
    sizes = parts[:, 2] - parts[:, 1]
    show = progress.bar(task, len(parts)) if task and len(parts) else contextlib.nullcontext(lambda n: None)
    with show as advance:
        for rows in scoring.scored(config, params, space, sizes, read, mesh=mesh, batch_tokens=reading.batch_tokens):
            column, part = np.arange(1, rows.tokens.shape[1]), parts[rows.numbers]
            counted = (column >= part[:, 3:]) & (column < sizes[rows.numbers][:, None])
            tally.add(part[:, 0], group[rows.tokens[:, 1:]], counted, rows.nll, rows.within)
            if text_bytes is not None:
                found += sum(text_bytes(share.read(document)[0]) for document in part[part[:, 1] == 0, 0].tolist())
            advance(len(part))
    return tally.total(own.leaders, lambda i: before + i * share.step, None if text_bytes is None else found)


def _windows(share: Share, config: LanguageConfig, space: TokenSpace, size: int, stride: int) -> np.ndarray:
    """What is to be scored: int64 [windows, 4], each with its document in the share, start, stop and first target."""
    found = array.array("q")  # 32 bytes a window
    for i in range(share.count):
        ids, context = share.read(i)
        if len(ids) and not 0 <= ids.min() <= ids.max() < config.vocab_size:
            raise ValueError(
                f"a document holds id {ids.max() if ids.min() >= 0 else ids.min()}, but the model has "
                f"{config.vocab_size} rows: its store was made with another tokenizer"
            )
        length = len(space.before_record) + len(ids) + len(context)
        if len(context) and length - 1 > size:
            raise ValueError(
                f"a document of {len(ids)} tokens and {len(context)} retrieved ones do not fit the model's {size} "
                "positions: retrieve fewer"
            )
        if length - len(context) > 1:
            for part in cut(length, len(context), size, stride):
                found.extend((i, *part))
    return np.array(found, np.int64).reshape(-1, 4)


def _sequence(space: TokenSpace, ids: np.ndarray, context: np.ndarray) -> np.ndarray:
    """`</s>` + context + record; a start of its own stands before the context too."""
    whole = np.concatenate([space.before_record, ids]).astype(np.int32)
    return np.concatenate([whole[:1], context, whole[1:]]) if len(context) else whole
