"""Training an image tokenizer through the real entry point: pictures come back, and mistakes are one line."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jam_jax import checkpoint
from jam_jax.data.formats.pictures import png
from jam_jax.models import vqgan
from jam_jax.train import main
from jam_jax.train_vqgan import cells

CONFIG = """
from jam_jax.config import *

def get_config():
    return Config(
        model=VqganConfig(
            resolution=8, channels=8, multipliers=(1, 2), res_blocks=1, attn_resolutions=(), groups=4,
            z_channels=8, codes=8, code_width=4,
        ),
        data=DataConfig(pictures=("{pictures}",)),
        optim=OptimConfig(learning_rate=1e-2, warmup=5, schedule="cosine", weight_decay=0.0),
        steps=80, batch=16, log_every=10,
    )
"""
COLOURS = np.array([[250, 30, 30], [30, 30, 250], [30, 200, 30], [240, 240, 240]], np.uint8)


def quarters(rng: np.random.Generator) -> np.ndarray:
    """A picture of 8 x 8 pixels whose 16 squares of 2 x 2 pixels have one colour each."""
    return COLOURS[rng.integers(0, 4, (4, 4))].repeat(2, 0).repeat(2, 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("vqgan")
    (root / "pictures").mkdir()
    rng = np.random.default_rng(0)
    with (root / "pictures/metadata.jsonl").open("w") as file:
        for i in range(200):
            (root / f"pictures/{i}.png").write_bytes(png(quarters(rng)))
            file.write(json.dumps({"file_name": f"{i}.png", "text": f"picture {i}"}) + "\n")
    (root / "config.py").write_text(CONFIG.format(pictures=root / "pictures"))
    return ["--config", str(root / "config.py")]


def test_pictures_come_back_and_the_loss_falls(run: list[str], tmp_path: Path) -> None:
    main([*run, "--out", str(tmp_path / "vqgan")])
    config, params = checkpoint.load_model(tmp_path / "vqgan")
    pictures = np.stack([quarters(np.random.default_rng(100 + i)) for i in range(8)])

    @jax.jit
    def there_and_back(pixels: jax.Array) -> jax.Array:
        codes = vqgan.encode(config, params, vqgan.from_pixels(pixels))  # type: ignore[arg-type]
        return vqgan.to_pixels(vqgan.decode(config, params, codes))  # type: ignore[arg-type]

    wrong = np.abs(np.asarray(there_and_back(pictures), int) - pictures).mean()
    assert wrong < 40  # of 255; a grey picture is wrong by about 90
    lines = [json.loads(line) for line in (tmp_path / "vqgan/metrics.jsonl").read_text().splitlines()]
    assert lines[7]["loss"] < 0.5 * lines[0]["loss"]
    assert {"config.json", "model.json", "reconstructions.png", "tensorboard"} <= {
        p.name for p in (tmp_path / "vqgan").iterdir()
    }


def test_cells_are_what_a_code_covers() -> None:
    picture = np.arange(4 * 4 * 3).reshape(1, 4, 4, 3)
    found = cells(picture, 2)
    for i, (y, x) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
        np.testing.assert_array_equal(found[i], picture[0, y : y + 2, x : x + 2].ravel())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.pictures", "nowhere"], "nowhere"),
        (["--resume", "auto"], "an image tokenizer's training has no resume"),
        (["--mesh.tensor", "5"], "does not fit 1 devices"),
    ],
)
def test_mistakes_leave_nothing(run: list[str], tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        main([*run, "--out", str(tmp_path / "vqgan"), *options])
    assert not list(tmp_path.iterdir())
