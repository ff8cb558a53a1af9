"""A stream is all epochs of a store, one after another, whatever part of it is read."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from jam_jax import tokens
from jam_jax.config import SourceConfig
from jam_jax.data import neighbours, stream
from jam_jax.data.order import Orders
from jam_jax.data.sequences import Sequences
from jam_jax.data.store import Store, write_ids
from jam_jax.data.stream import Stream

SPACE = tokens.jam(text=300, codes=16, codes_per_image=4)
COUNT = 23


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Pairs of different lengths, each told by its first id, the last ones with a prompt of two."""
    directory = tmp_path_factory.mktemp("stream")
    picture = [SPACE.start_of_image, *SPACE.image_ids[:4]]
    records = [(np.array([10 + i] * (1 + i % 7) + [*picture, 2]), 2 if i > 15 else 0) for i in range(COUNT)]
    return write_ids(directory / "store", records, SPACE)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that an order of 23 documents has several steps, and a pass over it several parts."""
    monkeypatch.setattr(stream, "STEP", 4)
    monkeypatch.setattr(stream, "PASS", 8)


def by_hand(sequences: Sequences, epochs: int) -> tuple[np.ndarray, np.ndarray]:
    """The ids of whole epochs, and which of them are of a prompt."""
    ids, prompts = [], []
    for epoch in range(epochs):
        for document in Orders((5,), COUNT)[epoch](np.arange(COUNT)).tolist():
            sequence, prompt = sequences.read(document, epoch)
            ids.append(sequence)
            prompts.append(np.arange(len(sequence)) < prompt)
    return np.concatenate(ids), np.concatenate(prompts)


@pytest.mark.parametrize("retrieved", [False, True])
@pytest.mark.parametrize("before", [(), (2,)])
def test_any_part_is_what_lies_there(store: Store, tmp_path: Path, retrieved: bool, before: tuple[int, ...]) -> None:
    source = SourceConfig("")
    if retrieved:
        found = np.random.default_rng(0).integers(0, COUNT, (COUNT, 3, 4))
        neighbours.write(tmp_path / "table", store, store, [(found, np.zeros(found.shape))])
        source = SourceConfig("", neighbours=str(tmp_path / "table"))
    sequences = Sequences(source, store, SPACE, before)
    made = Stream(sequences, Orders((5,), COUNT))
    ids, prompts = by_hand(sequences, 7)
    turns = 3 if retrieved else 1
    assert sequences.turns == turns
    assert made.period == len(by_hand(sequences, turns)[0])
    rng = np.random.default_rng(1)
    edges = [(0, len(ids)), (0, 1), (made.period - 3, made.period + 3)]
    for start, stop in [*edges, *np.sort(rng.integers(0, len(ids), (60, 2)), axis=1).tolist()]:
        pieces = made.read(start, stop)
        joined = np.concatenate([piece.ids for piece in pieces]) if pieces else ids[:0]
        np.testing.assert_array_equal(joined, ids[start:stop])
        told = [np.arange(len(piece.ids)) < piece.prompt for piece in pieces]
        np.testing.assert_array_equal(np.concatenate(told) if told else prompts[:0], prompts[start:stop])
        assert [piece.room for piece in pieces] == [len(piece.ids) for piece in pieces]
    copy = pickle.loads(pickle.dumps(made))
    assert copy.read(17, 60)[0].ids.tolist() == made.read(17, 60)[0].ids.tolist()


def test_a_place_is_in_its_sequence(store: Store) -> None:
    sequences = Sequences(SourceConfig(""), store, SPACE, ())
    made = Stream(sequences, Orders((5,), COUNT))
    ids, _ = by_hand(sequences, 2)
    for at in range(0, len(ids), 5):
        sequence, inside = made.sequence_at(at)
        start = at - inside
        np.testing.assert_array_equal(sequence, ids[start : start + len(sequence)])
        assert sequence[-1] == 2


def test_epochs_far_away_are_found_at_once(store: Store) -> None:
    sequences = Sequences(SourceConfig(""), store, SPACE, ())
    made = Stream(sequences, Orders((5,), COUNT))
    far = 10**12
    pieces = made.read(far * made.period, (far + 1) * made.period)
    order = Orders((5,), COUNT)[far](np.arange(COUNT))
    assert [int(piece.ids[0]) for piece in pieces] == [10 + i for i in order.tolist()]
