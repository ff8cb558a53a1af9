"""`python -m jam_jax.retrieval`: from a store to what is found, whole and in shards, and every mistake one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jam_jax.data.formats.pictures import png
from jam_jax.data.neighbours import NONE, Neighbours
from jam_jax.data.store import Store, write_store
from jam_jax.data.tokenizers import Tokenizer, open_tokenizer
from jam_jax.retrieval import items
from jam_jax.retrieval.__main__ import main
from jam_jax.retrieval.bank import Bank
from jam_jax.retrieval.encode import Encoder, unit
from jam_jax.retrieval.vectors import Embeddings
from tests import banks


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of eighteen documents, a CLIP, embeddings and a bank, by the commands."""
    root = tmp_path_factory.mktemp("retrieval")
    banks.tokenizer(root)
    banks.store(root)
    banks.clip_model(root / "clip")
    main(["embed", "--clip", f"{root}/clip", "--store", f"{root}/store", "--target", f"{root}/embeddings"])
    main(["build", "--embeddings", f"{root}/embeddings", "--target", f"{root}/bank"])
    return root


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    """The pictures with captions among the documents, as a user's folder."""
    (root / "folder").mkdir()
    lines = []
    for i, document in enumerate(banks.documents()[:16]):
        (root / f"folder/{i:02d}.png").write_bytes(document.pictures[0])
        lines.append(json.dumps({"file_name": f"{i:02d}.png", "text": document.texts[0]}))
    (root / "folder/metadata.jsonl").write_text("\n".join(lines))
    return root / "folder"


def test_a_store_becomes_vectors_and_a_bank(root: Path) -> None:
    store, encoder, made = Store(root / "store"), Encoder(root / "clip"), Embeddings(root / "embeddings")
    tokenizer = open_tokenizer(root / "tokenizer")
    readings = [tokenizer.read_document(store[i]) for i in range(18)]
    drawn = [tokenizer.decode_codes(np.stack(r.pictures)) if r.pictures else () for r in readings]
    texts = [" ".join(run for run in r.runs if isinstance(run, str)) for r in readings]
    expected = encoder.documents(texts, drawn)
    np.testing.assert_allclose(made.vectors.rows(0, 18), expected, atol=2e-3)  # float16
    assert made.vectors.text_last(np.arange(18)).tolist() == [False] * 16 + [True, False]
    bank = Bank(root / "bank")
    assert len(bank) == 18 and bank.plan.kind == "exact" and bank.manifest["metric"].startswith("inner product")
    assert bank.fingerprint == encoder.fingerprint and bank.store().identity == store.identity
    np.testing.assert_array_equal(bank.vectors.rows(0, 18), made.vectors.rows(0, 18))


