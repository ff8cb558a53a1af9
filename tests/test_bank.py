"""Banks: the strategy's choice is that of brute force, indices find what an exact search finds, damage is named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jam_jax.data.parts import Part
from jam_jax.retrieval import bank as banks
from jam_jax.retrieval import index as indices
from jam_jax.retrieval.bank import Bank
from jam_jax.retrieval.vectors import Embeddings
from tests.banks import clustered, embeddings


def oracle(vectors, query, count, limit, own, last):
    """Every document compared, the best that qualify: brute force."""
    wide = vectors.astype(np.float64)
    scores = (wide @ query.astype(np.float64)).astype(np.float32)
    taken = []
    for i in sorted(range(len(vectors)), key=lambda i: (-scores[i], i)):
        if len(taken) == count:
            break
        if i == own or last[i] or scores[i] > limit:
            continue
        if any(wide[i] @ wide[j] > limit for j in taken):
            continue
        taken.append(i)
    return taken + [-1] * (count - len(taken)), [float(scores[i]) for i in taken]


def make(root: Path, rows: np.ndarray, kind: indices.Kind | None = None, shards: int = 1, **more: object) -> Bank:
    made = embeddings(root / "embeddings", rows, **more)  # type: ignore[arg-type]
    trained = ""
    if kind == "ivfpq" and shards > 1:
        banks.train_index(root / "trained", made)
        trained = str(root / "trained")
    for i in range(shards):
        banks.build(root / "bank", made, kind, Part(i, shards), trained)
    return banks.merge(root / "bank")


def test_what_is_retrieved_is_what_brute_force_takes_in_a_thousand_cases(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    corners = np.stack(np.meshgrid(*[[-0.5, 0.5]] * 4), -1).reshape(-1, 4).astype(np.float32)
    fewer = 0
    for case in range(25):
        size, count, limit = int(rng.integers(1, 400)), int(rng.integers(1, 5)), float(rng.choice([0.9, 0.5, 0.25]))
        if case % 2:  # ties and duplicates, whose products are exact
            rows, queries = corners[rng.integers(0, rng.integers(1, 17), size)], corners[rng.integers(0, 16, 40)]
        else:  # clusters, many of whose members are near-duplicates, so that far ones have to be looked at
            rows, queries = clustered(size, 4, 5, case), clustered(40, 4, 5, 100 + case)
            rows[size // 2 :] = rows[: size - size // 2]
        last, own = rng.random(size) < 0.2, rng.integers(-1, size, 40)
        root = tmp_path / str(case)
        bank = make(root, rows, shards=min(size, 1 + case % 3), text_last=last, parts=min(size, 1 + case % 4))
        numbers, scores = bank.retrieve(queries, count, limit=limit, without=own, picture_last=True)
        held = bank.vectors.rows(0, size)
        for i in range(40):
            taken, expected = oracle(held, queries[i], count, limit, own[i], last)
            assert numbers[i].tolist() == taken, (case, i)
            np.testing.assert_array_equal(scores[i, : len(expected)], expected)
            fewer += len(expected) < count
    assert 50 < fewer < 900  # both kinds of cases are there


def test_a_search_gives_the_nearest_in_order_and_of_equals_the_first(tmp_path: Path) -> None:
    rows = clustered(50, 8, 3)
    rows[30:40] = rows[7]
    for shards in (1, 4):
        bank = make(tmp_path / str(shards), rows, shards=shards, parts=shards)
        assert len(bank) == 50 and bank.plan.kind == "exact"
        numbers, scores = bank.search(rows[7:8].astype(np.float16).astype(np.float32), 11)
        assert numbers[0].tolist() == [7, *range(30, 40)]
        assert scores[0, 0] == scores[0, -1] == pytest.approx(1, abs=1e-3)
        numbers, scores = bank.search(rows[:2], 60)  # more than there are
        assert (numbers[:, 50:] == -1).all() and np.isneginf(scores[:, 50:]).all()
        assert sorted(numbers[0, :50].tolist()) == list(range(50))
        assert (np.diff(scores[:, :50]) <= 0).all()
    with pytest.raises(ValueError, match=r"queries of bank .* are \[n, 8\], got \[1, 5\]"):
        bank.search(np.zeros((1, 5), np.float32), 1)


@pytest.mark.parametrize("kind", indices.KINDS)
def test_what_is_found_does_not_depend_on_how_many_queries_are_held_at_once(
    tmp_path: Path, kind: indices.Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = clustered(900, 24, 20)
    rows[600:] = rows[:300]  # equals, which stand at other places
    bank = make(tmp_path, rows, kind, shards=3)
    queries = clustered(50, 24, 20, 1)
    searched, retrieved = bank.search(queries, 7), bank.retrieve(queries, 3)
    assert bank.search(queries[:0], 7)[0].shape == bank.retrieve(queries[:0], 7)[0].shape == (0, 7)
    numbers, scores = searched
    twins = np.isin(numbers, np.arange(300))[:, :-1]
    assert twins.sum() > 50
    np.testing.assert_array_equal(numbers[:, 1:][twins], numbers[:, :-1][twins] + 600)
    np.testing.assert_array_equal(scores[:, 1:][twins], scores[:, :-1][twins])
    for cached, held in ((1, 1), (5000, 500), (1 << 30, 1 << 30)):
        monkeypatch.setattr(banks, "CACHED", cached)
        monkeypatch.setattr(banks, "HELD", held)
        for before, after in ((searched, bank.search(queries, 7)), (retrieved, bank.retrieve(queries, 3))):
            for one, other in zip(before, after, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
def test_an_index_finds_what_an_exact_search_finds(tmp_path: Path, kind: indices.Kind) -> None:
    rows, queries = clustered(3000, 32, 60), clustered(100, 32, 60, 1)
    exact = make(tmp_path / "exact", rows).search(queries, 10)[0]
    found = {}
    for shards in (1, 3):
        bank = make(tmp_path / str(shards), rows, kind, shards)
        assert bank.plan.kind == kind and len(bank) == 3000
        found[shards], scores = bank.search(queries, 10)
        right = [len(set(a) & set(b)) for a, b in zip(exact.tolist(), found[shards].tolist(), strict=True)]
        assert sum(right) >= 0.95 * 1000
        # Scores are of the vectors themselves, whatever the index holds.
        held = np.einsum("nce,ne->nc", bank.vectors.take(found[shards]), queries)
        np.testing.assert_allclose(scores, held, atol=1e-5)
        taken, _ = bank.retrieve(queries, 2)
        assert (taken >= 0).all()
    if kind == "ivfpq":  # trained on the same vectors, merged on the disk
        np.testing.assert_array_equal(found[1], found[3])
        assert (tmp_path / "3/bank/index.ivfdata").is_file()


def test_a_merged_index_needs_its_parts_no_more_and_may_move(tmp_path: Path) -> None:
    rows = clustered(600, 8, 6)
    before = make(tmp_path / "a", rows, "ivfpq", 2).search(rows[:9], 3)[0]
    for path in (tmp_path / "a/bank").glob("part-*/index.faiss"):
        path.unlink()
    shutil.rmtree(tmp_path / "a/embeddings")
    (tmp_path / "a/bank").rename(tmp_path / "elsewhere")
    bank = Bank(tmp_path / "elsewhere")
    np.testing.assert_array_equal(bank.search(rows[:9], 3)[0], before)
    bank.verify()


def test_the_kind_follows_the_size_unless_it_is_named() -> None:
    sizes = [(10, "exact"), (10**6, "exact"), (10**6 + 1, "hnsw"), (10**7, "hnsw"), (10**9, "ivfpq")]
    assert [indices.plan(documents, 512).kind for documents, _ in sizes] == [kind for _, kind in sizes]
    million, billion = indices.plan(10**6, 512, "ivfpq"), indices.plan(10**9, 512)
    assert (million.lists, million.code, million.probes) == (2048, 64, 9)
    assert (billion.lists, billion.code, billion.probes) == (65536, 64, 30)
    assert indices.plan(300, 7, "ivfpq").code == 1
    with pytest.raises(ValueError, match="needs 256 documents or more, there are 255: use exact"):
        indices.plan(255, 16, "ivfpq")
    assert indices.plan(10**6, 512, "ivfpq", 40).probes == 40 and indices.plan(300, 8, "ivfpq", 999).probes == 4
    with pytest.raises(ValueError, match="kind exact has no lists to look into: leave --probes out"):
        indices.plan(10, 8, None, 3)


def test_shards_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    made = embeddings(tmp_path / "e", clustered(300, 8, 3))
    with pytest.raises(ValueError, match="make them once with python -m jam_jax.retrieval train"):
        banks.build(tmp_path / "b", made, "ivfpq", Part(0, 2))
    with pytest.raises(ValueError, match="shares nothing among shards"):
        banks.build(tmp_path / "b", made, "exact", Part(0, 2), tmp_path / "trained")
    with pytest.raises(ValueError, match="300 documents: 301 shards are too many"):
        banks.build(tmp_path / "b", made, None, Part(0, 301))
    assert not (tmp_path / "b").exists()
    banks.train_index(tmp_path / "trained", made)
    other = embeddings(tmp_path / "other", clustered(1300, 8, 3))
    with pytest.raises(ValueError, match="was trained with another index than .*other: train it again"):
        banks.build(tmp_path / "b", other, "ivfpq", Part(0, 2), tmp_path / "trained")
    banks.build(tmp_path / "c", made, "ivfpq", Part(0, 2), tmp_path / "trained", 3)  # other probes: the same centres
    banks.build(tmp_path / "b", made, "exact", Part(0, 2))
    with pytest.raises(ValueError, match="1 of 2 shards of .* are not there: write 1/2 first"):
        banks.merge(tmp_path / "b")
    with pytest.raises(ValueError, match="holds shards of bank: put them together with"):
        Bank(tmp_path / "b")
    with pytest.raises(ValueError, match="shard 0/2, which does not go with 0/3"):
        banks.build(tmp_path / "b", made, "exact", Part(0, 3))
    with pytest.raises(ValueError, match="holds shard 0/2 with another documents"):
        banks.build(tmp_path / "b", other, "exact", Part(1, 2))
    banks.build(tmp_path / "b", made, "exact", Part(1, 2))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "a.txt").write_text("years")
    with pytest.raises(ValueError, match="is not empty and holds something else"):
        banks.build(tmp_path / "thesis", made, "exact")
    assert len(banks.merge(tmp_path / "b")) == len(banks.merge(tmp_path / "b")) == 300  # once more does no harm


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Banks of every kind."""
    root = tmp_path_factory.mktemp("banks")
    for kind in indices.KINDS:
        make(root / kind, clustered(300, 8, 3), kind)
    return root


