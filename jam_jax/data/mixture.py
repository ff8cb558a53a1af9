"""The mixture: which source gives block n. A pure function of n whose realised shares are exact in the long run.

The sources form a chain: of the blocks that reach it a source takes the share p = weight / (weights from here on), at
those n where floor((n + 1) p) > floor(n p), and passes the others on, renumbered. So each source also knows how many
blocks it gave before, in closed form: no table, no counter, no random draw, and any block can be made at any time.
"""

from fractions import Fraction
from pathlib import Path

import numpy as np

from jam_jax.config import DataConfig
from jam_jax.data.blocks import SourceBlocks
from jam_jax.data.store import Store
from jam_jax.tokens import TokenSpace


def shares(weights: tuple[float, ...]) -> tuple[Fraction, ...]:
    """Per source its share of the blocks that the sources before it leave; exact, so that counts never drift."""
    exact = [Fraction(w) for w in weights]
    if not any(exact):
        raise ValueError("a mixture needs a source with a positive weight: give data.sources")
    rests = [sum(exact[i:]) for i in range(len(exact))]
    return tuple(w / rest if rest else Fraction(0) for w, rest in zip(exact, rests, strict=True))


def place(chain: tuple[Fraction, ...], n: int) -> tuple[int, int]:
    """Block n of a mixture with these `shares` → (its source, how many blocks that source gave before)."""
    for source, p in enumerate(chain):
        before = n * p.numerator // p.denominator
        if (n + 1) * p.numerator // p.denominator > before:
            return source, before
        n -= before
    raise AssertionError("the last source with a weight takes all that reaches it")


def given(chain: tuple[Fraction, ...], n: int) -> list[int]:
    """How many of the first n blocks of a mixture with these `shares` each source gives."""
    counts = []
    for p in chain:
        counts.append(n * p.numerator // p.denominator)
        n -= counts[-1]
    return counts


class Blocks:
    """The blocks of a run: `[n]` gives tokens int32 [block], weights float32 and positions int32 [block - 1]."""

    def __init__(self, config: DataConfig, space: TokenSpace, seed: int) -> None:
        """Open every store; ValueError if one is missing, damaged or made with another tokenizer."""
        self._chain = shares(tuple(s.weight for s in config.sources))
        stores = {source.store: Store(source.store) for source in config.sources}
        for store in stores.values():
            store.check(space)
        self._sources = [
            SourceBlocks(source, stores[source.store], config, space, (seed, index))
            for index, source in enumerate(config.sources)
        ]
        names = [Path(source.store).name for source in config.sources]
        self._names = names if len(set(names)) == len(names) else [source.store for source in config.sources]

    def epochs(self, n: int) -> dict[str, float]:
        """How often the first n blocks go through each store, by the store's name."""
        counts = given(self._chain, n)
        epochs: dict[str, float] = dict.fromkeys(self._names, 0.0)
        for name, source, count in zip(self._names, self._sources, counts, strict=True):
            epochs[name] += count / source.per_epoch  # a store may be in the mixture twice
        return epochs

    def __getitem__(self, n: int) -> dict[str, np.ndarray]:
        source, number = place(self._chain, n)
        return self._sources[source][number]
