"""Gaps in documents: asked as the CM3 objective lays them out, filled as the uncached decoder fills them."""

import dataclasses

import numpy as np
import pytest

from jam_jax.data import cm3
from jam_jax.decode import engine, infill
from jam_jax.decode.settings import Settings
from tests.uncached import GUIDED, JAM, PAIRED, PARAMS, ROWS, TINY, decode, uncached

PICTURE = [28, 20, 21, 22, 23]
DOCUMENT = [2, 5, 6, 7, *PICTURE, 28, 8, 9, 2]
MASK, EOSS = 30, 29


def test_a_caption_is_asked_for_as_in_the_paper() -> None:
    document = [2, *PICTURE, 28]
    assert infill.ask(JAM, document, [(1, 1)]) == ([2, MASK, *PICTURE, 28, MASK], (0,))


def test_gaps_are_asked_for_as_the_objective_trains_them() -> None:
    gaps = [(2, 4), (5, 8), (10, 11)]
    asked, spans = infill.ask(JAM, DOCUMENT, gaps)
    assert spans == (0, 3, 0)
    trained = cm3.layout(np.array(DOCUMENT), gaps, JAM, 100).tolist()
    assert trained[: len(asked)] == asked
    answer = trained[len(asked) :]
    assert answer == [6, 7, EOSS, 31, 20, 21, 22, EOSS, 32, 8, EOSS]
    assert infill.put(JAM, DOCUMENT, gaps, answer) == DOCUMENT
    assert infill.put(JAM, DOCUMENT, gaps, answer[:6]) == [2, 5, 6, 7, 28, 20, 21, 23, 28, 9, 2]


@pytest.mark.parametrize("name", ["decoder", pytest.param("cross", marks=pytest.mark.long)])
def test_the_engine_fills_gaps_as_an_uncached_decoder(name: str) -> None:
    gaps = [[(2, 4)], [(5, 8), (10, 11)], [(2, 2), (6, 7)], [(5, 9)]]
    asked = [infill.ask(JAM, DOCUMENT, g) for g in gaps]
    prompts, spans = [a[0] for a in asked], [a[1] for a in asked]
    settings = dataclasses.replace(GUIDED, min_text=2, max_text=6)
    keys = engine.row_keys(1, 4)
    answers = decode(name, JAM, prompts, settings, keys=keys, spans=spans)
    for prompt, counts, key, answer, g in zip(prompts, spans, keys, answers, gaps, strict=True):
        assert answer == uncached(name, JAM, prompt, settings, key, spans=counts)
        assert answer.count(EOSS) == len(counts) and answer[-1] == EOSS
        whole = infill.put(JAM, DOCUMENT, g, answer)
        assert len(whole) - len(DOCUMENT) == len(answer) - 2 * len(counts) + 1 - sum(end - start for start, end in g)
    # Beside rows that write and draw they do the same.
    mixed = decode(name, JAM, [[2, 5, 9], prompts[1]], settings, keys=keys[:2], spans=[(), spans[1]])
    assert mixed == [uncached(name, JAM, [2, 5, 9], settings, keys[0]), answers[1]]


def test_a_gap_of_text_ends_with_the_buffer() -> None:
    prompt, spans = infill.ask(JAM, DOCUMENT, [(2, 4)])
    settings = Settings(min_text=50, max_new_tokens=5)
    (answer,) = engine.generate(TINY, PARAMS["decoder"], JAM, [prompt], settings, spans=[spans])
    assert len(answer) == 5 and answer[-1] == EOSS and EOSS not in answer[:-1]


def test_a_region_is_gaps_row_by_row() -> None:
    whole = dataclasses.replace(JAM, picture_layout=(28, *[-1] * 9))
    assert infill.region(whole, 3, (1, 0, 3, 3)) == [(7, 13)]  # whole rows follow each other
    assert infill.region(whole, 3, (0, 1, 2, 2)) == [(5, 6), (8, 9)]
    assert infill.region(ROWS, 3, (0, 0, 2, 2)) == [(4, 6), (7, 9)]  # a newline token stands between
    for box in ((0, 0, 0, 1), (0, 0, 4, 1), (-1, 0, 1, 1)):
        with pytest.raises(ValueError, match="within 3 x 3 codes"):
            infill.region(whole, 3, box)


@pytest.mark.parametrize(
    ("gaps", "message"),
    [
        ([], "gaps must lie in order inside the 13 tokens, without overlap; got \\[\\]"),
        ([(1, 1)] * 4, "4 gaps, but this vocabulary has 3 sentinels"),
        ([(2, 4), (3, 5)], "without overlap"),
        ([(2, 20)], "inside the 13 tokens"),
        ([(3, 6)], "holds codes and other ids"),
    ],
)
def test_gaps_that_cannot_be_asked_for_are_named(gaps: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        infill.ask(JAM, DOCUMENT, gaps)


@pytest.mark.parametrize(
    ("prompt", "spans", "settings", "message"),
    [
        ([2, 5, MASK], (0,), {}, "must hold <mask:0> to <mask:0> once each and end with <mask:0>"),
        ([2, MASK, 5, MASK], (0, 3), {}, "must hold <mask:0> to <mask:1>"),
        ([2, MASK, 5, MASK], (-1,), {}, "or 0 for text, got -1"),
        ([2, MASK, 5, MASK], (9,), {"max_new_tokens": 9}, "need 10 more tokens, but there is room for 9"),
    ],
)
def test_gaps_that_the_prompt_does_not_have_are_named(
    prompt: list[int], spans: tuple[int, ...], settings: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        engine.generate(TINY, PARAMS["decoder"], JAM, [prompt], Settings(**settings), spans=[spans])


def test_a_vocabulary_without_sentinels_fills_nothing() -> None:
    with pytest.raises(ValueError, match="no <mask:i>"):
        infill.ask(PAIRED, DOCUMENT, [(2, 4)])