def test_shards_give_what_one_process_gives(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for i in (2, 0, 1):
        main([*embed(root, tmp_path / "e"), "--shard", f"{i}/3"])
    assert "2 of 3 shards are not there yet" in capsys.readouterr().out
    made = Embeddings(tmp_path / "e")
    np.testing.assert_allclose(made.vectors.rows(0, 18), Embeddings(root / "embeddings").vectors.rows(0, 18), atol=1e-3)
    main([*embed(root, tmp_path / "e"), "--shard", "1/3"])
    assert "shard 1/3 is there already" in capsys.readouterr().out
    for i in (1, 0):
        main(["build", "--embeddings", f"{tmp_path}/e", "--target", f"{tmp_path}/b", "--shard", f"{i}/2"])
    (tmp_path / "b/manifest.json").unlink()
    main(["merge", f"{tmp_path}/b"])
    main(["merge", f"{tmp_path}/e"])
    assert "a bank of 18 documents" in capsys.readouterr().out
    queries = made.vectors.rows(3, 7)
    for ours, theirs in zip(
        Bank(tmp_path / "b").search(queries, 5), Bank(root / "bank").search(queries, 5), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)
    for i in (1, 0):
        main([*table(root, tmp_path / "t"), "--shard", f"{i}/2"])
    main(table(root, tmp_path / "whole"))
    for name in ("documents", "scores"):
        np.testing.assert_array_equal(np.load(tmp_path / f"t/{name}.npy"), np.load(tmp_path / f"whole/{name}.npy"))
    shutil.rmtree(tmp_path / "t")
    main(["merge", f"{tmp_path}/t"])
    Neighbours(tmp_path / "t", Store(root / "store"))


def embed(root: Path, target: Path) -> list[str]:
    return ["embed", "--clip", f"{root}/clip", "--store", f"{root}/store", "--target", str(target)]


def table(root: Path, target: Path) -> list[str]:
    return [
        *("neighbours", "--bank", f"{root}/bank", "--store", f"{root}/store", "--target", str(target)),
        *("--queries", "3", "--count", "4", "--limit", "0.97"),
    ]


def test_a_table_holds_what_the_strategy_takes(root: Path, tmp_path: Path) -> None:
    main(table(root, tmp_path / "table"))
    store, bank, encoder = Store(root / "store"), Bank(root / "bank"), Encoder(root / "clip")
    found = np.load(tmp_path / "table/documents.npy")
    scores = np.load(tmp_path / "table/scores.npy")
    assert found.shape == scores.shape == (18, 3, 4) and found.dtype == np.uint32
    held = bank.vectors.rows(0, 18)
    (batch,) = items.of_store(store, open_tokenizer(root / "tokenizer"), range(18))
    rows, seen = encoder.tokenizer.encode(batch.texts, 20), encoder.means(batch.pictures)
    several = 0
    for i in range(18):
        for q in range(3):
            asked = encoder.dropped(rows[i : i + 1], 0.2, [np.random.default_rng((0, i, q))])
            text = encoder.rows(asked)[0] if batch.texts[i] else 0
            query = unit(text + seen[i])
            taken: list[int] = []
            for n in np.argsort(-held @ query, kind="stable").tolist():
                near = [held[n] @ held[t] for t in taken] + [held[n] @ query]
                if n != i and len(taken) < 4 and max(near) <= 0.97:
                    taken.append(n)
            assert found[i, q].tolist() == taken + [NONE] * (4 - len(taken))
            np.testing.assert_allclose(scores[i, q, : len(taken)], held[taken] @ query, atol=2e-3)
            several += len(taken) > 1
    assert several > 27
    assert (scores[:, 0] != scores[:, 1]).any()  # other tokens were dropped
    neighbours = Neighbours(tmp_path / "table", store)
    assert neighbours.queries == 3
    assert (
        neighbours.choose(np.arange(18), 1, 2, 0.97).tolist()
        == np.where(found[:, 1, :2] == NONE, -1, found[:, 1, :2].astype(int)).tolist()
    )
    with pytest.raises(ValueError, match="already exists: remove it or choose another target"):
        main(table(root, tmp_path / "table"))


def test_documents_ask_by_their_text_alone_if_told(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(self: Tokenizer, codes: np.ndarray) -> np.ndarray:
        raise AssertionError(f"{len(codes)} pictures were decoded, which nobody asked for")

    monkeypatch.setattr(Tokenizer, "decode_codes", decoded)
    with pytest.raises(AssertionError, match="17 pictures were decoded"):
        main(table(root, tmp_path / "both"))
    main([*table(root, tmp_path / "t"), "--by", "text", "--dropout", "0"])
    found, bank = np.load(tmp_path / "t/documents.npy"), Bank(root / "bank")
    texts = [d.texts[0] for d in banks.documents() if d.texts]
    expected = bank.retrieve(Encoder(root / "clip").texts(texts), 4, limit=0.97, without=np.arange(17))[0]
    assert np.where(found[:17, 0] == NONE, -1, found[:17, 0].astype(int)).tolist() == expected.tolist()
    assert (found[17] == NONE).all()  # a picture alone asks nothing by its text
    assert (found[:, 0] == found[:, 1]).all()


def test_the_source_of_a_store_has_the_better_pictures(
    root: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tokenizer = open_tokenizer(root / "tokenizer")
    store = write_store(tmp_path / "store", banks.documents()[:16], tokenizer, source="the folder")
    options = ["--clip", f"{root}/clip", "--store", f"{tmp_path}/store", "--source", str(folder), "--held-out", "0"]
    for i in (1, 0):
        main(["embed", *options, "--target", f"{tmp_path}/e", "--shard", f"{i}/2"])
    expected = Encoder(root / "clip").documents(
        [d.texts[0] for d in banks.documents()[:16]], [d.pictures for d in banks.documents()[:16]]
    )
    np.testing.assert_allclose(Embeddings(tmp_path / "e").vectors.rows(0, len(store)), expected, atol=2e-3)
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    (folder / "metadata.jsonl").write_text("\n".join([*lines[1:], lines[0]]))
    with pytest.raises(ValueError, match="document 0 of .* says 'a red square at 0', the source 'a red square at 1'"):
        main(["embed", *options, "--target", f"{tmp_path}/other"])
    (folder / "metadata.jsonl").write_text("\n".join(lines[:9]))
    with pytest.raises(ValueError, match="the source ends before document 9 of 16"):
        main(["embed", *options, "--target", f"{tmp_path}/other"])
    assert not (tmp_path / "other" / "manifest.json").exists() and not list((tmp_path / "other").glob("part-*"))


def test_search_prints_a_table_and_writes_a_page(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "red.png").write_bytes(banks.documents()[0].pictures[0])
    bank, encoder = Bank(root / "bank"), Encoder(root / "clip")
    queries = {
        ("a red square at 0",): encoder.documents(["a red square at 0"], [()]),
        ("--picture", "red.png"): encoder.documents([""], [banks.documents()[0].pictures]),
        ("a red square at 0", "--picture", "red.png"): encoder.documents(
            ["a red square at 0"], [banks.documents()[0].pictures]
        ),
    }
    orders = set()
    for number, (asked, query) in enumerate(queries.items(), 1):
        main(["search", f"{root}/bank", *asked, "--count", "4", "--check"])
        said = capsys.readouterr().out
        page = (tmp_path / f"runs/search-{number}.html").read_text()
        found, scores = bank.search(query, 4)
        orders.add(tuple(found[0].tolist()))
        for n, score in zip(found[0].tolist(), scores[0].tolist(), strict=True):
            assert f"<b>{score:.3f}</b> document {n}<br>" in page and f"{score:.3f}" in said
        assert page.count('src="data:image/png;base64,') == sum(n != 16 for n in found[0])
        assert [page.index(f"document {n}<br>") for n in found[0]] == sorted(
            page.index(f"document {n}<br>") for n in found[0]
        )
    assert len(orders) > 1
    main(["search", f"{root}/bank", "<script>", "--count", "30", "--html", "mine.html"])
    assert "has 18 documents, fewer than the 30 asked for" in capsys.readouterr().out
    page = Path("mine.html").read_text()
    assert "<script" not in page and "only a text" in page


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["search", "BANK"], 'nothing to search for: give a text (search BANK "a red circle") or --picture FILE'),
        (["search", "BANK", "  "], "nothing to search for"),
        (["search", "BANK", "--picture", "nowhere.png"], "there is no picture file nowhere.png"),
        (["search", "BANK", "a", "--count", "0"], "--count must be at least 1, got 0"),
        (["neighbours", "--bank", "b", "--store", "s", "--target", "t", "--queries", "0"], "must be at least 1"),
        (["neighbours", "--bank", "b", "--store", "s", "--target", "t", "--dropout", "1"], "less than 1, got 1.0"),
    ],
)
def test_what_cannot_be_is_told_with_the_options(args: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(args)
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert stop.value.code == 2 and message in said


def test_mistakes_are_one_line(root: Path, tmp_path: Path) -> None:
    banks.clip_model(tmp_path / "other", seed=1)
    for command, message in {
        ("search", f"{root}/bank", "a", "--clip", f"{tmp_path}/other"): "was made with another encoder .* than .*other",
        ("search", f"{tmp_path}/none", "a"): "none is no bank: it has no manifest.json",
        ("search", f"{root}/embeddings", "a"): "is no bank",
        ("search", f"{root}/bank", "a", "--clip", f"{root}/image"): "is an image tokenizer, no CLIP",
        (*table(root, tmp_path / "t"), "--clip", f"{tmp_path}/other"): "was made with another encoder",
        ("build", "--embeddings", f"{root}/store", "--target", f"{tmp_path}/b"): "is damaged|is no directory of embedd",
        (
            "build",
            "--embeddings",
            f"{root}/embeddings",
            "--target",
            f"{tmp_path}/b",
            "--kind",
            "ivfpq",
        ): "256 documents",
        (*embed(root, tmp_path / "e"), "--shard", "3/2"): "--shard is I/N",
        (*embed(root, tmp_path / "e"), "--shard", "0/19"): "has 18 documents: 19 shards are too many",
        ("embed", "--clip", f"{root}/clip", "--store", f"{root}/bank", "--target", "x"): "store .* is damaged",
        ("merge", f"{tmp_path}/none"): "none holds no shards: write them with --shard",
    }.items():
        with pytest.raises(ValueError, match=message) as error:
            main(list(command))
        assert "\n" not in str(error.value)
    assert not any((tmp_path / name / "manifest.json").exists() for name in ("t", "b", "e"))


def test_a_bank_whose_store_was_written_again_is_refused(root: Path, tmp_path: Path) -> None:
    for name in ("bank", "store", "clip", "tokenizer"):
        shutil.copytree(root / name, tmp_path / name)
    shutil.rmtree(tmp_path / "store")
    write_store(tmp_path / "store", banks.documents()[:17], open_tokenizer(root / "tokenizer"), source="other")
    with pytest.raises(ValueError, match="was made of another store than .*store: build it again"):
        main(["search", f"{tmp_path}/bank", "a"])


def test_a_picture_that_cannot_be_read_is_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(np.zeros((4, 4, 3), np.uint8))[:40])
    with pytest.raises(ValueError, match="damaged|no picture"):
        main(["search", f"{root}/bank", "--picture", f"{tmp_path}/a.png"])
