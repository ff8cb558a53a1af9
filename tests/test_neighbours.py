"""Neighbour tables: what is written is chosen from, by the rules, and what does not fit is refused in one line."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from jam_jax import tokens
from jam_jax.data import neighbours
from jam_jax.data.neighbours import NONE, Neighbours
from jam_jax.data.store import Store, write_ids

SPACE = tokens.jam(text=300, codes=16, codes_per_image=4)


def store(directory: Path, count: int, first: int = 4) -> Store:
    return write_ids(directory, [(np.array([first + i, 2]), 0) for i in range(count)], SPACE)


def random_rows(count: int, bank: int, queries: int = 2, many: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Distinct documents per query with falling scores, and gaps at the end of some."""
    rng = np.random.default_rng(0)
    found = np.argsort(rng.random((count, queries, bank)), axis=2)[:, :, :many]
    scores = -np.sort(-rng.random(found.shape), axis=2)
    found[rng.random(found.shape).cumsum(axis=2) > 3] = NONE
    return found, scores


@pytest.mark.parametrize("own", [True, False])
def test_the_best_are_chosen_without_what_is_too_similar_or_the_document_itself(tmp_path: Path, own: bool) -> None:
    made = store(tmp_path / "store", 30)
    bank = made if own else store(tmp_path / "bank", 40, 100)
    found, scores = random_rows(30, len(bank))
    batches = [(found[a : a + 7], scores[a : a + 7]) for a in range(0, 30, 7)]
    neighbours.write(tmp_path / "table", made, bank, batches)
    table = pickle.loads(pickle.dumps(Neighbours(tmp_path / "table", made)))
    assert (table.queries, len(table.bank)) == (2, len(bank))
    held = scores.astype(np.float16)
    skipped = 0
    for query in (0, 1):
        chosen = table.choose(np.arange(30), query, 3, 0.8)
        for i in range(30):
            candidates = zip(found[i, query].tolist(), held[i, query].tolist(), strict=True)
            good = [d for d, score in candidates if d != NONE and score <= 0.8 and not (own and d == i)]
            assert chosen[i].tolist() == (good + [-1] * 3)[:3]
            skipped += len(good) < 5
        np.testing.assert_array_equal(table.choose(np.array([7, 3]), query, 3, 0.8), chosen[[7, 3]])
    assert skipped > 20


def test_a_table_of_another_store_or_bank_is_refused(tmp_path: Path) -> None:
    made, bank = store(tmp_path / "store", 5), store(tmp_path / "bank", 9, 50)
    neighbours.write(tmp_path / "table", made, bank, [random_rows(5, 9)])
    with pytest.raises(ValueError, match="table .*/table was made for another store than .*/other"):
        Neighbours(tmp_path / "table", store(tmp_path / "other", 5, 9))
    shutil.rmtree(tmp_path / "bank")
    with pytest.raises(ValueError, match="the bank of neighbour table .* cannot be opened: .*/bank is no token store"):
        Neighbours(tmp_path / "table", made)
    store(tmp_path / "bank", 9, 51)
    with pytest.raises(ValueError, match="was made with another bank than .*/bank"):
        Neighbours(tmp_path / "table", made)


def test_stores_and_table_may_move_together(tmp_path: Path) -> None:
    made, bank = store(tmp_path / "a/store", 5), store(tmp_path / "a/bank", 9, 50)
    neighbours.write(tmp_path / "a/tables/one", made, bank, [random_rows(5, 9)])
    (tmp_path / "a").rename(tmp_path / "b")
    assert len(Neighbours(tmp_path / "b/tables/one", Store(tmp_path / "b/store")).bank) == 9


def test_damage_is_told(tmp_path: Path) -> None:
    made = store(tmp_path / "store", 5)
    with pytest.raises(ValueError, match="is no neighbour table: it has no manifest.json"):
        Neighbours(tmp_path, made)
    for name in ("manifest.json", "documents.npy", "scores.npy"):
        neighbours.write(tmp_path / name, made, made, [random_rows(5, 5, many=3)])
        path = tmp_path / name / name
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(ValueError, match=r"is damaged \(.*\): write it again"):
            Neighbours(tmp_path / name, made)
    neighbours.write(tmp_path / "shapes", made, made, [random_rows(5, 5, many=3)])
    np.save(tmp_path / "shapes/scores.npy", np.zeros((5, 2, 2), np.float16))
    with pytest.raises(ValueError, match="its arrays' shapes are wrong"):
        Neighbours(tmp_path / "shapes", made)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (np.zeros((4, 2, 3)), "store has 5 documents, got the rows of 4"),
        (np.zeros((6, 2, 3)), "store has 5 documents, got the rows of 6"),
        (np.full((5, 2, 3), 5), "bank .* has 5 documents, there is no 5"),
        (np.full((5, 2, 3), -1), "bank .* has 5 documents, there is no -1"),
        (np.zeros((5, 3)), r"rows are \[n, queries, K\], got \(5, 3\)"),
    ],
)
def test_rows_that_do_not_fit_leave_nothing(tmp_path: Path, found: np.ndarray, message: str) -> None:
    made = store(tmp_path / "store", 5)
    with pytest.raises(ValueError, match=message):
        neighbours.write(tmp_path / "table", made, made, [(found.astype(np.int64), found.astype(float))])
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_the_manifest_says_what_the_table_is_of(tmp_path: Path) -> None:
    made = store(tmp_path / "store", 5)
    neighbours.write(tmp_path / "table", made, made, [random_rows(5, 5, many=3)])
    about = json.loads((tmp_path / "table/manifest.json").read_text())
    told = {"path": "../store", "identity": made.identity}
    assert about == {"store": told, "bank": told, "query_dropout": 0.2}
    documents, scores = (np.load(tmp_path / f"table/{name}.npy") for name in ("documents", "scores"))
    assert (documents.dtype, scores.dtype) == (np.uint32, np.float16)
    assert documents.shape == scores.shape == (5, 2, 3)


def test_neighbours_are_counted_by_the_first_query_of_each_document(tmp_path: Path) -> None:
    made = store(tmp_path / "store", 3)
    found = np.array([[[1, 2], [1, 2]], [[0, NONE], [NONE, NONE]], [[NONE, NONE], [0, 1]]], np.int64)
    neighbours.write(tmp_path / "table", made, made, [(found, np.full(found.shape, 0.5))])
    assert Neighbours(tmp_path / "table", made).counted() == (1.0, 1)


def test_a_fifth_of_a_querys_tokens_is_dropped_and_the_rest_keeps_its_order() -> None:
    rng = np.random.default_rng(0)
    tokens_ = np.arange(50)
    kept = [neighbours.drop(rng, tokens_) for _ in range(200)]
    assert all(len(row) == 40 and (np.diff(row) > 0).all() for row in kept)
    times = np.bincount(np.concatenate(kept), minlength=50)
    assert (abs(times - 160) < 30).all()  # every token as often as any other
    assert neighbours.drop(rng, tokens_[:2]).tolist() == [0, 1]
    assert neighbours.drop(rng, tokens_, 0).tolist() == tokens_.tolist()
    assert len(neighbours.drop(rng, tokens_, 0.5)) == 25