@pytest.mark.parametrize("kind", indices.KINDS)
def test_every_damaged_file_is_named_in_one_line(built: Path, kind: str, tmp_path: Path) -> None:
    whole = built / kind / "bank"
    files = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file() and p.name != "manifest.json")
    assert len(files) == (2 if kind == "exact" else 3)
    for i, file in enumerate(files):
        for change in ("flipped", "cut", "gone"):
            bank = tmp_path / f"{i}-{change}"
            shutil.copytree(whole, bank)
            data = bytearray((bank / file).read_bytes())
            if change == "flipped":
                data[len(data) // 2] ^= 1
            (bank / file).write_bytes(data[:-3] if change == "cut" else data)
            if change == "gone":
                (bank / file).unlink()
            with pytest.raises(ValueError, match=f"bank .* is damaged .*{file.name}.*build it again") as error:
                Bank(bank)
            assert "\n" not in str(error.value)


def test_a_large_bank_is_compared_with_its_checksums_when_asked(built: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("jam_jax.retrieval.pieces.SMALL", 0)
    for kind in indices.KINDS:
        bank = tmp_path / kind
        shutil.copytree(built / kind / "bank", bank)
        Bank(bank).verify()
        path = next(bank.glob("part-*/vectors.npy"))
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with pytest.raises(ValueError, match="vectors.npy is not what was written"):
            Bank(bank).verify()
        if kind != "exact":
            path = next(bank.glob("part-*/index.faiss"))
            path.write_bytes(b"x" * path.stat().st_size)
            with pytest.raises(ValueError, match="index.faiss is damaged or no index"):
                Bank(bank)


def test_a_damaged_manifest_or_another_directory_is_no_bank(built: Path, tmp_path: Path) -> None:
    for name, text, message in (
        ("cut", '{"files"', "is damaged"),
        ("list", "[]", "is damaged"),
        ("other", '{"files": {}}', "is no bank"),
    ):
        shutil.copytree(built / "exact/bank", tmp_path / name)
        (tmp_path / name / "manifest.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            Bank(tmp_path / name)
    with pytest.raises(ValueError, match="nowhere is no bank: it has no manifest.json; build it again"):
        Bank(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is no bank"):
        Bank(built / "exact/embeddings")
    with pytest.raises(ValueError, match="is no directory of embeddings: make them with"):
        Embeddings(built / "exact/bank")


def test_an_empty_bank_is_refused(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built / "exact/bank", tmp_path / "bank")
    part = next((tmp_path / "bank").glob("part-*"))
    np.save(part / "vectors.npy", np.empty((0, 8), np.float32)), np.save(part / "text_last.npy", np.empty(0, bool))
    manifest = json.loads((tmp_path / "bank/manifest.json").read_text())
    manifest |= {"documents": 0, "files": {}}
    (tmp_path / "bank/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="has no documents: there is nothing to search"):
        Bank(tmp_path / "bank")
