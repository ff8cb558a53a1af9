"""The token space: the paper's ids, modalities, and what it refuses."""

import dataclasses
import json

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


def test_the_papers_space_keeps_its_text_and_its_fingerprint() -> None:
    """Stores and runs are bound to it: what other vocabularies need must not show in it."""
    assert PAPER.fingerprint == "d114f50dc1825312"
    assert not {"start_of_document", "end_of_question", "unconditional"} & set(json.loads(PAPER.to_json()))
    assert (PAPER.start, PAPER.before_record, PAPER.question_end, PAPER.blank) == (2, (2,), (65538, 2), (2, 65538))


def test_a_text_only_vocabulary_says_what_it_cannot_do() -> None:
    nothing = {"start_of_image": None, "end_of_image": None, "end_of_infill": None}
    text = dataclasses.replace(
        SMALL, image_ids=(), sentinels=(), picture_layout=(), picture_closers=(), start_of_document=0, **nothing
    )
    assert TokenSpace.from_json(text.to_json()) == text
    assert not text.draws and text.codes_per_image == 0 and text.question_end == () and text.blank == (0,)
    assert (text.modality == IMAGE).sum() == 0 and (text.modality == TEXT).sum() == 36
    for ask, message in (
        (text.require_pictures, "no image codes: a picture needs a model that draws"),
        (text.require_infill, "no <mask:i> and no end of infill"),
        (text.require_questions, "no token that ends a question"),
        (lambda: text.sentinel(0), "<mask:0> does not exist: there are 0 sentinels"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            ask()
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no image tokenizer yet"):
        dataclasses.replace(SMALL, picture_layout=(), picture_closers=()).require_pictures()


def test_text_and_sentinels_may_lie_anywhere() -> None:
    odd = dataclasses.replace(SMALL, text=(4, 10, 12, 40), sentinels=(60, 61, 52, 54))
    assert (odd.modality[10:12] == SPECIAL).all() and (odd.modality == TEXT).sum() == 34
    assert [odd.sentinel(i) for i in range(3)] == [60, 52, 53]


def test_json_brings_it_back_and_the_fingerprint_sees_any_change() -> None:
    assert TokenSpace.from_json(SMALL.to_json()) == SMALL
    swapped = dataclasses.replace(SMALL, image_ids=SMALL.image_ids[::-1])
    other_words = dataclasses.replace(SMALL, contents="another text.model")
    assert len({s.fingerprint for s in (SMALL, PAPER, swapped, other_words)}) == 4


def test_mistakes_are_told(tmp_path: object) -> None:
    with pytest.raises(ValueError, match="outside the vocabulary of 20 rows"):
        dataclasses.replace(SMALL, vocab_size=20)
    for runs in ((4,), (9, 4), (4, 62)):
        with pytest.raises(ValueError, match="runs are pairs|outside the vocabulary"):
            dataclasses.replace(SMALL, text=runs)
    with pytest.raises(ValueError, match="must begin with the start of image"):
        dataclasses.replace(SMALL, start_of_image=None)
    with pytest.raises(ValueError, match="needs image codes and a token that closes it"):
        dataclasses.replace(SMALL, picture_closers=())
    with pytest.raises(ValueError, match=r"fields \['tongue'\] are missing or unknown"):
        TokenSpace.from_json(SMALL.to_json()[:-1] + ', "tongue": 1}')
    with pytest.raises(ValueError, match=r"fields \['pad'\] are missing or unknown"):
        TokenSpace.from_json(SMALL.to_json().replace('"pad": 1, ', ""))
    with pytest.raises(ValueError, match="two image codes share one id"):
        dataclasses.replace(SMALL, image_ids=(40, 40))
    with pytest.raises(ValueError, match="<mask:11> does not exist: there are 11 sentinels"):
        SMALL.sentinel(11)
    with pytest.raises(ValueError, match="no tokenizer: it has no tokens.json"):
        tokens.load(str(tmp_path))
