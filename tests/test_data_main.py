"""`python -m jam_jax.data`: the commands one after another, from the built-in world to a document on a page."""

import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jam_jax import checkpoint
from jam_jax.config import VqganConfig
from jam_jax.data.__main__ import Assemble, Tokenize, main
from jam_jax.data.store import Store

VQGAN = VqganConfig(32, 4, (1, 1, 1, 1), 1, (), groups=2, z_channels=4, codes=16, code_width=4)


def random_params() -> dict:
    """Parameters of the tiny VQGAN, drawn here: its own initialisation compiles for seconds."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.normal(0, 0.5, s.shape).astype(np.float32), checkpoint.shapes(VQGAN))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    checkpoint.save_model(root / "vqgan", VQGAN, random_params())
    main(["world", "--target", f"{root}/world", "--share", "0.002"])
    sources = [f"{root}/world/{name}" for name in ("text", "captions", "illustrated")]
    main(["train-text", "--sources", *sources, "--target", f"{root}/text.model", "--vocab", "400"])
    main(["assemble", "--text", f"{root}/text.model", "--image", f"{root}/vqgan", "--target", f"{root}/tokenizer"])
    return root / "tokenizer"


def tokenize(tokenizer: Path, name: str, target: Path, *options: str) -> Store:
    world = tokenizer.parent / "world"
    main(["tokenize", "--source", f"{world}/{name}", "--tokenizer", str(tokenizer), "--target", str(target), *options])
    return Store(target)


def test_the_worlds_documents_become_stores(tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    captions = tokenize(tokenizer, "captions", tmp_path / "captions")
    assert len(captions) == 40
    assert captions.manifest["counts"]["image"] == 40 * 16
    assert not captions.lengths[:, 1].any()
    illustrated = tokenize(tokenizer, "illustrated", tmp_path / "illustrated", "--split", "test")
    assert illustrated.lengths[:, 1].all()
    few = tokenize(tokenizer, "text", tmp_path / "text", "--limit", "7")
    assert len(few) == 7
    assert few.manifest["counts"]["image"] == 0
    asked = tokenize(tokenizer, "captions", tmp_path / "asked", "--captions-ask")
    assert asked.lengths[:, 1].all()
    capsys.readouterr()
    page = tmp_path / "page.html"
    main(["show", str(tmp_path / "asked"), "--row", "17", "--check", "--html", str(page)])
    shown = capsys.readouterr().out
    assert "row 17 of 40" in shown
    question = next(line for line in shown.splitlines() if line.startswith("question: "))
    assert question.replace("question", "text") in shown
    assert "picture: 16 codes" in shown
    assert "not well formed" not in shown
    assert page.read_text().count("data:image/png;base64") == 1


def test_a_document_does_nothing_to_the_terminal(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/1.txt").write_bytes("é\x1b[2J\x07\x9b1m\ttab\r\nnext 👩\u200d👧".encode())
    command = ["tokenize", "--source", f"{tmp_path}/texts", "--tokenizer", str(tokenizer), "--held-out", "0"]
    main([*command, "--target", f"{tmp_path}/store"])
    capsys.readouterr()
    main(["show", f"{tmp_path}/store"])
    assert "text: é\\x1b[2J\\x07\\x9b1m\ttab\\r\nnext 👩\u200d👧\n" in capsys.readouterr().out


def test_mistakes_are_one_line(tokenizer: Path, tmp_path: Path) -> None:
    store = tokenize(tokenizer, "text", tmp_path / "text", "--limit", "3")
    with pytest.raises(ValueError, match="there is no 3"):
        main(["show", str(store.directory), "--row", "3"])
    with pytest.raises(ValueError, match="already exists"):
        tokenize(tokenizer, "text", tmp_path / "text")
    with pytest.raises(ValueError, match="exists already"):
        main(["train-text", "--sources", "nowhere", "--target", str(tokenizer.parent / "text.model")])
    with pytest.raises(ValueError, match="must be more than 0"):
        main(["world", "--target", str(tmp_path / "w"), "--share", "0"])
    for make, message in [
        (lambda: Tokenize(source="s", tokenizer="t", target="u", limit=-1), "limit must be at least 0, got -1"),
        (lambda: Tokenize(source="", tokenizer="t", target="u"), "--source is empty"),
        (lambda: Assemble(text="t", image="i", sentinels=-3), "sentinels must be at least 0, got -3"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


def test_help_is_quick() -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    for command in ([], ["tokenize"]):
        start = time.monotonic()
        call = [sys.executable, "-m", "jam_jax.data", *command, "--help"]
        done = subprocess.run(call, capture_output=True, text=True, env=environment, check=True)
        assert "tokenize" in done.stdout
        assert time.monotonic() - start < 8  # 2 seconds on a machine that has nothing else to do
