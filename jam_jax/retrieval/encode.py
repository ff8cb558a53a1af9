"""Documents as vectors: text and pictures each through CLIP, averaged (arXiv 2211.12561 section 3.1).

A document's vector is the mean of its text's and its pictures', each of length 1, brought to length 1 again. Where one
of the two is missing it is the other's. A text that is longer than CLIP's context is cut there.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from jam_jax import checkpoint, sharding
from jam_jax.config import MeshConfig, ModelConfig, to_dict
from jam_jax.data.clip_pictures import clip_pictures
from jam_jax.data.clip_text import ClipTokenizer
from jam_jax.data.neighbours import drop
from jam_jax.model_config import ClipConfig
from jam_jax.models import clip
from jam_jax.models.model import KINDS, RUN_TIME
from jam_jax.trees import paths

BATCH = 256  # texts or pictures at once, over all devices
LENGTHS = 16  # texts are cut to the longest of a batch, rounded up to a multiple of this: few programs

Picture = bytes | Image.Image | np.ndarray


class Encoder:
    """A CLIP with its tokenizer, its batches spread over all devices of this process's mesh."""

    def __init__(self, directory: str | Path) -> None:
        """Load a CLIP; ValueError if the directory holds none, or no tokenizer of its own."""
        self.directory = Path(directory)
        config = checkpoint.read_model_config(directory)
        if not isinstance(config, ClipConfig):
            raise ValueError(f"{directory} is {KINDS[type(config)]}, no CLIP: name the one that makes the vectors")
        self.config = config
        self.tokenizer = ClipTokenizer(self.directory / "tokenizer")
        self.mesh = sharding.make_mesh(MeshConfig(), jax.local_devices())
        placed = sharding.parameter_shardings(self.mesh, checkpoint.shapes(config))
        self._params = checkpoint.load_model(directory, shardings=placed)[1]

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return self.config.embed_width

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with any weight: vectors of two encoders cannot be compared."""
        return fingerprint(self.config, self._params)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Texts → their vectors, float32 [n, E] of length 1."""
        return self.rows(self.tokenizer.encode(texts, self.config.context))

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Rows of the tokenizer's ids, int32 [n, T] → float32 [n, E] of length 1."""
        longest = int(_ends(rows, self.tokenizer.end).max(initial=0)) + 1
        rows = rows[:, : -(-longest // LENGTHS) * LENGTHS]
        return self._batched(_embed_texts, rows)

    def dropped(self, rows: np.ndarray, share: float, rngs: Iterable[np.random.Generator]) -> np.ndarray:
        """Rows of ids without a random `share` of each text's tokens; its start and its end stay."""
        found = np.full_like(rows, self.tokenizer.end)
        ends = _ends(rows, self.tokenizer.end).tolist()
        for row, ids, end, rng in zip(found, rows, ends, rngs, strict=True):
            kept = drop(rng, ids[1:end], share)
            row[0], row[1 : 1 + len(kept)] = ids[0], kept
        return found

    def pictures(self, pictures: Sequence[Picture]) -> np.ndarray:
        """Pictures → their vectors, float32 [n, E] of length 1; ValueError for bytes that are no picture."""
        return self._read_pictures(_embed_pictures, pictures)

    def features(self, pictures: Sequence[Picture]) -> np.ndarray:
        """The same before they are brought to length 1: what Fréchet distances are taken of."""
        return self._read_pictures(_picture_features, pictures)

    def _read_pictures(self, function: Any, pictures: Sequence[Picture]) -> np.ndarray:
        found = [np.empty((0, self.width), np.float32)]
        for start in range(0, len(pictures), BATCH):  # as pixels they are large
            pixels = clip_pictures(self.config, pictures[start : start + BATCH])
            found.append(self._batched(function, pixels))
        return np.concatenate(found)

    def documents(self, texts: Sequence[str], pictures: Sequence[Sequence[Picture]]) -> np.ndarray:
        """The text of each document ("": none) and its pictures (perhaps none) → float32 [n, E] of length 1.

        ValueError for a document with neither.
        """
        said = [i for i, text in enumerate(texts) if text.strip()]
        of_text = np.zeros((len(texts), self.width), np.float32)
        if said:
            of_text[said] = self.texts([texts[i] for i in said])
        return average(of_text, self.means(pictures))

    def means(self, pictures: Sequence[Sequence[Picture]]) -> np.ndarray:
        """The pictures of each document → the mean of their vectors at length 1, float32 [n, E]; 0 for no picture."""
        owner = np.repeat(np.arange(len(pictures)), [len(p) for p in pictures])
        sums = np.zeros((len(pictures), self.width), np.float32)
        if len(owner):
            np.add.at(sums, owner, self.pictures([p for of_one in pictures for p in of_one]))
        return unit(sums)

    def _batched(self, function: Any, rows: np.ndarray) -> np.ndarray:
        """All that an encoder gives for rows."""
        found = batches(self.mesh, rows, lambda placed: function(self.config, self._params, placed))
        return np.concatenate([np.empty((0, self.width), np.float32), *found])


def batches(mesh: Mesh, rows: np.ndarray, apply: Callable[[jax.Array], jax.Array]) -> Iterator[np.ndarray]:
    """What a network gives for rows [n, …], in batches over all devices of a mesh, of few sizes: few programs."""
    with jax.set_mesh(mesh):
        for part in _parts(rows, mesh.size):
            filled = np.zeros((_size(len(part), mesh.size), *part.shape[1:]), part.dtype)
            filled[: len(part)] = part
            placed = jax.device_put(filled, sharding.batch_sharding(mesh))
            yield np.asarray(apply(placed))[: len(part)]


def fingerprint(config: ModelConfig, params: dict) -> str:
    """Sixteen hex digits that change with any weight."""
    told = {k: v for k, v in to_dict(config).items() if k not in RUN_TIME}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for path, leaf in sorted(paths(params).items()):
        digest.update(path.encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()[:16]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., E] brought to length 1; those of length 0 stay."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def average(texts: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """Vectors of the texts and of the pictures of n documents, [n, E] of length 1 or 0 → float32 [n, E] of length 1.

    ValueError if both are 0, for a document with neither text nor picture.
    """
    found = unit(texts + pictures).astype(np.float32)
    if nothing := np.flatnonzero(~found.any(axis=1)).tolist():
        raise ValueError(f"document {nothing[0]} has neither a text nor a picture: there is nothing to compare")
    return found


_embed_texts = jax.jit(clip.embed_texts, static_argnums=0)
_embed_pictures = jax.jit(clip.embed_pictures, static_argnums=0)
_picture_features = jax.jit(clip.picture_features, static_argnums=0)


def _ends(rows: np.ndarray, end: int) -> np.ndarray:
    """The place of the first end in each row, int64 [n]."""
    return (rows == end).argmax(axis=1)


def _parts(rows: np.ndarray, devices: int) -> Iterator[np.ndarray]:
    step = _size(BATCH, devices)
    return (rows[i : i + step] for i in range(0, len(rows), step))


def _size(rows: int, devices: int) -> int:
    """Rows of a batch: a power of two, and the same number for every device."""
    return -(-min(BATCH, 1 << (rows - 1).bit_length()) // devices) * devices
