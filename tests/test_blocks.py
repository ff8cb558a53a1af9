"""Blocks of one source: every document once an epoch, the same block whoever asks, and the right weights."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from jam_jax import tokens
from jam_jax.config import DataConfig, SourceConfig
from jam_jax.data import neighbours
from jam_jax.data.blocks import SourceBlocks
from jam_jax.data.store import Store, write_ids

SPACE = tokens.jam(text=1000, codes=16, codes_per_image=4)
END, BREAK, MASK, PAD = SPACE.end_of_document, SPACE.start_of_image, SPACE.sentinel(0), SPACE.pad


def text_store(directory: Path, count: int = 40, prompts: bool = False) -> Store:
    """Documents of different lengths, each of one id only: document i says 10 + i."""
    records = [(np.array([10 + i] * (1 + i % 7) + [END]), 1 if prompts else 0) for i in range(count)]
    return write_ids(directory, records, SPACE)


def pair_store(directory: Path, count: int = 40) -> Store:
    picture = [BREAK, *SPACE.image_ids[:4]]
    return write_ids(directory, [(np.array([10 + i, 11 + i, *picture, END]), 0) for i in range(count)], SPACE)


def make(store: Store, block: int, seed: int = 0, space: tokens.TokenSpace = SPACE, **options: object) -> SourceBlocks:
    source = SourceConfig(**{"store": str(store.directory), "cm3": 0.0} | options)  # type: ignore[arg-type]
    return SourceBlocks(source, store, DataConfig(block=block), space, (seed, 0))


def test_a_stream_holds_every_document_once_an_epoch(tmp_path: Path) -> None:
    store = text_store(tmp_path / "s")
    total = int(store.lengths[:, 0].sum())
    blocks = make(store, block=11)
    stream = np.concatenate([blocks[n]["tokens"] for n in range(3 * total // 11 + 1)])
    epochs = [stream[e * total : (e + 1) * total] for e in range(3)]
    orders = []
    for epoch in epochs:
        ends = np.flatnonzero(epoch == END)
        documents = np.split(epoch, ends + 1)[:-1]
        assert sorted(d.tolist() for d in documents) == sorted(store[i].tolist() for i in range(len(store)))
        orders.append([int(d[0]) for d in documents])
    assert orders[0] != orders[1] != orders[2]  # another order every epoch
    assert all((blocks[n]["weights"] == 1).all() for n in range(5))


def test_a_block_longer_than_an_epoch_goes_on_with_the_next(tmp_path: Path) -> None:
    store = text_store(tmp_path / "s", count=3)
    tokens_ = make(store, block=50)[0]["tokens"]
    assert (tokens_ == END).sum() >= 3 * (50 // int(store.lengths[:, 0].sum()))
    assert len(tokens_) == 50


def test_documents_have_blocks_of_their_own(tmp_path: Path) -> None:
    store = text_store(tmp_path / "s")
    blocks = make(store, block=12, cut="document")
    for epoch in range(2):
        seen = []
        for n in range(epoch * 40, epoch * 40 + 40):
            row, weights = blocks[n]["tokens"], blocks[n]["weights"]
            length = int((row != PAD).sum())
            assert row[0] == END
            assert row[length - 1] == END
            assert (row[length:] == PAD).all()
            assert weights.tolist() == [1.0] * (length - 1) + [0.0] * (12 - length)
            assert (row.dtype, weights.dtype) == (np.int32, np.float32)
            seen.append(row[1:length].tolist())
        assert sorted(seen) == sorted(store[i].tolist() for i in range(40))


def test_records_that_begin_with_a_start_of_their_own_get_no_end_before_them(tmp_path: Path) -> None:
    own = dataclasses.replace(SPACE, start_of_document=0)
    records = [(np.array([0, 10 + i, 11 + i, 50 + i, END]), 3) for i in range(6)]  # a start, a question of two
    store = write_ids(tmp_path / "s", records, own)
    for cut in ("document", "packed"):
        block = make(store, 10, space=own, cut=cut, prompt_loss=False)[0]
        row, weights = block["tokens"].tolist(), block["weights"].tolist()
        assert row[0] == 0 and row[4] == END
        assert weights[:4] == [0, 0, 1, 1]  # targets: the question's two, the answer, the end
        if cut == "packed":
            assert row[5] == 0 and weights[4:9] == [0, 0, 0, 1, 1]
    stream = make(store, 10, space=own)[0]["tokens"].tolist()
    assert [stream[0], stream[4:6], stream[9]] == [0, [END, 0], END]


def test_masking_is_refused_where_the_vocabulary_has_no_tokens_for_it(tmp_path: Path) -> None:
    store = pair_store(tmp_path / "s")
    without = dataclasses.replace(SPACE, sentinels=())
    for options in ({"cm3": 0.5}, {"mask_caption": 0.5, "cut": "document"}):
        with pytest.raises(ValueError, match="which the CM3 objective needs"):
            make(store, 12, space=without, **options)
    blank = dataclasses.replace(without, unconditional=(0,))
    block = make(store, 12, space=blank, mask_caption=1.0, cut="document")[0]["tokens"]
    assert block[:2].tolist() == [0, BREAK]


def test_a_block_depends_on_seed_and_number_only(tmp_path: Path) -> None:
    store = text_store(tmp_path / "s")
    forward = make(store, 16, cm3=1.0)
    first = [forward[n] for n in range(60)]
    backward = make(Store(tmp_path / "s"), 16, cm3=1.0)
    for n in reversed(range(60)):
        assert np.array_equal(backward[n]["tokens"], first[n]["tokens"])
    other = make(store, 16, seed=1, cm3=1.0)
    assert any(not np.array_equal(other[n]["tokens"], first[n]["tokens"]) for n in range(3))


def test_cm3_reaches_its_share_of_the_blocks_and_never_the_padding(tmp_path: Path) -> None:
    store = pair_store(tmp_path / "s")
    plain, whole, half = (make(store, 20, cut="document", cm3=share) for share in (0.0, 1.0, 0.5))
    changed = {whole: 0, half: 0}
    for blocks in changed:
        for n in range(300):
            row, weights, before = blocks[n]["tokens"], blocks[n]["weights"], plain[n]["tokens"]
            length = int((row != PAD).sum())
            spans = int((row == SPACE.end_of_infill).sum())
            assert length == 9 + 3 * spans
            assert weights.tolist() == [1.0] * (length - 1) + [0.0] * (20 - length)
            assert (np.array_equal(row, before)) == (spans == 0)
            kept = [t for t in row.tolist() if t not in (PAD, SPACE.end_of_infill) and t < MASK]
            assert sorted(kept) == sorted(before[before != PAD].tolist())
            changed[blocks] += spans > 0
    assert changed[half] < 0.75 * changed[whole]
    assert 100 < changed[whole] < 230


def test_captions_are_masked_in_their_share_of_the_pairs(tmp_path: Path) -> None:
    store = pair_store(tmp_path / "s")
    always, sometimes = (make(store, 12, cut="document", mask_caption=share) for share in (1.0, 0.25))
    plain = make(store, 12, cut="document")
    for n in range(40):
        caption = plain[n]["tokens"][1:3].tolist()
        picture = plain[n]["tokens"][3:9].tolist()
        expected = [END, MASK, *picture, MASK, *caption, SPACE.end_of_infill]
        assert always[n]["tokens"].tolist() == expected[:12]
        assert (always[n]["weights"] == 1).all()
    share = np.mean([MASK in sometimes[n]["tokens"] for n in range(400)])
    assert abs(share - 0.25) < 0.1
    texts = make(text_store(tmp_path / "t"), 12, cut="document", mask_caption=1.0)
    assert not any(MASK in texts[n]["tokens"] for n in range(40))


def test_after_retrieved_documents_captions_are_left_out_in_their_share(tmp_path: Path) -> None:
    store = pair_store(tmp_path / "s")
    near = np.array([[[(i + 1) % 40]] for i in range(39)] + [[[neighbours.NONE]]])
    neighbours.write(tmp_path / "t", store, store, [(near, np.zeros(near.shape))])
    options = {"cut": "document", "neighbours": str(tmp_path / "t")}
    never, always, sometimes = (make(store, 20, mask_caption=share, **options) for share in (0.0, 1.0, 0.25))
    for n in range(40):
        row = never[n]["tokens"].tolist()
        whole = row[: row.index(PAD)] if PAD in row else row
        found = always[n]["tokens"].tolist()
        if whole.count(BREAK) == 1:  # nothing was retrieved: it is masked as every pair is
            assert found[:8] == [END, MASK, *whole[3:]] and MASK in found[8:]
        else:
            assert found[: len(whole) - 2] == [*whole[:9], *whole[11:]] and found[len(whole) - 2] == PAD
            assert always[n]["weights"].sum() == len(whole) - 3
    share = np.mean([(sometimes[n]["tokens"] != never[n]["tokens"]).any() for n in range(400)])
    assert abs(share - 0.25) < 0.1


def test_packed_blocks_hold_every_document_once_an_epoch_each_with_positions_of_its_own(tmp_path: Path) -> None:
    store = text_store(tmp_path / "s")
    blocks = make(store, block=20, cut="packed")
    n, orders = 0, []
    for _ in range(2):
        found: list[list[int]] = []
        while len(found) < len(store):
            block, n = blocks[n], n + 1
            row, positions, weights = block["tokens"], block["positions"], block["weights"]
            starts = [t for t in range(19) if positions[t] == 0 and row[t] == END]
            ends = [*starts[1:], int((row != PAD).sum())]
            for start, end in zip(starts, ends, strict=True):
                found.append(row[start + 1 : end].tolist())
                np.testing.assert_array_equal(positions[start : min(end, 19)], np.arange(min(end, 19) - start))
            expected = (row[1:] != PAD) & ~np.isin(np.arange(1, 20), starts)
            np.testing.assert_array_equal(weights, expected)
        assert sorted(found) == sorted(store[i].tolist() for i in range(len(store)))
        orders.append([d[0] for d in found])
    assert orders[0] != orders[1]
    assert n < 2 * 18  # 40 documents of 6 tokens on average in fewer than 18 blocks of 20


def test_packed_documents_are_masked_one_by_one(tmp_path: Path) -> None:
    store = pair_store(tmp_path / "s")
    packed, alone = make(store, 36, cut="packed", mask_caption=1.0), make(store, 12, cut="document", mask_caption=1.0)
    rows = {alone[n]["tokens"].tobytes() for n in range(40)}
    found = [packed[n]["tokens"][i : i + 12] for n in range(14) for i in (0, 12, 24)]
    assert {part.tobytes() for part in found if part[0] != PAD} == rows


@pytest.mark.parametrize("cut", ["stream", "document", "packed"])
def test_prompts_can_be_left_out_of_the_loss(tmp_path: Path, cut: str) -> None:
    answers = [np.array([100 + i] * (1 + i % 3)) for i in range(20)]
    records = [(np.array([50 + i, 51 + i, MASK, END, *a, END]), 4) for i, a in enumerate(answers)]
    store = write_ids(tmp_path / "s", records, SPACE)
    blocks = make(store, 15, cut=cut, prompt_loss=False)
    everywhere = make(store, 15, cut=cut)
    for n in range(30):
        row, weights = blocks[n]["tokens"], blocks[n]["weights"]
        for t, token in enumerate(row[1:].tolist()):
            of_answer = 100 <= token < 120 or (token == END and 100 <= row[t] < 120)
            assert weights[t] == float(of_answer), (n, t, row, weights)
        starts = (everywhere[n]["positions"][1:] == 0) & (row[1:-1] != PAD)
        assert (everywhere[n]["weights"][:-1] == (row[1:-1] != PAD) & ~starts).all()


def test_too_long_documents_are_cut_with_a_warning(tmp_path: Path) -> None:
    store = text_store(tmp_path / "s")  # 6 or 5 of each length from 2 to 8
    with pytest.warns(UserWarning, match="16 of 40 documents .* longer than a block of 6 .*cut"):
        blocks = make(store, 6, cut="document")
    assert all(len(blocks[n]["tokens"]) == 6 for n in range(40))


def test_options_that_clash_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds instructions.*set cm3=0"):
        make(text_store(tmp_path / "a", prompts=True), 16, cm3=1.0)
    with pytest.raises(ValueError, match="set cut='document'"):
        make(text_store(tmp_path / "b"), 16, mask_caption=0.1)


def test_every_block_has_its_own_draws(tmp_path: Path) -> None:
    store = write_ids(tmp_path / "s", [(np.array([*range(10, 40), END]), 0)], SPACE)
    blocks = make(store, 40, cut="document", cm3=1.0)
    assert len({blocks[n]["tokens"].tobytes() for n in range(40)}) > 15


def interleaved_store(directory: Path, count: int = 40) -> Store:
    """Document i: a text of 10 + i, a picture, and in every second one another text."""
    picture = [BREAK, *SPACE.image_ids[:4]]
    more = [[], [BREAK, 100, 101]]
    records = [(np.array([*[10 + i] * (1 + i % 5), *picture, *more[i % 2], END]), 0) for i in range(count)]
    return write_ids(directory, records, SPACE)


@pytest.mark.parametrize("cm3", [0.0, 1.0])
@pytest.mark.parametrize("cut", ["stream", "picture"])
def test_documents_of_a_stream_may_see_themselves_alone(tmp_path: Path, cut: str, cm3: float) -> None:
    store = interleaved_store(tmp_path / "s")
    blocks = make(store, 24, cut=cut, within_documents=True, cm3=cm3)
    names, masked = [], 0
    for n in range(60):
        row, positions, weights = (blocks[n][name] for name in ("tokens", "positions", "weights"))
        length = int((row != PAD).sum())
        assert (row[length:] == PAD).all()
        assert (positions[length:] == 0).all()
        starts = [t for t in range(min(length, 23)) if positions[t] == 0]
        for start, end in zip(starts, [*starts[1:], length], strict=True):
            piece = row[start:end]
            np.testing.assert_array_equal(positions[start : min(end, 23)], np.arange(min(end, 23) - start))
            assert start == 0 or piece[0] == END or cm3  # only the first may be cut at its front
            of = {int(t) - 10 for t in piece if 10 <= t < 50}
            assert len(of) <= 1  # no mask carries a token into another document
            names += [] if start == 0 or end == length else of
            masked += SPACE.end_of_infill in piece
        assert starts[0] == 0
        inner = np.setdiff1d(np.arange(1, min(length, 23)), starts)
        assert (weights[inner - 1] == 1).all()  # targets, by their place in the block
        assert (weights[np.array(starts[1:], int) - 1] == 0).all()
        assert (weights[length - 1 :] == 0).all()
    assert len(set(names)) > 20
    assert (masked > 10) == (cm3 > 0)


def test_blocks_that_cut_no_picture_are_padded(tmp_path: Path) -> None:
    store = interleaved_store(tmp_path / "s")
    blocks = make(store, 24, cut="picture")
    rows = [blocks[n]["tokens"] for n in range(200)]
    for row in rows:
        length = int((row != PAD).sum())
        codes = np.isin(row[:length], SPACE.image_ids)
        assert codes.sum() % 4 == 0
        assert not codes[0]
        assert not codes[length - 1]  # what closes a picture belongs to it
        assert row[length - 1] != BREAK or codes[length - 2]
    total = int(store.lengths[:, 0].sum())
    assert blocks.per_epoch == pytest.approx(total / (24 - SPACE.picture_tokens + 1))
    kept = np.concatenate([row[row != PAD] for row in rows])[: 2 * total]
    for epoch in np.split(kept, 2):
        assert sorted(epoch.tolist()) == sorted(np.concatenate([store[i] for i in range(len(store))]).tolist())
    assert np.array_equal(make(pair_store(tmp_path / "p"), 24, cut="picture")[3]["tokens"][-1:], [PAD])
    texts = text_store(tmp_path / "t")
    assert not any((make(texts, 24, cut="picture")[n]["tokens"] == PAD).any() for n in range(5))


def test_the_masks_own_tokens_may_be_left_out_of_the_loss(tmp_path: Path) -> None:
    store = pair_store(tmp_path / "s")
    source = SourceConfig(str(store.directory), cut="document", mask_caption=0.3)
    counted, left_out = (
        SourceBlocks(source, store, DataConfig(block=30, cm3_mask_loss=switch), SPACE, (0, 0))
        for switch in (True, False)
    )
    seen = 0
    for n in range(100):
        a, b = counted[n], left_out[n]
        np.testing.assert_array_equal(a["tokens"], b["tokens"])
        masks = np.isin(a["tokens"][1:], SPACE.sentinel_ids)
        np.testing.assert_array_equal(b["weights"], np.where(masks, 0, a["weights"]))
        assert (a["weights"] == (a["tokens"][1:] != PAD)).all()
        seen += int(masks.sum())
    assert seen > 100


def test_whole_texts_and_pictures_are_masked_in_their_share(tmp_path: Path) -> None:
    store = pair_store(tmp_path / "s")

    def whole(share: float) -> float:
        """The share of the masked blocks in which the caption or the picture is masked whole, and nothing else."""
        blocks, masked, found = make(store, 40, cut="document", cm3=1.0, cm3_segments=share), 0, 0
        for n in range(400):
            row = blocks[n]["tokens"].tolist()
            masked += SPACE.end_of_infill in row
            caption, drawn = row[1:3] == [MASK, BREAK], row[3:6] == [BREAK, MASK, END]
            found += caption or drawn
        return found / masked

    always, never = whole(1.0), whole(0.0)
    assert always > 0.7 > 0.6 > never


def test_retrieved_documents_stand_in_the_blocks(tmp_path: Path) -> None:
    store = pair_store(tmp_path / "s")
    found = np.array([[[(i + 1) % 40, (i + 2) % 40]] for i in range(40)])
    neighbours.write(tmp_path / "table", store, store, [(found, np.zeros(found.shape))])
    table = str(tmp_path / "table")
    picture = [BREAK, *SPACE.image_ids[:4]]
    for cut in ("document", "packed"):
        blocks = make(store, 30, cut=cut, neighbours=table)
        names = []
        for n in range(40):
            row = blocks[n]["tokens"].tolist()
            i = row[17] - 10
            of = [t for k in (1, 2, 0) for t in (10 + (i + k) % 40, 11 + (i + k) % 40, *picture, BREAK)]
            assert row == [END, *of[:-1], END, *[PAD] * 5], n
            names.append(i)
        assert sorted(names) == list(range(40))
    stream = make(store, 24, neighbours=table)
    rows = np.stack([stream[n]["tokens"] for n in range(40)])
    assert (rows[:, -1] == END).all()
    assert sorted((rows[:, 16] - 10).tolist()) == list(range(40))
    with pytest.raises(ValueError, match="holds instructions, before which nothing is retrieved"):
        make(text_store(tmp_path / "q", prompts=True), 30, neighbours=table)
