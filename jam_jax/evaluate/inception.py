"""Features of pictures by FID's Inception network, its batches spread over all devices of this process."""

import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jam_jax import checkpoint, sharding
from jam_jax.config import InceptionConfig, MeshConfig
from jam_jax.data.inception_pictures import inception_pictures
from jam_jax.models import inception
from jam_jax.models.model import KINDS
from jam_jax.retrieval.encode import batches, fingerprint

BATCH = 32  # pictures on each device: their first layers are large


class Features:
    """An Inception network as `convert import` wrote it."""

    def __init__(self, directory: str | Path) -> None:
        """Load it, whole on every device; ValueError if the directory holds none."""
        config = checkpoint.read_model_config(directory)
        if not isinstance(config, InceptionConfig):
            raise ValueError(f"{directory} is {KINDS[type(config)]}, not the Inception network of FID")
        self.config = config
        self.mesh = sharding.make_mesh(MeshConfig(), jax.local_devices())
        whole = NamedSharding(self.mesh, PartitionSpec())
        placed = jax.tree.map(lambda _: whole, checkpoint.shapes(config))
        self._params = checkpoint.load_model(directory, shardings=placed)[1]

    @property
    def width(self) -> int:
        """Features of a picture."""
        return self.config.width

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with any weight."""
        return fingerprint(self.config, self._params)

    def features(self, pictures: Sequence[bytes]) -> np.ndarray:
        """Encoded pictures → float32 [n, width]; ValueError for bytes that are no picture."""
        found, step = [np.empty((0, self.width), np.float32)], BATCH * self.mesh.size
        for start in range(0, len(pictures), step):  # as pixels they are large
            pixels = inception_pictures(self.config.resolution, pictures[start : start + step])
            found += batches(self.mesh, pixels, lambda placed: _features(self.config, self._params, placed))
        return np.concatenate(found)


_features = jax.jit(inception.features, static_argnums=0)
