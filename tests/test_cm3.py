"""The CM3 objective: the original's blocks, and the laws that hold where the original fails."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jam_jax import tokens
from jam_jax.data import cm3

BREAK, EOSS, END, MASK = 100, 101, 2, 102
SPACE = tokens.TokenSpace(
    vocab_size=614,
    text=(4, 52),
    image_ids=tuple(range(52, 100)),
    start_of_image=BREAK,
    end_of_image=BREAK,
    end_of_document=END,
    end_of_infill=EOSS,
    sentinels=(MASK, 614),
    pad=1,
    picture_layout=(BREAK, *[tokens.CODE] * 4),
    picture_closers=(BREAK, END),
)
GOLDEN_FILES = Path(__file__).parent / "golden"
GOLDEN = json.loads((GOLDEN_FILES / "cm3.json").read_text())["records"]
STATISTICS = json.loads((GOLDEN_FILES / "cm3_statistics.json").read_text())["entries"]


def is_fault(record: dict) -> bool:
    """A block on which the original loses tokens: a span of length zero, or one over a break."""
    return any(a == b or BREAK in record["input"][a:b] for a, b in record["spans"])


def test_blocks_are_the_original_ones() -> None:
    same = 0
    for record in GOLDEN:
        block = np.array(record["input"])
        drawn = [tuple(s) for s in record["drawn"] or []]
        if drawn and is_fault(record):
            continue
        spans = cm3.clip(block, drawn, stops=(BREAK,))  # the original lets spans cross </s>
        assert [list(s) for s in spans] == (record["spans"] or []), record
        assert cm3.layout(block, spans, SPACE, len(block)).tolist() == record["output"], record
        if record["segments"]:
            assert [list(s) for s in cm3.segments(block, (BREAK,))] == [s for s in record["segments"] if s[0] < s[1]]
        same += 1
    assert same == 195
    assert len(GOLDEN) == 200


def test_where_the_original_loses_tokens_we_keep_them() -> None:
    faults = [r for r in GOLDEN if r["drawn"] and is_fault(r)]
    assert len(faults) == 5
    for record in faults:
        block = np.array(record["input"])
        spans = cm3.clip(block, [tuple(s) for s in record["drawn"]], (BREAK,))
        assert all(a < b for a, b in spans)
        assert unmask(cm3.layout(block, spans, SPACE, 1000)) == block.tolist()


def unmask(block: np.ndarray) -> list[int]:
    """The source of a masked block: every `<mask:i>` of its first part replaced by the span behind it."""
    row = block.tolist()
    masks = [i for i, t in enumerate(row) if t >= MASK]
    # Spans stand whole at the end, so the last `<mask:i>` counts them; the spans begin at the last but n.
    count = row[masks[-1]] - MASK + 1 if masks else 0
    start = masks[-count] if count else len(row)
    spans, behind = {}, row[start:]
    for part in " ".join(map(str, behind)).split(f" {EOSS}"):
        if part.strip():
            mask, *ids = map(int, part.split())
            spans[mask] = ids
    return [t for token in row[:start] for t in (spans[token] if token >= MASK else [token])]


def documents(rng: np.random.Generator, length: int) -> np.ndarray:
    """A block of text and pictures, cut anywhere, whose tokens can be told apart by their neighbours."""
    block: list[int] = []
    while len(block) < length:
        block += [*rng.integers(4, 52, rng.integers(1, 9)), BREAK, *rng.integers(52, 100, 4), END]
    return np.array(block[:length])


def test_no_token_is_lost_and_no_span_holds_a_break_or_an_end() -> None:
    rng = np.random.default_rng(0)
    masked = 0
    for _ in range(400):
        block = documents(rng, 64)
        spans = cm3.choose(rng, block, cm3.stops(SPACE), 512, mean=2.0)
        for (start, end), following in zip(spans, [*spans, (64, 64)][1:], strict=True):
            assert 0 < start < end <= following[0]
            assert not np.isin(block[start:end], [BREAK, END]).any()
        whole = cm3.layout(block, spans, SPACE, limit=1000)
        assert len(whole) == 64 + 3 * len(spans)
        assert unmask(whole) == block.tolist()
        cut = cm3.layout(block, spans, SPACE, limit=64)
        moved = sum(b - a for a, b in spans)
        tail = moved + 2 * len(spans)
        assert len(cut) == 64
        assert cut[64 - tail :].tolist() == whole[len(whole) - tail :].tolist()  # the spans stay whole
        assert cut[: 64 - tail].tolist() == whole[: 64 - tail].tolist()  # the source is cut at its end
        masked += bool(spans)
    assert 200 < masked < 400


def test_a_span_that_leaves_no_room_stays_in_place() -> None:
    block = np.arange(4, 14)
    assert cm3.layout(block, [(1, 10)], SPACE, 10).tolist() == block.tolist()
    assert cm3.layout(block, [(1, 9)], SPACE, 10).tolist() == [MASK, *range(5, 13), EOSS]
    assert cm3.layout(block, [(1, 3), (4, 9)], SPACE, 10).tolist() == [4, MASK, 7, 8, 9, 10, MASK, 5, 6, EOSS]


def test_layout_by_hand() -> None:
    block = np.array([END, 10, 11, 12, 13, BREAK, 60, 61, 62, 63, END])
    expected = [END, MASK, 12, 13, BREAK, 60, MASK + 1, 63, END, MASK, 10, 11, EOSS, MASK + 1, 61, 62, EOSS]
    assert cm3.layout(block, [(1, 3), (7, 9)], SPACE, 100).tolist() == expected
    assert cm3.layout(block, [], SPACE, 100).tolist() == block.tolist()
    assert cm3.layout(block, [], SPACE, 4).tolist() == block[:4].tolist()


def block_of(entry: dict) -> np.ndarray:
    """The block that an entry's figures are of; of long ones only the breaks and ends are known, and matter."""
    if entry["block"] is not None:
        return np.array(entry["block"])
    block = np.full(entry["block_length"], 4)
    block[entry["break_positions"]], block[entry["eod_positions"]] = BREAK, END
    return block


