"""Does it draw what a caption says, and answer with the pictures asked for? On held-out examples, marked by the grader.

Captions of one and two shapes count; those of three, which the paper's figures have no like of, are reported apart.
A user's own pictures have no scene behind them: they are drawn too, without marks, beside the real ones.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from jam_jax.data import formats, grader
from jam_jax.data.formats import tfds
from jam_jax.data.formats.pictures import png, read_picture
from jam_jax.data.scenes import SIDE, Scene
from jam_jax.evaluate.samples import FEW, OWN, THREE, Sample

THREE_SHARE = 4  # one caption of three shapes for so many of one and two


@dataclasses.dataclass(frozen=True)
class Caption:
    """A caption to draw."""

    text: str
    picture: bytes  # the real one, encoded
    scene: Scene | None = None  # what it says; None outside the built-in world

    @property
    def kind(self) -> str:
        """FEW, THREE or OWN."""
        return OWN if self.scene is None else THREE if len(self.scene.things) == 3 else FEW


@dataclasses.dataclass(frozen=True)
class Question:
    """A question to answer."""

    text: str
    pictures: int  # asked for: as many as the real answer has
    scene: Scene | None = None  # that the last picture should show; None outside the built-in world


def captions(source: str | Path, split: str, count: int) -> list[Caption]:
    """`count` captions of a split that count, and a quarter as many of three shapes.

    In the built-in world, where a split has few scenes and many captions of each: one of every composition (places,
    shapes and colours) before a second of any.

    ValueError if the source has no pictures with captions.
    """
    source = Path(source)
    if _has(source, split, "scene", "caption"):
        every = _spread(_captions(source, split))
        few, three = ([c for c in every if c.kind == kind] for kind in (FEW, THREE))
        chosen = few[:count] + three[: max(count // THREE_SHARE, 1)]
    else:
        chosen = list(islice(_captions(source, split), count))
    if not chosen:
        raise ValueError(f"{source} has no pictures with captions in its split {split!r}")
    return chosen


def _spread(captions: Iterable[Caption]) -> list[Caption]:
    """The same captions: the first of every composition, then the second of every one that has two, and so on."""
    seen: Counter[tuple] = Counter()
    ranked = []
    for caption in captions:
        assert caption.scene
        composition = (caption.scene.layout, *((thing.shape, thing.colour) for thing in caption.scene.things))
        ranked.append((seen[composition], caption))
        seen[composition] += 1
    return [caption for _, caption in sorted(ranked, key=lambda pair: pair[0])]


def _captions(source: Path, split: str) -> Iterator[Caption]:
    if _has(source, split, "scene", "caption"):
        for example in tfds.examples(source, split):
            yield Caption(example["caption"], example["picture"], Scene.from_json(example["scene"]))
        return
    for document in formats.read(source, split):
        if document.texts and document.pictures:
            yield Caption(document.texts[0], document.pictures[0])


def marked(caption: Caption, parts: Sequence[str | bytes]) -> Sample:
    """What was drawn for a caption: with the grader's mark in the built-in world, else with the real picture beside."""
    pictures = tuple(part for part in parts if isinstance(part, bytes))
    sample = Sample(caption.text, pictures, kind=caption.kind)
    if caption.scene is None:
        # As PNG, whatever the user's format is, and no larger than it is shown.
        return dataclasses.replace(sample, reference=png(read_picture(caption.picture, 4 * SIDE)))
    right = len(pictures) == 1 and grader.grade(read_picture(pictures[0], SIDE), caption.scene).right
    return dataclasses.replace(sample, right=right)


def questions(source: str | Path, split: str, count: int) -> list[Question]:
    """The first `count` questions of a split; a document without one asks with its caption.

    ValueError if the source has none.
    """
    asked = list(islice(_questions(Path(source), split), count))
    if not asked:
        raise ValueError(f"{source} has no questions in its split {split!r}")
    return asked


def _questions(source: Path, split: str) -> Iterator[Question]:
    if _has(source, split, "scene", "question"):
        for example in tfds.examples(source, split):
            yield Question(example["question"], len(example["steps"]["text"]), Scene.from_json(example["scene"]))
        return
    for document in formats.read(source, split):
        if document.question or document.texts:
            yield Question(document.question or document.texts[0], len(document.pictures))


def _has(source: Path, split: str, *features: str) -> bool:
    """Whether it is a TFDS dataset with these features; those of the built-in world have scenes to grade by."""
    return tfds.is_tfds(source) and set(features) <= set(next(iter(tfds.examples(source, split)), {}))


def answered(question: Question, parts: Sequence[str | bytes], fault: str) -> Sample:
    """An answer; in the built-in world with the mark of its last picture, which should show all that was asked for."""
    sample = Sample(question.text, tuple(parts), fault, question.pictures)
    if question.scene is None:
        return sample
    pictures = [part for part in parts if isinstance(part, bytes)]
    right = bool(pictures) and grader.grade(read_picture(pictures[-1], SIDE), question.scene).right
    return dataclasses.replace(sample, right=right)
