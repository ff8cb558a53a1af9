"""Training a CLIP through the real entry point: pictures find their captions, and mistakes are one line."""

import json
from pathlib import Path

import numpy as np
import pytest

from jam_jax import checkpoint
from jam_jax.data.clip_text import ClipTokenizer
from jam_jax.data.formats.pictures import png
from jam_jax.retrieval.encode import Encoder
from jam_jax.train import main
from tests.banks import COLOURS

CONFIG = """
from jam_jax.config import *
from jam_jax.model_config import TowerConfig

def get_config():
    tower = TowerConfig(layers=1, width=16, heads=2, ffn_width=32)
    return Config(
        model=ClipConfig(
            text=tower, image=tower, vocab_size=560, context=16, resolution=8, patch=4, embed_width=16
        ),
        data=DataConfig(pictures=("{pictures}",)),
        optim=OptimConfig(learning_rate=3e-3, warmup=5, schedule="cosine", weight_decay=0.0),
        steps=160, batch=32, log_every=20,
    )
"""
PLACES = ("top left", "top right", "bottom left", "bottom right")


def picture(colour: str, place: int) -> bytes:
    pixels = np.full((8, 8, 3), 128, np.uint8)
    pixels[4 * (place // 2) :, 4 * (place % 2) :][:4, :4] = COLOURS[colour]
    return png(pixels)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("clip")
    (root / "pictures").mkdir()
    lines = []
    for i in range(160):
        colour, place = list(COLOURS)[i % 4], i // 4 % 4
        (root / f"pictures/{i}.png").write_bytes(picture(colour, place))
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"a {colour} square at the {PLACES[place]}"}))
    (root / "pictures/metadata.jsonl").write_text("\n".join(lines))
    (root / "config.py").write_text(CONFIG.format(pictures=root / "pictures"))
    return ["--config", str(root / "config.py")]


def test_pictures_find_their_captions(run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    main([*run, "--out", str(tmp_path / "clip")])
    assert "of the pictures find their own caption" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "clip/metrics.jsonl").read_text().splitlines()]
    assert lines[7]["loss"] < 0.6 * lines[0]["loss"]
    encoder = Encoder(tmp_path / "clip")
    assert encoder.config.vocab_size == encoder.tokenizer.vocab_size <= 560
    assert encoder.config.end_of_text == encoder.tokenizer.end
    texts = encoder.texts([f"a {colour} square at the {place}" for colour in COLOURS for place in PLACES])
    pictures = encoder.pictures([picture(colour, place) for colour in COLOURS for place in range(4)])
    right = (pictures @ texts.T).argmax(axis=1) == np.arange(16)
    assert right.mean() >= 0.8  # by chance one of sixteen


@pytest.mark.long
def test_the_same_config_gives_the_same_clip_and_a_tokenizer_may_be_given(run: list[str], tmp_path: Path) -> None:
    main([*run, "--out", str(tmp_path / "a"), "--steps", "2"])
    text = tmp_path / "a" / "tokenizer"
    main([*run, "--out", str(tmp_path / "b"), "--steps", "2", "--tokenizer", str(text)])
    assert Encoder(tmp_path / "a").fingerprint == Encoder(tmp_path / "b").fingerprint
    assert (
        ClipTokenizer(text).encode(["a red square"]).tolist()
        == Encoder(tmp_path / "b").tokenizer.encode(["a red square"]).tolist()
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--resume", "auto"], "a CLIP's training has no resume"),
        (["--data.pictures", "/nowhere"], "no file or directory /nowhere"),
        (["--model.vocab-size", "100"], "514 ids before its first merge: vocab 100 is too few"),
        (["--optim.learning-rate", "1e30", "--steps", "4"], "the loss is not finite"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(
    run: list[str], tmp_path: Path, args: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        main([*run, "--out", str(tmp_path / "clip"), *args])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "clip").exists()


def test_pictures_without_captions_are_told(run: list[str], tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    for i in range(40):
        (tmp_path / f"bare/{i}.png").write_bytes(picture("red", i % 4))
    with pytest.raises(ValueError, match="no pictures with captions in the split 'train'"):
        main([*run, "--out", str(tmp_path / "clip"), "--data.pictures", str(tmp_path / "bare")])
    main([*run, "--out", str(tmp_path / "good"), "--steps", "1", "--log-every", "1"])
    assert checkpoint.read_model_config(tmp_path / "good").context == 16