@pytest.mark.parametrize("entry", STATISTICS, ids=lambda e: f"{e['block_kind']}-{e['full_segment_prob']}")
def test_spans_are_as_many_and_as_long_as_the_originals(entry: dict) -> None:
    block, whole, runs = block_of(entry), entry["full_segment_prob"], 2500
    rng = np.random.default_rng(1)
    chosen = [cm3.choose(rng, block, (BREAK,), 511, whole=whole) for _ in range(runs)]
    masked = [spans for spans in chosen if spans]

    def near(ours: float, theirs: float, deviation: float, count: float) -> bool:
        return abs(ours - theirs) < 4 * deviation * (1 / count + 1 / entry["runs"]) ** 0.5

    assert near(1 - len(masked) / runs, entry["fraction_unmasked"], 0.49, runs)
    theirs = entry["masked_tokens_mean"]
    assert near(np.mean([sum(b - a for a, b in s) for s in masked]), theirs, 0.75 * theirs, len(masked))
    parts = set(cm3.segments(block, (BREAK,)))
    equal = sum(span in parts for spans in chosen for span in spans) / runs
    assert near(equal, entry["spans_equal_to_a_whole_segment"] / entry["runs"], 0.9, runs)
    if not whole:  # where segments are masked the number of those that overlap them is not comparable
        many = np.bincount([len(cm3.draw(rng, cm3.draw_number(rng, 511), len(block))) for _ in range(runs)])
        for n in (1, 2, 3):
            assert near(many[n] / runs, entry["n_spans_histogram"][str(n)] / entry["runs"], 0.49, runs)
        one = [b - a for spans in masked if len(spans) == 1 for a, b in spans]
        assert near(np.mean(one), entry["span_length_when_one"]["mean"], 1.1 * np.std(one), len(one))


def stream(rng: np.random.Generator, documents: int) -> np.ndarray:
    """Many documents of text, a picture of four codes, and text again."""
    kinds = np.array([0, BREAK, 1, BREAK, 0, END])
    lengths = np.ones((documents, 6), int)
    lengths[:, 0], lengths[:, 2], lengths[:, 4] = rng.integers(1, 12, documents), 4, rng.integers(0, 8, documents)
    tokens = np.repeat(np.tile(kinds, documents), lengths.ravel())
    tokens[tokens == 0] = rng.integers(4, 52, (tokens == 0).sum())
    tokens[tokens == 1] = rng.integers(52, 100, (tokens == 1).sum())
    return tokens


def drawn(n: int, length: int, *uniform: float) -> list[cm3.Span]:
    """The spans that come of these numbers in place of random ones."""
    rng: Any = SimpleNamespace(random=lambda shape: np.reshape(uniform, shape))
    return cm3.draw(rng, n, length)


def test_spans_lie_between_draws_that_are_rounded_as_the_original_rounds_them() -> None:
    assert drawn(0, 10, 0.76, 0.12) == []
    assert drawn(1, 10, 0.76, 0.12) == drawn(1, 10, 0.12, 0.76) == [(1, 8)]  # starts down, ends to the nearest
    assert drawn(1, 10, 0.12, 0.13) == []
    # Pairs from the last on; rounded as start and end before they are put in order; what overlaps is not taken.
    assert drawn(2, 10, *(0.0, 0.3), *(0.05, 0.95), *(0.5, 0.7), *(0.92, 0.6)) == [(6, 9), (0, 3)]
    assert drawn(2, 10, *(0.0, 0.3), *(0.1, 0.2), *(0.4, 0.5), *(0.6, 0.9)) == [(6, 9), (4, 5)]


