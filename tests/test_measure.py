"""Perplexity of data as a user has it: the same as of its store; bytes of text; each process its own documents."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jam_jax import checkpoint
from jam_jax.config import DecoderConfig, VqganConfig
from jam_jax.data import formats
from jam_jax.data.__main__ import main as data
from jam_jax.data.sentencepiece_text import train_text_tokenizer
from jam_jax.data.store import Store
from jam_jax.data.tokenizers import build_tokenizer, open_tokenizer
from jam_jax.evaluate.__main__ import main
from jam_jax.evaluate.documents import of_records, of_source, text_bytes
from tests.tiny import randomise
from tests.training import finish, start

VQGAN = VqganConfig(8, 4, (1, 1, 1), 1, (), groups=2, z_channels=4, codes=16, code_width=4)
CAPTIONS = [f"a {size} {shape} – the {i}th" for i, (size, shape) in enumerate([("red", "ring"), ("old", "box")] * 6)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its tokenizer, and a folder of pictures with captions."""
    root = tmp_path_factory.mktemp("measure")
    train_text_tokenizer(CAPTIONS, root / "text.model", vocab=290)
    checkpoint.save_model(root / "vqgan", VQGAN, randomise(checkpoint.shapes(VQGAN)))
    build_tokenizer(root / "tokenizer", root / "text.model", root / "vqgan", sentinels=8)
    rows = open_tokenizer(root / "tokenizer").space.vocab_size
    config = DecoderConfig(rows, 1, 16, 2, 8, 32, max_positions=48)
    checkpoint.save_model(root / "model", config, randomise(checkpoint.shapes(config)), tokenizer=root / "tokenizer")
    (root / "pictures").mkdir()
    for i, caption in enumerate(CAPTIONS):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"pictures/{i}.png")
        (root / f"pictures/{i}.txt").write_text(caption)
    return root


def test_a_dataset_is_measured_as_its_store_is(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = ["--source", f"{root}/pictures", "--split", "train", "--held-out", "0.3"]
    data(["tokenize", *source, "--tokenizer", f"{root}/tokenizer", "--target", f"{tmp_path}/store"])
    found = {}
    for name, options in {"store": ["--store", f"{tmp_path}/store"], "source": source}.items():
        main(["perplexity", "--model", f"{root}/model", *options, "--out", f"{tmp_path}/{name}.json"])
        found[name] = json.loads((tmp_path / f"{name}.json").read_text())
    for name in ("nll", "nll_within_modality", "targets", "text_bytes", "documents", "bits_per_byte", "by_group"):
        assert found["source"][name] == found["store"][name]
    captions = [
        open_tokenizer(root / "tokenizer").read_document(ids).runs[0] for ids in _all(Store(tmp_path / "store"))
    ]
    assert set(captions) < set(CAPTIONS)
    assert found["store"]["text_bytes"] == sum(len(caption.encode()) for caption in captions)
    expected = found["store"]["nll"]["text"] / np.log(2) / found["store"]["text_bytes"]
    assert found["store"]["bits_per_byte"] == pytest.approx(expected)
    assert "bits per byte of text" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.parametrize("limit", ["0", "5"])
def test_two_processes_tokenize_and_measure_a_dataset_together(root: Path, tmp_path: Path, limit: str) -> None:
    source = ["--source", f"{root}/pictures", "--split", "train", "--held-out", "0", "--limit", limit]
    found = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.json"
        options = ["perplexity", "--model", f"{root}/model", *source, "--out", str(out)]
        finish(start(options, module="evaluate", processes=processes))
        found.append(json.loads(out.read_text()))
    one, two = found
    assert one["targets"] == two["targets"] and one["text_bytes"] == two["text_bytes"] > 0
    np.testing.assert_allclose(list(two["nll"].values()), list(one["nll"].values()), rtol=1e-5)
    assert two["standard_error"]["all"] == pytest.approx(one["standard_error"]["all"], rel=1e-4)


def _all(store: Store) -> list[np.ndarray]:
    return [store[i] for i in range(len(store))]


@pytest.mark.parametrize("limit", [0, 5, 100])
@pytest.mark.parametrize("of", [1, 2, 5])
def test_shares_of_a_dataset_are_the_whole(root: Path, limit: int, of: int) -> None:
    tokenizer = open_tokenizer(root / "tokenizer")
    source = formats.open_source(root / "pictures", "train", formats.ReadSettings(held_out=0))
    whole = of_source(source, tokenizer, limit)(0, 1)
    records = [whole.read(i)[0].tolist() for i in range(whole.count)]
    assert len(records) == min(limit or 12, 12)
    before, found = 0, {}
    for index in range(of):
        share = of_source(source, tokenizer, limit)(index, of)
        first = before if share.first is None else share.first
        before += share.count
        found |= {first + i * share.step: share.read(i)[0].tolist() for i in range(share.count)}
    assert found == dict(enumerate(records))


@pytest.mark.parametrize("of", [1, 2, 5])
def test_shares_of_records_are_the_first_of_them(of: int) -> None:
    records = [np.array([i]) for i in range(9)]
    shares = [of_records(records, lambda i: np.array([-i]), 7)(index, of) for index in range(of)]
    found = {s.first + i * s.step: s.read(i) for s in shares for i in range(s.count)}
    assert sorted(found) == list(range(7))
    assert all((ids.item(), before.item()) == (i, -i) for i, (ids, before) in found.items())


def test_bytes_are_those_of_every_run_of_text(root: Path) -> None:
    tokenizer = open_tokenizer(root / "tokenizer")
    count, brk = text_bytes(tokenizer), tokenizer.space.start_of_image
    run, other = tokenizer.encode_text("a déjà vu 👩"), tokenizer.encode_text(" box")
    assert count(np.array([*run, brk, *tokenizer.space.image_ids[:4], brk, *other, 2])) == len(
        "a déjà vu 👩 box".encode()
    )
    assert count(np.array(run)) == len("a déjà vu 👩".encode())
    assert count(np.array([2])) == count(np.array([], int)) == 0


def test_a_model_that_gives_no_number_is_one_line_and_no_file(root: Path, tmp_path: Path) -> None:
    config, params = checkpoint.load_model(root / "model")
    broken = jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, np.float32), params)
    checkpoint.save_model(tmp_path / "model", config, broken, tokenizer=root / "tokenizer")
    source = ["--source", f"{root}/pictures", "--split", "train", "--out", f"{tmp_path}/out.json"]
    with pytest.raises(ValueError, match="model gives document 0 and 10 more of 11 a likelihood that is no") as error:
        main(["perplexity", "--model", f"{tmp_path}/model", *source])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out.json").exists()
