"""Pictures as CLIP reads them (arXiv 2103.00020): the centred square, resized, with each colour normalised."""

from collections.abc import Iterable

import numpy as np
from PIL import Image

from jam_jax.data.formats.pictures import decode_picture, on_white
from jam_jax.model_config import ClipConfig

LONGEST = 16  # times the shorter side: what is cut off beyond does not show in the middle


def clip_pictures(config: ClipConfig, pictures: Iterable[bytes | Image.Image | np.ndarray]) -> np.ndarray:
    """Encoded pictures, PIL's, or uint8 [H, W, 3] of any sizes → float32 [B, R, R, 3] for `models.clip`.

    The shorter side is resized to R (bicubic), the longer one in proportion, and the middle is cut out. ValueError for
    bytes that are no picture, and for an array of another shape or type.
    """
    pixels = squares(config, pictures)
    mean, std = (np.asarray(numbers, np.float32) for numbers in (config.mean, config.std))
    return (pixels.astype(np.float32) / 255 - mean) / std


def squares(config: ClipConfig, pictures: Iterable[bytes | Image.Image | np.ndarray]) -> np.ndarray:
    """The same before the colours are normalised, uint8 [B, R, R, 3]."""
    side = config.resolution
    found = [_square(_opened(picture), side) for picture in pictures]
    return np.array(found, np.uint8).reshape(-1, side, side, 3)


def _opened(picture: bytes | Image.Image | np.ndarray) -> Image.Image:
    if isinstance(picture, bytes):
        return decode_picture(picture)
    if isinstance(picture, Image.Image):
        return on_white(picture)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise ValueError(f"a picture must be uint8 [H, W, 3], got {picture.dtype} {list(picture.shape)}")
    return Image.fromarray(picture)


def _square(image: Image.Image, side: int) -> Image.Image:
    """The middle of a picture whose shorter side becomes `side` pixels."""
    short = min(image.size)
    # A very long picture, resized first, could need any amount of memory.
    image = _middle(image, (min(image.width, LONGEST * short), min(image.height, LONGEST * short)))
    size = (side * image.width // short, side * image.height // short)
    return _middle(image.resize(size, Image.Resampling.BICUBIC), (side, side))


def _middle(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    left, top = (image.width - size[0]) // 2, (image.height - size[1]) // 2
    return image.crop((left, top, left + size[0], top + size[1]))
