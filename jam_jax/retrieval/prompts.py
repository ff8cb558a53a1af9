"""Retrieval for what is to be written: documents of a bank that go before each prompt, and where they came from."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jam_jax.data.retrieved import separates_texts, standing
from jam_jax.retrieval.bank import Bank
from jam_jax.retrieval.choose import COUNT
from jam_jax.retrieval.encode import Encoder
from jam_jax.tokens import TokenSpace


@dataclasses.dataclass(frozen=True)
class Retrieved:
    """One document that goes before a prompt."""

    number: int  # in the bank's store
    score: float  # inner product of the prompt's and the document's vectors
    record: tuple[int, ...]  # its ids in the store
    ids: tuple[int, ...]  # as they stand before another document


def for_prompts(
    bank: Bank, encoder: Encoder, space: TokenSpace, prompts: Sequence[str], count: int = COUNT
) -> list[tuple[Retrieved, ...]]:
    """The documents that the strategy takes for each prompt, the most similar first: `count`, or fewer.

    A prompt without text has none. ValueError if the bank was made with another encoder, or its store with another
    tokenizer than that of `space`.
    """
    bank.check(encoder)
    store = bank.store()
    store.check(space)
    found: list[tuple[Retrieved, ...]] = [()] * len(prompts)
    said = [i for i, prompt in enumerate(prompts) if prompt.strip()]
    if not said or count < 1:
        return found
    queries = encoder.texts([prompts[i] for i in said])
    numbers, scores = bank.retrieve(queries, count, picture_last=not separates_texts(space))
    for i, which, score in zip(said, numbers.tolist(), scores.tolist(), strict=True):
        taken = [(n, s, store[n]) for n, s in zip(which, score, strict=True) if n >= 0]
        found[i] = tuple(Retrieved(n, s, tuple(ids.tolist()), _before(space, ids)) for n, s, ids in taken)
    return found


Find = Callable[[Sequence[str]], list[tuple[Retrieved, ...]]]  # prompts → what goes before each


def finder(directory: str | Path, clip: str | Path, space: TokenSpace, count: int = COUNT) -> Find:
    """The same from a bank's directory and its encoder's, opened once; `clip` is empty unless that has moved."""
    bank = Bank(directory)
    encoder = bank.encoder(clip)
    return lambda prompts: for_prompts(bank, encoder, space, prompts, count)


def _before(space: TokenSpace, ids: np.ndarray) -> tuple[int, ...]:
    return tuple(standing(space, ids).tolist())
