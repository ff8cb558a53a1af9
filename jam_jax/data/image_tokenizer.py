"""The image tokenizer in use: a trained VQGAN with its parameters, run in batches of one size on all local devices."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jam_jax.config import MeshConfig, VqganConfig
from jam_jax.data.formats.pictures import read_picture
from jam_jax.tokens import TokenSpace

PIXELS = 1 << 16  # of a batch on one device: 64 pictures of 32 x 32, one of 256 x 256


def load_vqgan(directory: str | Path) -> tuple[VqganConfig, dict]:
    """Config and parameters of an image tokenizer; ValueError if the directory holds none."""
    from jam_jax import checkpoint

    config, params = checkpoint.load_model(directory)
    if not isinstance(config, VqganConfig):
        raise ValueError(f"{directory} is no image tokenizer: it holds a {type(config).__name__}")
    return config, params


@functools.cache
def _jitted(config: VqganConfig) -> tuple[Any, Any]:
    """Pixels to codes and codes to pixels, jitted: functions of (params, batch), one pair per config and process."""
    import jax

    from jam_jax.models import vqgan

    return (
        jax.jit(lambda params, pictures: vqgan.encode(config, params, vqgan.from_pixels(pictures))),
        jax.jit(lambda params, codes: vqgan.to_pixels(vqgan.decode(config, params, codes))),
    )


class ImageTokenizer:
    """Pictures to codes and back. Every batch has the same size, so that each direction compiles once."""

    def __init__(self, directory: str | Path, space: TokenSpace) -> None:
        """Load the model; ValueError if it is none or if its codes are not those of `space`."""
        import jax

        from jam_jax import sharding

        config, params = load_vqgan(directory)
        if config.grid**2 != space.codes_per_image or config.codes != len(space.image_ids):
            raise ValueError(
                f"{directory} gives {config.grid**2} of {config.codes} codes a picture, but tokens.json says "
                f"{space.codes_per_image} of {len(space.image_ids)}: assemble the tokenizer again"
            )
        self.config = config
        devices = jax.local_devices()
        self.batch = max(1, PIXELS // config.resolution**2) * len(devices)  # pictures
        self._mesh = sharding.make_mesh(MeshConfig(), devices)
        self._spread = sharding.batch_sharding(self._mesh)
        self._params = jax.device_put(params, jax.sharding.NamedSharding(self._mesh, sharding.spec()))
        self._encode, self._decode = _jitted(config)

    def encode(self, pictures: Sequence[bytes] | np.ndarray) -> np.ndarray:
        """Encoded pictures, or uint8 [B, R, R, 3] → codes int32 [B, grid * grid].

        ValueError if one cannot be decoded, or if an array has another shape or dtype.
        """
        return self.begin(pictures)()

    def begin(self, pictures: Sequence[bytes] | np.ndarray) -> Callable[[], np.ndarray]:
        """The same without waiting: the devices encode until the function returned is asked for the codes."""
        side = self.config.resolution
        if not isinstance(pictures, np.ndarray):
            pictures = np.array([read_picture(data, side) for data in pictures], np.uint8).reshape(-1, side, side, 3)
        if pictures.shape[1:] != (side, side, 3) or pictures.dtype != np.uint8:
            raise ValueError(
                f"pictures must be uint8 [B, {side}, {side}, 3], got {pictures.dtype} {list(pictures.shape)}"
            )
        return self._batched(self._encode, pictures, np.empty((0, self.config.grid**2), np.int32))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes int [B, grid * grid] → pictures uint8 [B, R, R, 3]; ValueError if a code does not exist."""
        codes, side = np.asarray(codes), self.config.resolution
        if codes.size and not 0 <= codes.min() <= codes.max() < self.config.codes:
            raise ValueError(
                f"codes go from 0 to {self.config.codes - 1}, got some from {codes.min()} to {codes.max()}"
            )
        return self._batched(self._decode, codes.astype(np.int32), np.empty((0, side, side, 3), np.uint8))()

    def _batched(self, function: Any, rows: np.ndarray, nothing: np.ndarray) -> Callable[[], np.ndarray]:
        """Begin a jitted function batch by batch; the last batch is filled up with its own first row."""
        import jax

        begun = []
        with jax.set_mesh(self._mesh):  # whatever mesh of more processes is in force outside
            for start in range(0, len(rows), self.batch):
                part = rows[start : start + self.batch]
                full = np.concatenate([part, np.repeat(part[:1], self.batch - len(part), axis=0)])
                begun.append(function(self._params, jax.device_put(full, self._spread)))
        return lambda: np.concatenate([nothing, *(np.asarray(part) for part in begun)])[: len(rows)]
