"""The token space: the paper's ids, modalities, and what it refuses."""

import dataclasses

import numpy as np
import pytest

from jam_jax import tokens
from jam_jax.tokens import IMAGE, SPECIAL, TEXT, TokenSpace

PAPER = tokens.jam(text=56320, codes=8192, codes_per_image=1024, reserved=1024, pad_to=8)
SMALL = tokens.jam(text=40, codes=8, codes_per_image=4, sentinels=11)


def test_the_released_tokenizers_ids() -> None:
    assert PAPER.vocab_size == 66056
    assert PAPER.start_of_image == PAPER.end_of_image == 65536
    assert (PAPER.end_of_infill, PAPER.sentinel(0), PAPER.sentinel(513)) == (65537, 65538, 66051)
    assert (PAPER.pad, PAPER.end_of_document) == (1, 2)
    assert (PAPER.codes_per_image, PAPER.picture_tokens) == (1024, 1026)


def test_every_id_has_one_modality() -> None:
    expected = [SPECIAL] * 4 + [TEXT] * 36 + [IMAGE] * 8 + [SPECIAL] * 13
    np.testing.assert_array_equal(SMALL.modality, expected)
    np.testing.assert_array_equal(SMALL.code_of_id[40:48], np.arange(8))
    assert (np.delete(SMALL.code_of_id, range(40, 48)) == -1).all()


def test_json_brings_it_back_and_the_fingerprint_sees_any_change() -> None:
    assert TokenSpace.from_json(SMALL.to_json()) == SMALL
    swapped = dataclasses.replace(SMALL, image_ids=SMALL.image_ids[::-1])
    other_words = dataclasses.replace(SMALL, contents="another text.model")
    assert len({s.fingerprint for s in (SMALL, PAPER, swapped, other_words)}) == 4


def test_mistakes_are_told(tmp_path: object) -> None:
    with pytest.raises(ValueError, match="outside the vocabulary of 20 rows"):
        dataclasses.replace(SMALL, vocab_size=20)
    with pytest.raises(ValueError, match="two image codes share one id"):
        dataclasses.replace(SMALL, image_ids=(40, 40))
    with pytest.raises(ValueError, match="<mask:11> does not exist: there are 11 sentinels"):
        SMALL.sentinel(11)
    with pytest.raises(ValueError, match="no tokenizer: it has no tokens.json"):
        tokens.load(str(tmp_path))
