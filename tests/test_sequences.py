"""What blocks hold of a document: what it begins with, what was retrieved for it, and itself, in lengths as in ids."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from jam_jax import tokens
from jam_jax.config import SourceConfig
from jam_jax.data import neighbours
from jam_jax.data.sequences import Sequences
from jam_jax.data.store import Store, write_ids

SPACE = tokens.jam(text=300, codes=16, codes_per_image=4)
END, BREAK = SPACE.end_of_document, SPACE.start_of_image
PICTURE = [BREAK, *SPACE.image_ids[:4]]
# Documents have a start of their own, and their pictures an end of their own, as Chameleon's.
START, CLOSE = 0, 3
OWN = dataclasses.replace(SPACE, start_of_document=START, end_of_image=CLOSE, picture_closers=(CLOSE,))


def table(directory: Path, store: Store, bank: Store, found: list, scores: list | None = None) -> str:
    rows = np.array(found), np.zeros(np.shape(found)) if scores is None else np.array(scores)
    neighbours.write(directory, store, bank, [rows])
    return str(directory)


def pairs(directory: Path, space: tokens.TokenSpace, count: int = 6) -> Store:
    """Document i: a caption of one token, 10 + i, and a picture."""
    start, close = ([START], [CLOSE]) if space is OWN else ([], [])
    return write_ids(directory, [(np.array([*start, 10 + i, *PICTURE, *close, END]), 0) for i in range(count)], space)


def test_retrieved_documents_go_before_a_document_the_most_similar_first(tmp_path: Path) -> None:
    store = pairs(tmp_path / "store", SPACE)
    found = [[[1, 2, 3]], [[2, 1, 0]], [[2, 0, neighbours.NONE]], *[[[neighbours.NONE] * 3]] * 3]
    scores = [[[0.95, 0.9, 0.1]], [[0.5, 0.4, 0.3]], [[0.99, 0.2, 0]], *[[[0, 0, 0]]] * 3]
    source = SourceConfig("", neighbours=table(tmp_path / "table", store, store, found, scores), retrieved=2)
    made = Sequences(source, store, SPACE, (END,))
    two, three = [12, *PICTURE, BREAK], [13, *PICTURE, BREAK]
    expected = [
        [END, *two, *three, 10, *PICTURE, END],  # document 1 is too similar, 2 is just not
        [END, *two, 10, *PICTURE, BREAK, 11, *PICTURE, END],  # not itself
        [END, 10, *PICTURE, BREAK, 12, *PICTURE, END],  # itself is no neighbour, and only one is left
        [END, 13, *PICTURE, END],
    ]
    for document, ids in enumerate(expected):
        assert made.read(document, 0)[0].tolist() == ids
    assert made.read(0, 0)[0].dtype == np.int32
    assert made.lengths(np.arange(4), 0).tolist() == list(map(len, expected))


def test_epochs_see_the_neighbours_of_one_query_after_another(tmp_path: Path) -> None:
    store = pairs(tmp_path / "store", SPACE)
    found = [[[(i + q) % 6] for q in (1, 2, 3)] for i in range(6)]
    source = SourceConfig("", neighbours=table(tmp_path / "table", store, store, found), retrieved=1)
    made = Sequences(source, store, SPACE, ())
    assert made.turns == 3
    assert [int(made.read(0, epoch)[0][0]) for epoch in range(7)] == [11, 12, 13, 11, 12, 13, 11]


def test_a_retrieved_text_is_told_from_the_next_document_by_its_end(tmp_path: Path) -> None:
    store = pairs(tmp_path / "store", SPACE, 2)
    texts = write_ids(tmp_path / "texts", [(np.array([20, 21, END]), 0), (np.array([22, END]), 0)], SPACE)
    source = SourceConfig("", neighbours=table(tmp_path / "table", store, texts, [[[0, 1]], [[1, 0]]]))
    made = Sequences(source, store, SPACE, (END,))
    assert made.read(0, 0)[0].tolist() == [END, 20, 21, END, 22, END, 10, *PICTURE, END]
    assert made.lengths(np.array([0]), 0).tolist() == [len(made.read(0, 0)[0])]


def test_a_start_and_an_end_of_documents_stand_around_the_whole(tmp_path: Path) -> None:
    store = pairs(tmp_path / "store", OWN, 3)
    source = SourceConfig("", neighbours=table(tmp_path / "table", store, store, [[[1, 2]], [[0, 2]], [[0, 1]]]))
    made = Sequences(source, store, OWN, OWN.before_record)
    ids = [START, *[t for i in (1, 2, 0) for t in (10 + i, *PICTURE, CLOSE)], END]
    assert made.read(0, 0)[0].tolist() == ids
    assert made.lengths(np.arange(3), 0).tolist() == [len(ids)] * 3
    texts = write_ids(tmp_path / "texts", [(np.array([START, 20, END]), 0)], OWN)
    source = SourceConfig("", neighbours=table(tmp_path / "of-texts", store, texts, [[[0]]] * 3))
    with pytest.raises(
        ValueError, match="document 0 of the bank .*: a document that ends in a text cannot be retrieved"
    ):
        Sequences(source, store, OWN, ()).read(1, 0)


def test_a_bank_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    store = pairs(tmp_path / "store", SPACE, 2)
    bank = write_ids(tmp_path / "bank", [(np.array([9, END]), 0)], OWN)
    source = SourceConfig("", neighbours=table(tmp_path / "table", store, bank, [[[0]], [[0]]]))
    with pytest.raises(ValueError, match="bank was made with another tokenizer"):
        Sequences(source, store, SPACE, ())


def test_the_prompt_of_an_instruction_includes_what_every_sequence_begins_with(tmp_path: Path) -> None:
    store = write_ids(tmp_path / "store", [(np.array([5, 6, 7, END]), 2)], SPACE)
    assert Sequences(SourceConfig(""), store, SPACE, (END,)).read(0, 0)[1] == 3
    ids, prompt = Sequences(SourceConfig(""), store, SPACE, ()).read(0, 0)
    assert (ids.tolist(), prompt) == ([5, 6, 7, END], 2)
