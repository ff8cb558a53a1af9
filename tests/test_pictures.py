"""Laws of reading picture files: every mode gives RGB on white, a right-sized one is untouched, bad ones are told."""

import io

import numpy as np
import pytest
from PIL import Image

from jam_jax.data.formats import pictures


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_picture_of_the_right_size_keeps_its_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert np.array_equal(pictures.read_picture(pictures.png(pixels), 16), pixels)


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (Image.new("RGBA", (4, 4), (200, 0, 0, 0)), "PNG", (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (200, 0, 0, 255)), "PNG", (200, 0, 0)),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 51)), "PNG", (204, 204, 204)),
        (Image.new("LA", (4, 4), (10, 0)), "PNG", (255, 255, 255)),
        (Image.new("L", (4, 4), 77), "PNG", (77, 77, 77)),
        (Image.new("1", (4, 4), 1), "PNG", (255, 255, 255)),
        (Image.new("RGB", (4, 4), (0, 128, 255)).convert("P", palette=Image.Palette.ADAPTIVE), "PNG", (0, 128, 255)),
        (Image.new("CMYK", (4, 4), (0, 0, 0, 0)), "TIFF", (255, 255, 255)),
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF", (255, 0, 0)),
        (Image.fromarray(np.full((4, 4), 128 * 257, np.uint16)), "PNG", (128, 128, 128)),
    ],
)
def test_every_mode_becomes_rgb_on_white(image: Image.Image, kind: str, expected: tuple[int, int, int]) -> None:
    assert (pictures.read_picture(encoded(image, kind), 2) == np.array(expected, np.uint8)).all()


def test_a_palette_with_a_transparent_entry_shows_white_there() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([9, 9, 9, 50, 60, 70])
    image.putpixel((1, 0), 1)
    seen = pictures.read_picture(encoded(image, transparency=0), 4)
    assert seen[0, 1].tolist() == [50, 60, 70]
    assert (np.delete(seen.reshape(16, 3), 1, 0) == 255).all()


def test_the_centre_is_kept_of_a_long_picture() -> None:
    pixels = np.zeros((8, 40, 3), np.uint8)
    pixels[:, 16:24] = (10, 20, 30)
    assert (pictures.read_picture(pictures.png(pixels), 8) == (10, 20, 30)).all()
    assert (pictures.read_picture(pictures.png(pixels.transpose(1, 0, 2)), 8) == (10, 20, 30)).all()
    assert (pictures.read_picture(pictures.png(pixels), 4) == (10, 20, 30)).all()


def test_an_exif_rotation_is_applied() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[0] = 255  # the stored top row …
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 3  # … is the bottom row of a picture taken upside down
    assert pictures.read_picture(encoded(image, exif=exif), 4)[:, 0, 0].tolist() == [0, 0, 0, 255]


def test_bad_files_are_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match="are no picture") as told:
        pictures.read_picture(b"not a picture at all", 8)
    assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match="damaged"):
        pictures.read_picture(pictures.png(noise)[:900], 8)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1000)
    with pytest.raises(ValueError, match="too large: 32 x 32"):
        pictures.read_picture(pictures.png(noise), 8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="too large"):
        pictures.read_picture(pictures.png(noise), 8)
