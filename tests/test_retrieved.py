"""Retrieved documents stand before others as metaseq writes them, in every vocabulary."""

import dataclasses

import numpy as np
import pytest

from jam_jax import tokens
from jam_jax.data.retrieved import before, separates_texts, standing
from jam_jax.tokens import CODE

JAM = tokens.jam(text=20, codes=8, codes_per_image=2, sentinels=3)  # <break> is 28
PAIRED = dataclasses.replace(
    JAM, start_of_document=0, end_of_image=29, end_of_infill=30, sentinels=(31, 31),
    picture_layout=(28, CODE, CODE), picture_closers=(29,),
)  # fmt: skip


def test_a_picture_is_closed_by_a_break_and_a_text_keeps_its_end() -> None:
    assert standing(JAM, np.array([5, 6, 28, 21, 22, 2])).tolist() == [5, 6, 28, 21, 22, 28]
    assert standing(JAM, np.array([28, 21, 22, 28, 5, 2])).tolist() == [28, 21, 22, 28, 5, 2]
    assert standing(JAM, np.array([5, 6, 28, 21, 22, 2])).dtype == np.int32
    assert separates_texts(JAM)


def test_where_documents_have_a_start_it_stands_around_the_whole() -> None:
    assert standing(PAIRED, np.array([0, 5, 28, 21, 22, 29, 2])).tolist() == [5, 28, 21, 22, 29]
    assert not separates_texts(PAIRED)
    with pytest.raises(ValueError, match="ends in a text cannot be retrieved"):
        standing(PAIRED, np.array([0, 5, 6, 2]))


def test_as_many_as_fit_the_most_similar_first() -> None:
    records = [np.array([5, 28, 21, 22, 2]), np.array([6, 28, 21, 22, 2]), np.array([7, 2])]
    assert before(JAM, records, 100).tolist() == [5, 28, 21, 22, 28, 6, 28, 21, 22, 28, 7, 2]
    assert before(JAM, records, 9).tolist() == [5, 28, 21, 22, 28]
    assert before(JAM, records, 4).tolist() == []