def test_there_are_no_more_spans_than_sentinels() -> None:
    few, rng = dataclasses.replace(SPACE, sentinels=(MASK, MASK + 2)), np.random.default_rng(0)
    blocks = [cm3.mask(rng, documents(rng, 64), few, 100, mean=9.0, whole=0.5) for _ in range(50)]
    assert max((block == EOSS).sum() for block in blocks) == 2


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_blocks_put_back_together_are_their_sources(count: int) -> None:
    rng = np.random.default_rng(5)
    length, room = 64, 64 + 3 * 12
    blocks = stream(rng, 4 * count)[: count * length].reshape(-1, length)
    stops = cm3.stops(SPACE)
    whole = np.ones((len(blocks), room), int)
    chosen = [cm3.choose(rng, block, stops, 12, whole=0.2 if i % 2 else 0.0) for i, block in enumerate(blocks)]
    full = 0
    for row, block, spans in zip(whole, blocks, chosen, strict=True):
        laid = cm3.layout(block, spans, SPACE, room)
        row[: len(laid)] = laid
        tail = sum(b - a for a, b in spans) + 2 * len(spans)
        if spans and tail <= length:  # in a block of the same length the spans stay whole, the source is cut
            cut = cm3.layout(block, spans, SPACE, length)
            assert np.array_equal(cut, np.concatenate([laid[: length - tail], laid[len(laid) - tail :]]))
            full += 1
    assert full > 0.55 * count
    is_mask, is_end = whole >= MASK, whole == EOSS
    count = is_end.sum(axis=1)
    assert count.tolist() == list(map(len, chosen))
    assert 0.35 < (count == 0).mean() < 0.42
    assert ((whole != 1).sum(axis=1) == length + 3 * count).all()  # 1 is the padding
    assert (is_mask.sum(axis=1) == 2 * count).all()
    # Behind the source, from the (n + 1)-th <mask:i> on, stand the spans, and nothing that ends a segment.
    behind = (is_mask.cumsum(axis=1) > count[:, None]) & (whole != 1)
    moved = behind & ~is_mask & ~is_end
    assert not np.isin(whole[moved], [BREAK, END]).any()
    # Every token's place in the source: of the source part its own, of a span that of its <mask:i>, then in the span.
    place = np.where(behind | (whole == 1), 0, np.arange(room) * room)
    row, at = np.nonzero(is_mask & ~behind)
    number = whole[row, at] - MASK
    assert (number == (np.cumsum(is_mask, axis=1) - 1)[row, at]).all()  # counted from left to right
    where = np.zeros((len(blocks), 12), int)
    where[row, number] = at * room
    row, at = np.nonzero(moved)
    place[row, at] = where[row, (is_mask.cumsum(axis=1) - count[:, None] - 1)[row, at]] + at
    place[is_mask | is_end | (whole == 1)] = room * room * 2
    back = np.take_along_axis(whole, np.argsort(place, axis=1, kind="stable"), axis=1)[:, :length]
    np.testing.assert_array_equal(back, blocks)


def test_whole_segments_are_masked_in_their_share() -> None:
    parts = [(1, 4), (5, 9), (10, 12)]
    rng = np.random.default_rng(0)
    assert cm3.draw_segments(rng, parts, 0) == cm3.draw_segments(rng, [], 1) == []
    assert cm3.draw_segments(rng, parts, 3) == cm3.draw_segments(rng, parts, 7) == []
    single = [cm3.draw_segments(rng, parts, 1) for _ in range(300)]
    assert {len(s) for s in single} == {1}
    assert all(60 < sum(s == [part] for s in single) < 140 for part in parts)
    pairs = [cm3.draw_segments(rng, parts, 2) for _ in range(50)]
    assert all(len(set(pair)) == 2 for pair in pairs)
    block = np.array([END, 10, 11, BREAK, 60, 61, 62, 63, END])
    masked = [cm3.mask(np.random.default_rng(k), block, SPACE, 40, whole=1.0).tolist() for k in range(60)]
    caption = [END, MASK, BREAK, 60, 61, 62, 63, END, MASK, 10, 11, EOSS]
    picture = [END, 10, 11, BREAK, MASK, END, MASK, 60, 61, 62, 63, EOSS]
    assert caption in masked and picture in masked and block.tolist() in masked


