"""Training blocks of one source: a pure function of the seed and the block's number, so resuming is a number.

The documents of a store are put in a new order every epoch, and blocks are cut from the row of them (`cuts`): anywhere,
as the original does, never inside a picture, or at whole documents. Blocks, or the documents in them where each sees
itself alone, then pass through the CM3 objective (or have their caption masked), and every target gets a weight: 0 for
padding, for the token with which a document begins and, if wished, for prompts and for the masks' own tokens.
"""

import warnings

import numpy as np

from jam_jax.config import DataConfig, SourceConfig
from jam_jax.data import cm3, cuts
from jam_jax.data.sequences import Sequences
from jam_jax.data.store import Store
from jam_jax.data.stream import PASS, Piece
from jam_jax.tokens import TokenSpace

BLOCK = 1  # what a random stream is for; part of its key, beside those of `cuts`
GROWTH = 3  # tokens that masking one span, or a caption, adds to a document


class SourceBlocks:
    """Blocks of one source: `[n]` gives tokens int32 [block], weights float32 and positions int32 [block - 1]."""

    def __init__(
        self, source: SourceConfig, store: Store, config: DataConfig, space: TokenSpace, key: tuple[int, ...]
    ) -> None:
        """`key` (the seed and the source's index) decides all that is random. ValueError if the options clash.

        A whole document that is longer than a block is cut; their number is a warning.
        """
        whole = source.cut in ("document", "packed")
        if source.cm3 or (source.mask_caption and space.unconditional is None):
            space.require_infill()
        if store.has_prompts and source.cm3:
            raise ValueError(f"store {source.store} holds instructions, which the CM3 objective is not for: set cm3=0")
        if store.has_prompts and source.neighbours:
            raise ValueError(f"store {source.store} holds instructions, before which nothing is retrieved: set none")
        if source.mask_caption and not whole:
            raise ValueError(f"mask_caption of {source.store} needs whole pairs: set cut='document' or cut='packed'")
        self._source, self._config, self._space, self._key = source, config, space, key
        self._is_mask = np.zeros(space.vocab_size, bool)
        self._is_mask[space.sentinel_ids] = True
        self._alone = source.cut == "packed" or source.within_documents
        # In a stream that a block sees whole, the end of one document is what the next begins with.
        before = space.before_record if whole or self._alone else ()
        self._cut = self._make_cut(Sequences(source, store, space, before), store)

    def _make_cut(self, sequences: Sequences, store: Store) -> cuts.Cut:
        source, block = self._source, self._config.block
        if source.cut == "stream" or (source.cut == "picture" and not store.manifest["counts"]["image"]):
            return cuts.Anywhere(sequences, self._key, block)
        if source.cut == "picture":
            return cuts.AroundPictures(sequences, self._key, block, self._space)
        passes = (np.arange(a, min(a + PASS, len(sequences))) for a in range(0, len(sequences), PASS))
        if long := sum(int((sequences.lengths(rows, 0) > block).sum()) for rows in passes):
            warnings.warn(
                f"{long} of {len(store)} documents of {source.store} are longer than a block of {block} and "
                "will be cut",
                stacklevel=3,
            )
        if source.cut == "document":
            return cuts.Documents(sequences, self._key, block)
        growth = GROWTH if source.cm3 or source.mask_caption else 0
        return cuts.Packed(sequences, self._key, block, growth)

    @property
    def per_epoch(self) -> float:
        """How many blocks go through all documents once."""
        return self._cut.per_epoch

    def __getitem__(self, n: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((*self._key, BLOCK, n))
        block, pieces = self._config.block, self._cut[n]
        if self._alone:
            parts = [self._target(rng, [piece], piece.room) for piece in pieces]
        else:
            parts = [self._target(rng, pieces, block)]
        row = np.full(block, self._space.pad, np.int32)
        weights, positions = np.zeros(block, np.float32), np.zeros(block, np.int32)
        at = 0
        for tokens, weight in parts:
            end = at + len(tokens)
            row[at:end], weights[at:end], positions[at:end] = tokens, weight, np.arange(len(tokens))
            if self._alone:
                weights[at] = 0  # nobody can guess a document's first token from the one before it
            at = end
        return {"tokens": row, "weights": weights[1:], "positions": positions[:-1]}

    def _target(self, rng: np.random.Generator, pieces: list[Piece], room: int) -> tuple[np.ndarray, np.ndarray]:
        """Pieces as the model sees them, at most `room` tokens, and the weight of each token as a target."""
        tokens = np.concatenate([piece.ids for piece in pieces])
        masked = self._mask(rng, tokens, room)
        weights = np.ones(len(masked), np.float32)
        if masked is tokens and not self._source.prompt_loss:  # what is masked holds no prompts
            at = 0
            for piece in pieces:
                weights[at : at + piece.prompt] = 0
                at += len(piece.ids)
        elif masked is not tokens and not self._config.cm3_mask_loss:
            weights[self._is_mask[masked]] = 0
        return masked, weights

    def _mask(self, rng: np.random.Generator, tokens: np.ndarray, room: int) -> np.ndarray:
        """The caption masked, or CM3 applied, each with its own probability; else `tokens` itself."""
        source = self._source
        caption, spans = rng.random(2)
        if caption < source.mask_caption:
            if cm3.caption_end(tokens, self._space):
                return cm3.mask_caption(tokens, self._space, room)
            if source.neighbours and (left_out := cm3.last_caption(tokens, self._space)):
                return np.delete(tokens, left_out)
        if spans < source.cm3:
            return cm3.mask(rng, tokens, self._space, room, self._config.cm3_mean, source.cm3_segments)
        return tokens
