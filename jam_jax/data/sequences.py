"""A document as blocks hold it: what every document begins with, the documents retrieved for it, and itself."""

from collections.abc import Sequence

import numpy as np

from jam_jax.config import SourceConfig
from jam_jax.data.neighbours import Neighbours
from jam_jax.data.retrieved import standing
from jam_jax.data.store import Store
from jam_jax.tokens import TokenSpace


class Sequences:
    """The token sequences of a store's documents; what is retrieved changes from epoch to epoch, with period `turns`.

    In JAM `</s> (caption <break> image <break>) x K caption <break> image </s>` (arXiv 2309.15564 section 2.1), the
    most similar document first.
    """

    def __init__(self, source: SourceConfig, store: Store, space: TokenSpace, before: Sequence[int]) -> None:
        """`before`: the ids that every sequence begins with. ValueError if the neighbours are not of this store."""
        self._source, self._store, self._space = source, store, space
        self._before = np.array(before, np.int32)
        self._neighbours = Neighbours(source.neighbours, store) if source.neighbours else None
        self.turns = 1
        if self._neighbours:
            self.turns = self._neighbours.queries
            self._neighbours.bank.check(space)
            # In JAM the </s> that closes a retrieved document's picture gives way to <break>; elsewhere a picture has
            # been closed before. What only opens or closes documents stands around the whole.
            self._closing = space.picture_closers[:1] if space.end_of_document in space.picture_closers else ()
            self._opening = 0 if space.start_of_document is None else 1

    def __len__(self) -> int:
        return len(self._store)

    def lengths(self, documents: np.ndarray, turn: int) -> np.ndarray:
        """The lengths of sequences, int [n] → int64 [n]; `turn` is the epoch's number, or that modulo `turns`."""
        lengths = self._store.lengths[documents, 0].astype(np.int64) + len(self._before)
        if self._neighbours:
            chosen = self._chosen(self._neighbours, documents, turn)
            each = self._neighbours.bank.lengths[chosen, 0].astype(np.int64) - self._opening + len(self._closing) - 1
            lengths += np.where(chosen >= 0, each, 0).sum(axis=1)
        return lengths

    def read(self, document: int, turn: int) -> tuple[np.ndarray, int]:
        """The ids of one sequence, int32 [T], and how many of them no loss belongs to if prompts have none.

        ValueError if a retrieved document ends in a text that nothing would tell from the next one.
        """
        ids = self._store[document]
        prompt = len(self._before) + int(self._store.lengths[document, 1])
        if not self._neighbours:
            return (np.concatenate([self._before, ids]) if len(self._before) else ids), prompt
        chosen = self._chosen(self._neighbours, np.array([document]), turn)[0].tolist()
        bank = self._neighbours.bank
        retrieved = [self._standing(bank, i) for i in chosen if i >= 0]
        return np.concatenate([self._before, ids[: self._opening], *retrieved, ids[self._opening :]]), prompt

    def _standing(self, bank: Store, document: int) -> np.ndarray:
        try:
            return standing(self._space, bank[document])
        except ValueError as error:
            raise ValueError(f"document {document} of the bank {bank.directory}: {error}") from error

    def _chosen(self, neighbours: Neighbours, documents: np.ndarray, turn: int) -> np.ndarray:
        query = turn % self.turns
        return neighbours.choose(documents, query, self._source.retrieved, self._source.too_similar)
