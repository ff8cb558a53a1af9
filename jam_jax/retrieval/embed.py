"""The vectors of a store's documents, written once: by one process, or each shard by a process of its own."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from jam_jax import progress
from jam_jax.data.parts import Part
from jam_jax.data.store import Store
from jam_jax.retrieval import pieces, vectors
from jam_jax.retrieval.encode import Encoder
from jam_jax.retrieval.items import Items


def embed(
    target: str | Path, store: Store, encoder: Encoder, items: Iterable[Items], numbers: range, part: Part = Part(0, 1)
) -> None:
    """Write the vectors of the documents `numbers` as one part of a directory of embeddings, float16.

    ValueError for a document with neither text nor picture, or if the directory holds parts of something else.
    """
    target = Path(target)
    shared = {
        "what": "embeddings",
        "width": encoder.width,
        "encoder": {"path": vectors.named(encoder.directory, target), "fingerprint": encoder.fingerprint},
        "store": vectors.told_store(store, target),
        "documents": len(store),
    }

    def fill(aside: Path) -> dict:
        last: list[np.ndarray] = []

        def batches() -> Iterable[np.ndarray]:
            with progress.bar(f"embed {target.name}", len(numbers)) as advance:
                for found in items:
                    yield encoder.documents(found.texts, found.pictures)
                    last.append(found.text_last)
                    advance(len(found.texts))

        vectors.write_part(aside, batches(), last, "<f2", (len(numbers), encoder.width))
        return {"first": numbers.start}

    pieces.write(target, part, shared, fill)
