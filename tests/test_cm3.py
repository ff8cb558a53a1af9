"""The CM3 objective: the original's blocks, and the laws that hold where the original fails."""

import dataclasses
import json
from pathlib import Path

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
GOLDEN = json.loads((Path(__file__).parent / "golden" / "cm3.json").read_text())["records"]


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
    assert same == 130


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
        spans = cm3.clip(block, cm3.draw(rng, 64, 512, mean=2.0), cm3.stops(SPACE))
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


def test_spans_are_drawn_as_often_and_as_long_as_by_the_original() -> None:
    # Figures of 20,000 runs of the original (branch cm3v2, the block of kind `ra`): 37.0% unmasked; the single spans
    # 23.898 tokens long (std 15.538) when drawn, 9.307 (std 3.460) when clipped.
    block = next(np.array(r["input"]) for r in GOLDEN if r["kind"] == "ra" and r["drawn"])
    rng = np.random.default_rng(1)
    runs = [cm3.draw(rng, 64, 511) for _ in range(5000)]
    single = [r for r in runs if len(r) == 1]
    assert abs(sum(not r for r in runs) / 5000 - 0.370) < 0.03
    assert abs(len(single) / 5000 - 8756 / 20000) < 0.04
    assert abs(np.mean([b - a for [(a, b)] in single]) - 23.898) < 4 * 15.5 / len(single) ** 0.5
    clipped = [b - a for r in single for a, b in cm3.clip(block, r, (BREAK,))]
    assert abs(np.mean(clipped) - 9.307) < 0.5
    assert max(len(r) for r in runs) <= 8
    assert cm3.draw(rng, 64, 0, mean=5.0) == []


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