def test_a_prompt_to_fill_in_is_the_block_up_to_its_answer() -> None:
    block = np.array([END, 10, 11, 12, 13, BREAK, 60, 61, 62, 63, END])
    for gaps in ([(1, 3)], [(1, 3), (7, 9)]):
        masked = cm3.layout(block, gaps, SPACE, 100).tolist()
        prompt = cm3.fill_in(block, gaps, SPACE)
        assert prompt.dtype == np.int32
        assert masked[: len(prompt)] == prompt.tolist()
        assert masked[len(prompt) : len(prompt) + 3] == [10, 11, EOSS]
    assert cm3.fill_in(block, [(2, 2)], SPACE).tolist() == [END, 10, MASK, *block[2:], MASK]
    for wrong in ([], [(3, 1)], [(1, 4), (3, 5)], [(-1, 2)], [(5, 12)]):
        with pytest.raises(ValueError, match="gaps must lie in order inside the 11 tokens"):
            cm3.fill_in(block, wrong, SPACE)


def test_all_of_a_captions_tokens_are_masked() -> None:
    pair = np.array([END, 10, 11, BREAK, 60, 61, 62, 63, END])
    assert cm3.caption_end(pair, SPACE) == 3
    expected = [END, MASK, BREAK, 60, 61, 62, 63, END, MASK, 10, 11, EOSS]
    assert cm3.mask_caption(pair, SPACE, 100).tolist() == expected
    assert cm3.mask_caption(pair, SPACE, 10).tolist() == expected[:10]  # the picture stays whole


# A vocabulary whose documents start with a token of their own, and whose pictures of nothing have a form of their own.
START = 3
OWN = dataclasses.replace(SPACE, start_of_document=START, unconditional=(START, 0), picture_closers=(BREAK,))


def test_where_documents_start_with_a_token_of_their_own() -> None:
    pair = np.array([START, 10, 11, BREAK, 60, 61, 62, 63, BREAK, END])
    assert cm3.caption_end(pair, OWN) == 3
    assert cm3.caption_end(np.array([END, *pair[1:]]), OWN) == 0
    assert cm3.mask_caption(pair, OWN, 100).tolist() == [START, 0, BREAK, 60, 61, 62, 63, BREAK, END]
    assert cm3.mask_caption(pair, OWN, 5).tolist() == [START, 0, BREAK, 60, 61]
    stream = np.array([10, 11, END, START, 12, 13, END])
    assert cm3.clip(stream, [(1, 6)], cm3.stops(OWN)) == [(4, 6)]  # no span holds an end or a start


def test_a_vocabulary_without_sentinels_is_refused() -> None:
    pair = np.array([END, 10, 11, BREAK, 60, 61, 62, 63, END])
    for space in (dataclasses.replace(SPACE, sentinels=()), dataclasses.replace(SPACE, end_of_infill=None)):
        with pytest.raises(ValueError, match="which the CM3 objective needs"):
            cm3.mask(np.random.default_rng(0), pair, space, 20)
        with pytest.raises(ValueError, match="which the CM3 objective needs"):
            cm3.mask_caption(pair, space, 20)


def test_a_caption_after_retrieved_documents_is_found() -> None:
    picture, text = [BREAK, 60, 61, 62, 63], [20, 21, END]
    for before in ([], [12, *picture, BREAK], [*text, 12, 13, *picture, BREAK]):
        for space, start, close in ((SPACE, END, []), (OWN, START, [BREAK])):
            block = np.array([start, *before, 10, 11, *picture, *close, END])
            found = cm3.last_caption(block, space)
            assert found is not None and block[found].tolist() == [10, 11]
            assert np.delete(block, found).tolist() == [start, *before, *picture, *close, END]
            assert cm3.last_caption(np.delete(block, found), space) is None  # there is none any more
            assert cm3.last_caption(block[:-1], space) is None  # cut off
    assert cm3.last_caption(np.array([END, *text]), SPACE) is None


@pytest.mark.parametrize(
    "block",
    [
        [END, 10, 11, END],  # text
        [END, BREAK, 60, 61, 62, 63, END],  # no caption
        [END, 10, BREAK, 60, 61, 62, END],  # a picture too short
        [END, 10, BREAK, 60, 61, 62, 63, BREAK, 11, END],  # text behind the picture
        [END, 10, BREAK, 60, 61, 62, 63],  # cut off
        [10, 11, BREAK, 60, 61, 62, 63, END],  # begins in the middle
        [END, 10, MASK, END, 11, BREAK, 60, 61, 62, 63, END],  # an instruction
    ],
)
def test_what_is_no_pair_has_no_caption(block: list[int]) -> None:
    assert cm3.caption_end(np.array(block), SPACE) == 0
    with pytest.raises(ValueError, match="only a caption with its picture"):
        cm3.mask_caption(np.array(block), SPACE, 100)
