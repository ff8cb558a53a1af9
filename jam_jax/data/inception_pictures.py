"""Pictures as FID's Inception network reads them: all of the picture, resized as pytorch-fid does, from -1 to 1."""

from collections.abc import Iterable

import numpy as np

from jam_jax.data.formats.pictures import decode_picture


def inception_pictures(side: int, pictures: Iterable[bytes]) -> np.ndarray:
    """Encoded pictures of any sizes → float32 [B, side, side, 3] for `models.inception`.

    A picture that is not square is distorted, and one that shrinks is sampled without a filter: so published figures
    were computed. ValueError for bytes that are no picture.
    """
    found = [_resized(np.asarray(decode_picture(picture), np.float32) / 255, side) for picture in pictures]
    return 2 * np.array(found, np.float32).reshape(-1, side, side, 3) - 1


def _resized(pixels: np.ndarray, side: int) -> np.ndarray:
    """float32 [H, W, 3] → [side, side, 3]: between the four nearest pixels, whose centres are at halves."""
    for axis in (0, 1):
        length = pixels.shape[axis]
        # In float32, as PyTorch places them.
        place = np.maximum((np.arange(side, dtype=np.float32) + 0.5) * np.float32(length / side) - 0.5, 0)
        before = np.minimum(place.astype(np.int64), length - 1)
        after = np.minimum(before + 1, length - 1)
        share = np.expand_dims((place - before).astype(np.float32), (1, 2) if axis == 0 else (0, 2))
        pixels = pixels.take(before, axis) * (1 - share) + pixels.take(after, axis) * share
    return pixels
