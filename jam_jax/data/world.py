"""The built-in world: a small one that is worth learning, written as three TFDS datasets.

`text` has paragraphs, `captions` pictures with their captions, `illustrated` questions with answers in text and
pictures. An example is a function of (seed, split, dataset, number). No scene is in two splits (`scenes.split_of`).
"""

import dataclasses
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jam_jax.data.formats import tfds
from jam_jax.data.scenes import Split, encoded, sample
from jam_jax.data.world_text import caption, how_to, paragraph

SHARES = {  # of the scenes with 1, 2 and 3 shapes
    "text": (0.2, 0.5, 0.3),
    "captions": (0.3, 0.45, 0.25),
    "illustrated": (0.2, 0.4, 0.4),
}
FEATURES: dict[str, dict[str, Any]] = {
    "text": {"text": "text"},
    "captions": {"caption": "text", "picture": "image", "scene": "text"},  # scene: JSON, for the grader
    "illustrated": {
        "question": "text",
        "steps": {"text": "text", "picture": "image"},
        "ending": "text",  # may be empty
        "scene": "text",  # JSON, of the last picture
    },
}


@dataclasses.dataclass(frozen=True)
class Counts:
    """Examples of each dataset in a split."""

    text: int
    captions: int
    illustrated: int


COUNTS: dict[Split, Counts] = {
    "train": Counts(10_000, 20_000, 6_000),
    "validation": Counts(250, 250, 150),
    "test": Counts(500, 500, 200),
}


def example(dataset: str, split: Split, seed: int, number: int) -> dict[str, Any]:
    """One example, with the FEATURES of its dataset; the same for the same arguments."""
    rng = random.Random(f"{seed} {split} {dataset} {number}")
    scene = sample(split, rng.choices((1, 2, 3), SHARES[dataset])[0], rng)
    if dataset == "text":
        return {"text": paragraph(scene, rng)}
    if dataset == "captions":
        return {"caption": caption(scene, rng), "picture": encoded(scene), "scene": scene.to_json()}
    document = how_to(scene, rng)
    steps = [
        {"text": text, "picture": picture}
        for text, picture in zip(document.parts[::2], document.parts[1::2], strict=False)
    ]
    ending = document.parts[-1] if len(document.parts) % 2 else ""
    return {"question": document.question, "steps": steps, "ending": ending, "scene": scene.to_json()}


def write(
    directory: str | Path,
    seed: int = 0,
    counts: Mapping[Split, Counts] = COUNTS,
    progress: Callable[[int], None] = lambda n: None,
) -> None:
    """Write the datasets `directory/{text,captions,illustrated}`, each of the splits in `counts`.

    `progress(n)` is called after every n examples. ValueError if one of them exists.
    """
    for dataset, features in FEATURES.items():

        def examples(split: Split, count: int, dataset: str = dataset) -> Any:
            for number in range(count):
                yield example(dataset, split, seed, number)
                if number % 100 == 99:
                    progress(100)
            progress(count % 100)

        splits: dict[str, Any] = {split: examples(split, getattr(count, dataset)) for split, count in counts.items()}
        tfds.write(directory, dataset, features, splits)
