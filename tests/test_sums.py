"""Figures from sums: groups, perplexity over any of them, bits per byte, and the error of a ratio over documents."""

import dataclasses
import math

import numpy as np
import pytest

from jam_jax import tokens
from jam_jax.evaluate import sums
from jam_jax.evaluate.sums import GROUPS, Perplexity, Tally

SPACE = tokens.jam(text=20, codes=8, codes_per_image=4, sentinels=3)


def counted(nll: np.ndarray, within: np.ndarray, which: np.ndarray, bytes: int | None = None) -> Perplexity:
    """The sums of documents with targets [D, T]; a group below 0 is no target."""
    tally = Tally(len(nll))
    for rows in (slice(0, 3), slice(3, None)):  # as batches come, in no order
        documents = np.arange(len(nll))[rows][::-1]
        of = (np.maximum(which, 0)[rows][::-1], (which >= 0)[rows][::-1], nll[rows][::-1], within[rows][::-1])
        tally.add(documents, *of)
    return tally.total([0], lambda i: 10 + 2 * i, bytes)


def random(documents: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    which = rng.integers(0, len(GROUPS), (documents, 12))
    which[np.arange(12) >= rng.integers(1, 13, documents)[:, None]] = -1
    return rng.gamma(2, 2, which.shape), rng.gamma(2, 1, which.shape), which


def test_every_id_has_its_group() -> None:
    found = [GROUPS[i] for i in sums.groups(SPACE)]
    named = {**dict.fromkeys(range(4, 20), "text"), **dict.fromkeys(range(20, 28), "image"), 2: "end", 28: "break"}
    assert found == [named.get(i, "special") for i in range(SPACE.vocab_size)]
    apart = dataclasses.replace(SPACE, end_of_image=30, picture_closers=(30,), picture_layout=(28, -1, 31, -1))
    assert [GROUPS[i] for i in sums.groups(apart)[[2, 28, 30, 31]]] == ["end", "break", "break", "special"]


def test_sums_are_those_of_a_loop_and_perplexity_is_over_any_groups() -> None:
    nll, within, which = random()
    found = counted(nll, within, which)
    for i, name in enumerate(GROUPS):
        assert found.count[i] == (which == i).sum()
        assert found.over(name) == pytest.approx(math.exp(nll[which == i].mean()))
        assert found.over(name, softmax="modality") == pytest.approx(math.exp(within[which == i].mean()))
    assert found.text == pytest.approx(math.exp(nll[(which == 0) | (which == 3)].mean()))
    assert found.image == found.over("image")
    assert found.all == pytest.approx(math.exp(nll[which >= 0].mean()))
    nothing = counted(nll, within, np.where(which == 1, -1, which))
    assert math.isnan(nothing.image) and math.isnan(nothing.error("image"))


@pytest.mark.parametrize("softmax", ["vocabulary", "modality"])
@pytest.mark.parametrize("chosen", [("text",), ("text", "end"), GROUPS])
def test_the_standard_error_is_that_of_a_ratio_over_documents(softmax, chosen) -> None:
    nll, within, which = random()
    values = nll if softmax == "vocabulary" else within
    mine = np.isin(which, [GROUPS.index(name) for name in chosen])
    x, n = np.where(mine, values, 0).sum(axis=1), mine.sum(axis=1)
    ratio = x.sum() / n.sum()
    expected = math.sqrt(len(x) / (len(x) - 1) * ((x - ratio * n) ** 2).sum()) / n.sum()
    assert counted(nll, within, which).error(*chosen, softmax=softmax) == pytest.approx(expected)


def test_the_standard_error_is_how_far_samples_of_documents_scatter() -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 40, (400, 100))
    level = rng.normal(3, 0.5, lengths.shape)  # documents differ by more than their tokens do
    means, errors = [], []
    for n, mean in zip(lengths, level, strict=True):
        which = np.where(np.arange(40) < n[:, None], 0, -1)
        found = counted(np.broadcast_to(mean[:, None], which.shape), np.zeros(which.shape), which)
        means.append(found.mean("text"))
        errors.append(found.error("text"))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)


def test_one_document_has_no_error() -> None:
    assert math.isnan(counted(*random(1)).error("text"))


def test_bits_per_byte_are_of_the_targets_that_are_text() -> None:
    nll, within, which = random()
    found = counted(nll, within, which, bytes=100)
    assert found.bits_per_byte() == pytest.approx(nll[which == 0].sum() / math.log(2) / 100)
    assert found.bits_per_byte("modality") == pytest.approx(within[which == 0].sum() / math.log(2) / 100)
    assert math.isnan(counted(nll, within, which).bits_per_byte())
    assert math.isnan(counted(nll, within, which, bytes=0).bits_per_byte())


def test_documents_that_hold_nothing_or_no_number_are_named() -> None:
    nll, within, which = random()
    which[[4, 6]] = -1
    nll[1, 0] = nll[7, 0] = math.nan
    nll[5, 0] = math.inf
    found = counted(nll, within, which)
    assert (found.documents, found.empty, found.first_empty) == (7, 2, 18)
    assert (found.lost, found.first_lost) == (3, 12)
    with pytest.raises(ValueError, match="here: the model gives document 12 and 2 more of 7 a likelihood that is no"):
        found.require_finite("here")
    whole = counted(*random())
    whole.require_finite("here")
    assert (whole.lost, whole.first_lost, whole.empty, whole.first_empty) == (0, -1, 0, -1)


def test_a_hopeless_model_has_an_infinite_perplexity() -> None:
    nll, within, which = random()
    assert counted(nll * 1000, within, which).all == math.inf
