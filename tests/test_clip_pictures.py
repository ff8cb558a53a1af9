"""Pictures for CLIP are those of transformers' image processor, whatever their size."""

import io

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from jam_jax.data.clip_pictures import clip_pictures
from jam_jax.model_config import ClipConfig, TowerConfig

TOWER = TowerConfig(layers=1, width=4, heads=1, ffn_width=4)


def config(side: int, **changes) -> ClipConfig:
    return ClipConfig(text=TOWER, image=TOWER, resolution=side, patch=side, **changes)


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """Noise over waves: edges and slopes in every colour."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [128 + 90 * np.sin(x / (3 + i) + y / (7 - i)) for i in range(3)]
    return np.clip(np.stack(waves, -1) + rng.normal(0, 30, (height, width, 3)), 0, 255).astype(np.uint8)


def theirs(config: ClipConfig, pixels: np.ndarray) -> np.ndarray:
    side = config.resolution
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=config.mean,
        image_std=config.std,
    )
    found = processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"]
    return found[0].transpose(1, 2, 0)


SIZES = [(40, 40), (41, 67), (67, 41), (300, 225), (224, 500), (37, 224), (224, 224), (5, 9), (1, 3), (333, 111)]
SIZES += [(20, 320)]  # the longest that is resized as a whole


@pytest.mark.parametrize("side", [32, 35, 224])
def test_pictures_of_any_size_are_those_of_transformers(side: int) -> None:
    c = config(side)
    pixels = [picture(*size, seed=i) for i, size in enumerate(SIZES)]
    found = clip_pictures(c, pixels)
    assert found.shape == (len(SIZES), side, side, 3) and found.dtype == np.float32
    expected = np.stack([theirs(c, p) for p in pixels])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)  # a step of a colour is 0.014


def test_the_middle_of_a_very_long_picture_is_that_of_transformers() -> None:
    pixels = picture(30, 30 * 40, 0)
    np.testing.assert_allclose(clip_pictures(config(30), [pixels])[0], theirs(config(30), pixels), rtol=0, atol=1e-5)


def test_colours_are_normalised_as_the_config_says() -> None:
    c = config(8, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    pixels = np.full((8, 8, 3), (255, 0, 51), np.uint8)
    np.testing.assert_allclose(clip_pictures(c, [pixels])[0, 3, 4], [1, -1, 0.1], rtol=1e-6)


def test_files_pil_pictures_and_arrays_are_the_same() -> None:
    pixels = picture(31, 47, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    one, two, three = clip_pictures(config(16), [pixels, Image.fromarray(pixels), buffer.getvalue()])
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)
    assert clip_pictures(config(16), []).shape == (0, 16, 16, 3)


def test_what_is_transparent_is_white() -> None:
    clear = Image.new("RGBA", (9, 9), (0, 0, 0, 0))
    white = np.full((9, 9, 3), 255, np.uint8)
    np.testing.assert_array_equal(*clip_pictures(config(8), [clear, white]))


def test_a_very_long_picture_needs_no_memory_for_its_ends() -> None:
    strip = np.zeros((2, 20_000_000, 3), np.uint8)  # resized as a whole it would have 1.5 TB
    strip[:, 10_000_000:] = 255
    found = clip_pictures(config(224), [strip])[0]
    assert (found[:, :50] < -1).all() and (found[:, -50:] > 1).all()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"no picture", "are no picture that can be read"),
        (np.zeros((4, 4), np.uint8), r"must be uint8 \[H, W, 3\], got uint8 \[4, 4\]"),
        (np.zeros((4, 4, 3), np.float32), "got float32"),
        (np.zeros((0, 4, 3), np.uint8), r"got uint8 \[0, 4, 3\]"),
    ],
)
def test_what_is_no_picture_is_one_line(bad: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clip_pictures(config(8), [bad])  # type: ignore[list-item]
