"""Small banks that the tests share: of made-up vectors, and of a few captioned pictures with a random CLIP."""

import dataclasses
from pathlib import Path

import faiss
import jax
import numpy as np

from jam_jax import checkpoint
from jam_jax.config import VqganConfig
from jam_jax.data.clip_text import ClipTokenizer, train_clip_tokenizer
from jam_jax.data.documents import Document
from jam_jax.data.formats.pictures import png
from jam_jax.data.parts import Part
from jam_jax.data.sentencepiece_text import train_text_tokenizer
from jam_jax.data.store import Store, write_store
from jam_jax.data.tokenizers import build_tokenizer, open_tokenizer
from jam_jax.model_config import ClipConfig, TowerConfig
from jam_jax.retrieval import pieces, vectors
from jam_jax.retrieval.vectors import Embeddings

faiss.omp_set_num_threads(1)  # its threads and those of other tests would wait for one another

VQGAN = VqganConfig(
    resolution=8, channels=8, multipliers=(1, 1), res_blocks=1, attn_resolutions=(), groups=4, z_channels=4, codes=8,
    code_width=4,
)  # fmt: skip
CLIP = ClipConfig(
    text=TowerConfig(layers=1, width=12, heads=3, ffn_width=20),
    image=TowerConfig(layers=1, width=10, heads=2, ffn_width=14),
    context=20,
    resolution=8,
    patch=4,
    embed_width=16,
)
COLOURS = {"red": (216, 40, 44), "green": (44, 164, 72), "blue": (36, 92, 214), "white": (250, 250, 250)}


def embeddings(directory: Path, rows: np.ndarray, text_last: np.ndarray | None = None, parts: int = 1) -> Embeddings:
    """Embeddings of made-up vectors [n, E], of no store and no encoder."""
    last = np.zeros(len(rows), bool) if text_last is None else text_last
    told = {"what": "embeddings", "width": rows.shape[1], "documents": len(rows)}
    told |= {"encoder": {"path": "nowhere", "fingerprint": "made up"}, "store": {"path": "nowhere", "identity": "none"}}
    for i in range(parts):
        mine = slice(len(rows) * i // parts, len(rows) * (i + 1) // parts)

        def fill(aside: Path, mine: slice = mine) -> dict:
            vectors.write_part(aside, [rows[mine]], [last[mine]], "<f2", rows[mine].shape)
            return {"first": mine.start}

        pieces.write(directory, Part(i, parts), told, fill)
    return vectors.merge(directory)


def clustered(count: int, width: int, centres: int, seed: int = 0) -> np.ndarray:
    """Vectors of length 1 around random centres, float32 [count, width]."""
    rng = np.random.default_rng(seed)
    found = np.random.default_rng(9).normal(size=(centres, width))[rng.integers(0, centres, count)]
    found += 0.4 * rng.normal(size=found.shape)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def random_params(shapes: dict, std: float, seed: int = 0) -> dict:
    """Parameters drawn by NumPy, which compiles nothing."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: rng.normal(0, std, s.shape).astype(s.dtype), shapes)


def documents() -> list[Document]:
    """Squares of every colour at every place, a text without picture and a picture without text."""
    found = []
    for colour, value in COLOURS.items():
        for place in range(4):
            pixels = np.full((8, 8, 3), 128, np.uint8)
            pixels[4 * (place // 2) : 4 * (place // 2) + 4, 4 * (place % 2) : 4 * (place % 2) + 4] = value
            found.append(Document((f"a {colour} square at {place}", png(pixels))))
    return [*found, Document(("only a text",)), Document((found[3].parts[1],))]


def tokenizer(root: Path) -> Path:
    """A tokenizer of bytes, and of pictures of 16 codes."""
    texts = [text for document in documents() for text in document.texts]
    train_text_tokenizer(texts * 10, root / "text.model", vocab=280)
    checkpoint.save_model(root / "image", VQGAN, random_params(checkpoint.shapes(VQGAN), 0.3))
    build_tokenizer(root / "tokenizer", root / "text.model", root / "image", sentinels=4)
    return root / "tokenizer"


def clip_model(directory: Path, seed: int = 0) -> Path:
    """A random CLIP, with a tokenizer that knows the words of `documents`."""
    aside = directory.with_name(f"{directory.name}-text")
    aside.mkdir(parents=True)
    texts = [text for document in documents() for text in document.texts]
    train_clip_tokenizer(texts, aside, 540)
    known = ClipTokenizer(aside)
    config = dataclasses.replace(CLIP, vocab_size=known.vocab_size)
    checkpoint.save_model(directory, config, random_params(checkpoint.shapes(config), 0.3, seed), tokenizer=aside)
    return directory


def store(root: Path, name: str = "store") -> Store:
    """The documents as a token store."""
    return write_store(root / name, documents(), open_tokenizer(root / "tokenizer"), source="here")
