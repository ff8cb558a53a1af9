"""Training blocks of one source: a pure function of the seed and the block's number, so resuming is a number.

The documents of a store are put in a new order every epoch. `stream` cuts the endless row of them into blocks, as the
original does; `document` gives every document a block of its own, padded; `packed` puts as many whole documents into a
block as fit, each with positions from 0. Blocks, or their documents where these are whole, then pass through the CM3
objective (or have their caption masked), and every target gets a weight: 0 for padding, for the `</s>` with which a
document begins and, if wished, for prompts.
"""

import warnings

import numpy as np

from jam_jax.config import DataConfig, SourceConfig
from jam_jax.data import cm3
from jam_jax.data.store import Store
from jam_jax.tokens import TokenSpace

ORDER, BLOCK, PACKING = 0, 1, 2  # what a random stream is for; part of its key
GROWTH = 3  # tokens that masking one span, or a caption, adds to a document


class SourceBlocks:
    """Blocks of one source: `[n]` gives tokens int32 [block], weights float32 and positions int32 [block - 1]."""

    def __init__(
        self, source: SourceConfig, store: Store, config: DataConfig, space: TokenSpace, key: tuple[int, ...]
    ) -> None:
        """`key` (the seed and the source's index) decides all that is random. ValueError if the options clash.

        A whole document that is longer than a block is cut; their number is a warning.
        """
        prompts = bool(store.lengths[:, 1].any())
        if source.cm3 or (source.mask_caption and space.unconditional is None):
            space.require_infill()
        if prompts and source.cm3:
            raise ValueError(f"store {source.store} holds instructions, which the CM3 objective is not for: set cm3=0")
        if source.mask_caption and source.cut == "stream":
            raise ValueError(f"mask_caption of {source.store} needs whole pairs: set cut='document' or cut='packed'")
        self._source, self._store, self._config, self._space, self._key = source, store, config, space, key
        self._tokens = int(store.lengths[:, 0].sum(dtype=np.int64))  # of an epoch
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._packings: dict[int, np.ndarray] = {}
        self._before = np.array(space.before_record, np.int32)
        long = int((store.lengths[:, 0].astype(np.int64) + len(self._before) > config.block).sum())
        if source.cut != "stream" and long:
            warnings.warn(
                f"{long} of {len(store)} documents of {source.store} are longer than a block of {config.block} and "
                "will be cut",
                stacklevel=2,
            )
        if source.cut == "packed":
            self._pack()

    def __getitem__(self, n: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((*self._key, BLOCK, n))
        block = self._config.block
        if self._source.cut == "stream":
            parts = [self._target(rng, *self._stream(n), block)]
        elif self._source.cut == "document":
            parts = [self._target(rng, *self._document(*divmod(n, len(self._store))), block)]
        else:
            parts = [self._target(rng, *self._document(0, row), int(self._need[row])) for row in self._packed(n)]
        row = np.full(block, self._space.pad, np.int32)
        weights, positions = np.zeros(block, np.float32), np.zeros(block, np.int32)
        at = 0
        for tokens, weight in parts:
            end = at + len(tokens)
            row[at:end], weights[at:end], positions[at:end] = tokens, weight, np.arange(len(tokens))
            if self._source.cut == "packed":
                weights[at] = 0  # nobody can guess a document's first token from the one before it
            at = end
        return {"tokens": row, "weights": weights[1:], "positions": positions[:-1]}

    def _target(
        self, rng: np.random.Generator, tokens: np.ndarray, prompt: np.ndarray, room: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens as the model sees them, at most `room`, and the weight of each as a target."""
        masked = self._mask(rng, tokens, room)
        if masked is not tokens or self._source.prompt_loss:  # what is masked holds no prompts
            return masked, np.ones(len(masked), np.float32)
        return tokens, (~prompt).astype(np.float32)

    def _mask(self, rng: np.random.Generator, tokens: np.ndarray, room: int) -> np.ndarray:
        """The caption masked, or CM3 applied, each with its own probability; else `tokens` itself."""
        source = self._source
        caption, spans = rng.random(2)
        if caption < source.mask_caption and cm3.caption_end(tokens, self._space):
            return cm3.mask_caption(tokens, self._space, room)
        if spans < source.cm3:
            return cm3.mask(rng, tokens, self._space, room, self._config.cm3_mean)
        return tokens

    def _document(self, epoch: int, row: int) -> tuple[np.ndarray, np.ndarray]:
        """A document from its start on, by its place in an epoch's order, cut at the block; True in its prompt."""
        document = int(self._epoch(epoch)[0][row])
        tokens = np.concatenate([self._before, self._store[document]])[: self._config.block]
        return tokens, np.arange(len(tokens)) < len(self._before) + self._prompt(document)

    def _pack(self) -> None:
        """Fill blocks with the documents of epoch 0's order, one after another.

        The same documents share a block in every epoch, of which a document notices nothing; so all epochs have the
        same number of blocks and a block is found by division.
        """
        growth = GROWTH if self._source.cm3 or self._source.mask_caption else 0
        lengths = self._store.lengths[self._epoch(0)[0], 0].astype(np.int64) + len(self._before) + growth
        self._need = np.minimum(lengths, self._config.block)
        ends, first = np.cumsum(self._need), [0]
        while first[-1] < len(ends):
            before = ends[first[-1] - 1] if first[-1] else 0
            first.append(int(np.searchsorted(ends, before + self._config.block, side="right")))
        self._first = np.array(first)

    def _packed(self, n: int) -> range:
        """The documents of block n, by their places in epoch 0's order."""
        epoch, number = divmod(n, len(self._first) - 1)
        if epoch not in self._packings:
            order = np.random.default_rng((*self._key, PACKING, epoch)).permutation(len(self._first) - 1)
            self._packings = {e: v for e, v in self._packings.items() if e == epoch - 1} | {epoch: order}
        row = self._packings[epoch][number]
        return range(self._first[row], self._first[row + 1])

    def _stream(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens [n block, (n + 1) block) of the documents of all epochs, one after another; True in prompts."""
        at, end = n * self._config.block, (n + 1) * self._config.block
        tokens, prompt = [], []
        while at < end:
            epoch, offset = divmod(at, self._tokens)
            order, ends = self._epoch(epoch)
            row = int(np.searchsorted(ends, offset, side="right"))
            document = int(order[row])
            ids = self._store[document]
            start = offset - (int(ends[row]) - len(ids))
            part = np.arange(start, min(len(ids), start + end - at))
            tokens.append(ids[part])
            prompt.append(part < self._prompt(document))
            at += len(part)
        return np.concatenate(tokens), np.concatenate(prompt)

    def _prompt(self, document: int) -> int:
        return int(self._store.lengths[document, 1])

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of an epoch's documents and where each ends, in tokens; int64 [documents] both."""
        if epoch not in self._epochs:
            order = np.random.default_rng((*self._key, ORDER, epoch)).permutation(len(self._store))
            ends = np.cumsum(self._store.lengths[order, 0], dtype=np.int64)
            # Two epochs are kept: readers ahead of the loop cross from one to the next.
            self._epochs = {e: v for e, v in self._epochs.items() if e == epoch - 1} | {epoch: (order, ends)}
        return self._epochs[epoch]
