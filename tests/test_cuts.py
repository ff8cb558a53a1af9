"""Cuts: no token lost, no picture cut where none may be, whole documents, and every document once an epoch."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from jam_jax import tokens
from jam_jax.config import SourceConfig
from jam_jax.data import cuts
from jam_jax.data.cuts import Anywhere, AroundPictures, Documents, Packed
from jam_jax.data.order import Orders
from jam_jax.data.sequences import Sequences
from jam_jax.data.store import write_ids

JAM = tokens.jam(text=300, codes=16, codes_per_image=4)
# As Emu3's: a picture opens with a text of its size and closes with a token of its own; documents have a start.
OPENS, CLOSES, START = 310, 311, 312
ROWS = tokens.TokenSpace(
    vocab_size=320,
    text=(4, 300),
    image_ids=tuple(range(300, 308)),
    start_of_image=OPENS,
    end_of_image=CLOSES,
    end_of_document=2,
    end_of_infill=None,
    sentinels=(),
    pad=1,
    picture_layout=(OPENS, 50, tokens.CODE, tokens.CODE, 309, tokens.CODE, tokens.CODE, 309),
    picture_closers=(CLOSES,),
    start_of_document=START,
)
COUNT, KEY = 60, (3, 1)


def sequences(directory: Path, space: tokens.TokenSpace, before: tuple[int, ...] = ()) -> Sequences:
    """Documents of up to three pictures between texts, the first text of each saying which it is."""
    rng = np.random.default_rng(0)
    records = []
    for i in range(COUNT):
        ids = [space.start_of_document] if space.start_of_document is not None else []
        ids += [10 + i] * int(rng.integers(1, 6))
        for _ in range(i % 4):
            codes = iter(rng.choice(space.image_ids, space.codes_per_image))
            ids += [next(codes) if t == tokens.CODE else t for t in space.picture_layout]
            if space is ROWS or rng.random() < 0.5:
                ids += [space.picture_closers[0], *rng.integers(100, 300, rng.integers(1, 9))]
            else:
                break  # the document ends with its picture
        records.append((np.array([*ids, space.end_of_document]), 0))
    return Sequences(SourceConfig(""), write_ids(directory / "store", records, space), space, before)


def pictures(stream: np.ndarray, space: tokens.TokenSpace) -> list[tuple[int, int]]:
    """Where the pictures of a stream lie, from the opening token to the closing one."""
    found, at = [], 0
    while at < len(stream):
        if stream[at] == space.start_of_image:
            found.append((at, at + len(space.picture_layout) + 1))
            at += len(space.picture_layout) + 1
        else:
            at += 1
    return found


@pytest.mark.parametrize("space", [JAM, ROWS], ids=["jam", "rows"])
@pytest.mark.parametrize("length", [17, 23, 64])
def test_a_block_that_would_cut_a_picture_ends_before_it(tmp_path: Path, space: tokens.TokenSpace, length: int) -> None:
    made = sequences(tmp_path, space)
    anywhere, around = Anywhere(made, KEY, length), AroundPictures(made, KEY, length, space)
    epochs = 2
    blocks = [around[n] for n in range(int(epochs * around.per_epoch) + 1)]
    sizes = [sum(len(piece.ids) for piece in block) for block in blocks]
    assert all(0 < size <= length for size in sizes)
    joined = np.concatenate([piece.ids for block in blocks for piece in block])
    whole = (anywhere[n] for n in range(len(joined) // length + 1))
    stream = np.concatenate([piece.ids for block in whole for piece in block])[: len(joined)]
    np.testing.assert_array_equal(joined, stream)  # no token is lost, none comes twice
    edges = set(itertools.accumulate(sizes))
    held = pictures(stream, space)
    assert len(held) > 20
    inside = {at for start, end in held for at in range(start + 1, end)}
    assert not edges & inside
    assert edges & {start for start, _ in held}  # some blocks do begin with the picture that did not fit
    assert around.per_epoch == pytest.approx(len(stream) / epochs / (length - space.picture_tokens + 1), rel=0.05)


def test_a_block_has_room_for_a_picture_and_what_moves(tmp_path: Path) -> None:
    made = sequences(tmp_path, JAM)
    assert JAM.picture_tokens == 6
    AroundPictures(made, KEY, 11, JAM)
    with pytest.raises(ValueError, match="cut='picture' needs blocks of at least 11 tokens where pictures have 6, got"):
        AroundPictures(made, KEY, 10, JAM)


@pytest.mark.parametrize("length", [16, 40])
def test_documents_are_whole_or_cut_at_the_end(tmp_path: Path, length: int) -> None:
    made = sequences(tmp_path, JAM, (2,))
    cut = Documents(made, KEY, length)
    assert cut.per_epoch == COUNT
    for epoch in range(2):
        blocks = [cut[epoch * COUNT + n] for n in range(COUNT)]
        assert all(len(block) == 1 and block[0].room == length for block in blocks)
        names = [int(block[0].ids[1]) for block in blocks]
        assert sorted(names) == list(range(10, 10 + COUNT))
        for name, (piece,) in zip(names, blocks, strict=True):
            np.testing.assert_array_equal(piece.ids, made.read(name - 10, epoch)[0][:length])


@pytest.mark.parametrize("growth", [0, 3])
@pytest.mark.parametrize("group", [1, 3, 16])
@pytest.mark.parametrize("passes", [7, 1 << 16])
def test_packed_blocks_are_filled_with_whole_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, growth: int, group: int, passes: int
) -> None:
    monkeypatch.setattr(cuts, "GROUP", group)
    monkeypatch.setattr(cuts, "PASS", passes)
    made, length = sequences(tmp_path, JAM, (2,)), 30
    cut = Packed(made, KEY, length, growth)
    orders = []
    for epoch in range(2):
        blocks = [cut[epoch * cut.per_epoch + n] for n in range(cut.per_epoch)]
        names = [int(piece.ids[1]) for block in blocks for piece in block]
        assert sorted(names) == list(range(10, 10 + COUNT))
        orders.append(names)
        for block in blocks:
            assert sum(piece.room for piece in block) <= length
            for piece in block:
                ids = made.read(int(piece.ids[1]) - 10, 0)[0]
                np.testing.assert_array_equal(piece.ids, ids[:length])
                assert piece.room == min(len(ids) + growth, length)
    assert orders[0] != orders[1]
    # The first document of a block did not fit into the one before it, in the order in which blocks were filled.
    filled: list[list[int]] = [[]]
    for document in Orders((*KEY, cuts.ORDER), COUNT)[0](np.arange(COUNT)).tolist():
        need = min(len(made.read(document, 0)[0]) + growth, length)
        if sum(filled[-1]) + need > length:
            filled.append([])
        filled[-1].append(need)
    assert len(filled) == cut.per_epoch
    rooms = sorted([piece.room for piece in cut[n]] for n in range(cut.per_epoch))
    assert rooms == sorted(filled)
