"""Multiple choice in the built-in world: held-out scenes, and what its paragraphs would say of them next.

Stands for the tasks of the paper's Table 1: a text, some ways to go on, one of which is true. All of it is worded as
in the world's own paragraphs, and only knowing the scene tells the true one from the others.
"""

import random
from collections.abc import Callable

from jam_jax.data.scenes import COLOURS, Scene, Split, sample
from jam_jax.data.world_text import NOUN_PHRASES, NUMBERS, listed, noun, told_apart
from jam_jax.evaluate.task_files import Choice

SHARE_OF_TWO = 0.6  # of the scenes, how many have two shapes; the others have three

# A scene, what its things are called, random numbers → text, true answer, other answers; None if it cannot be asked.
_Asked = tuple[str, str, list[str]] | None


def items(split: Split, count: int, seed: int = 0) -> list[tuple[str, Choice]]:
    """So many items of scenes of a split, each with its kind, the same for the same arguments; kinds take turns."""
    return [
        _item(random.Random(f"{seed} {split} choices {i}"), split, list(KINDS)[i % len(KINDS)]) for i in range(count)
    ]


def _item(rng: random.Random, split: Split, kind: str) -> tuple[str, Choice]:
    asked = None
    while asked is None:
        scene = sample(split, 2 if rng.random() < SHARE_OF_TWO else 3, rng)
        asked = KINDS[kind](scene, [noun(thing, rng) for thing in scene.things], rng)
    text, true, others = asked
    answers = [true, *others]
    rng.shuffle(answers)
    return kind, Choice(text, tuple(answers), answers.index(true))


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _look(nouns: list[str], rng: random.Random) -> str:
    return f"{rng.choice(('Look at', 'Here are', 'We have'))} {listed(nouns)}."


def _colour(scene: Scene, nouns: list[str], rng: random.Random) -> _Asked:
    name, thing = rng.choice(list(zip(told_apart(scene), scene.things, strict=True)))
    if thing.colour in name:
        return None
    others = [f"{_capital(colour)}." for colour in COLOURS if colour != thing.colour]
    return f"{_look(nouns, rng)} What colour is {name}?", f"{_capital(thing.colour)}.", others


def _number(scene: Scene, nouns: list[str], rng: random.Random) -> _Asked:
    words = [f"{_capital(word)}." for word in NUMBERS[1:]]
    true = words.pop(len(nouns) - 1)
    return f"{_look(nouns, rng)} How many shapes are there?", true, words


def _bigger(scene: Scene, nouns: list[str], rng: random.Random) -> _Asked:
    i, j = rng.sample(range(len(nouns)), 2)
    if (scene.things[i].size, scene.things[j].size) != ("large", "small"):
        return None
    big, small = told_apart(scene)[i], told_apart(scene)[j]
    if "large" in big + small or "small" in big + small:
        return None
    says = rng.choice(("{} is bigger than {}.", "{} is larger than {}."))
    return _look(nouns, rng), _capital(says.format(big, small)), [_capital(says.format(small, big))]


def _place(scene: Scene, nouns: list[str], rng: random.Random) -> _Asked:
    first, second = told_apart(scene)[:2]
    if "left" in first + second or "top" in first + second:
        return None
    says = rng.choice(
        ("So {} is to the left of {}.", "So {} is to the right of {}.")
        if scene.layout != "above"
        else ("So {} is above {}.", "So {} is below {}.")
    )
    if "right" in says or "below" in says:
        first, second = second, first
    said = rng.choice(NOUN_PHRASES[scene.layout]).format(**dict(zip("abc", nouns, strict=False)))
    return f"{_capital(said)}.", says.format(first, second), [says.format(second, first)]


def _remove(scene: Scene, nouns: list[str], rng: random.Random) -> _Asked:
    if len(set(nouns)) < len(nouns):
        return None
    verb = "is" if len(nouns) == 2 else "are"
    left = [f"{listed([n for j, n in enumerate(nouns) if j != i])} {verb} left." for i in range(len(nouns))]
    i = rng.randrange(len(nouns))
    text = f"{rng.choice(('Here are', 'We have'))} {listed(nouns)}. Take away {told_apart(scene)[i]}, and"
    return text, left.pop(i), left


KINDS: dict[str, Callable[[Scene, list[str], random.Random], _Asked]] = {
    "colour": _colour,
    "number": _number,
    "bigger": _bigger,
    "place": _place,
    "remove": _remove,
}
