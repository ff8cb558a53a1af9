"""What the built-in world says about its scenes: captions, paragraphs of text alone, and illustrated how-tos.

Every caption names each shape with its size and colour and tells where it is; two shapes side by side are named from
left to right unless the words say otherwise, and one that is given no place stands in the centre.
"""

import random
from collections.abc import Callable

from jam_jax.data.documents import Document
from jam_jax.data.scenes import Scene, Thing, encoded, split_of

SIZE_WORDS = {"large": ("large", "big"), "small": ("small", "little")}
NUMBERS = ("no", "one", "two", "three")

NOUN_PHRASES: dict[str, tuple[str, ...]] = {  # per layout; a, b, c are the things in reading order
    "centre": ("{a}", "{a} in the middle", "{a} in the centre"),
    "left": ("{a} on the left", "{a} at the left side"),
    "right": ("{a} on the right", "{a} at the right side"),
    "top": ("{a} at the top", "{a} in the upper half"),
    "bottom": ("{a} at the bottom", "{a} in the lower half"),
    "beside": (
        "{a} to the left of {b}",
        "{b} to the right of {a}",
        "{a} left of {b}",
        "{b} right of {a}",
        "{a} on the left and {b} on the right",
        "{b} on the right and {a} on the left",
        "{a} with {b} beside it on the right",
        "{b} with {a} beside it on the left",
    ),
    "above": (
        "{a} above {b}",
        "{b} below {a}",
        "{a} over {b}",
        "{b} under {a}",
        "{a} on top of {b}",
        "{b} with {a} above it",
        "{a} at the top and {b} at the bottom",
    ),
    "three": (
        "{a} and {b} above {c}",
        "{c} below {a} and {b}",
        "{a} left of {b}, and {c} below them",
        "{b} right of {a}, and {c} below them",
        "{a} and {b} side by side over {c}",
    ),
}
SENTENCES: dict[str, tuple[str, ...]] = {
    "centre": ("there is {a}", "the picture shows {a}", "{a} stands in the middle"),
    "left": ("there is {a} on the left", "on the left there is {a}"),
    "right": ("there is {a} on the right", "on the right there is {a}"),
    "top": ("there is {a} at the top", "at the top there is {a}"),
    "bottom": ("there is {a} at the bottom", "at the bottom there is {a}"),
    "beside": ("there is {a} to the left of {b}", "{b} sits to the right of {a}", "{a} stands left of {b}"),
    "above": ("there is {a} above {b}", "{a} sits above {b}", "{b} is placed below {a}"),
    "three": ("{a} and {b} sit above {c}", "there are {a} and {b} over {c}", "below {a} and {b} there is {c}"),
}
SECOND = {
    ("beside", 1): "to its right",
    ("beside", 0): "to its left",
    ("above", 1): "below it",
    ("above", 0): "above it",
}


def noun(thing: Thing, rng: random.Random) -> str:
    """A thing with its size and colour: `a little red circle`."""
    return f"a {rng.choice(SIZE_WORDS[thing.size])} {thing.colour} {thing.shape}"


def caption(scene: Scene, rng: random.Random) -> str:
    """A caption of a scene, 4 to 18 words, lower case, from which the scene can be told."""
    return _fill(rng.choice(NOUN_PHRASES[scene.layout] + SENTENCES[scene.layout]), _nouns(scene, rng))


def paragraph(scene: Scene, rng: random.Random) -> str:
    """One to three sentences, at most 45 words, that describe, count, compare, place or explain a scene's things."""
    kinds = _ABOUT_ONE if len(scene.things) == 1 else _ABOUT_SEVERAL
    return " ".join(s[0].upper() + s[1:] for s in rng.choice(kinds)(scene, _nouns(scene, rng), rng))


def how_to(scene: Scene, rng: random.Random) -> Document:
    """How to draw a scene, in as many pictures as the question asks for: one, or one per step of drawing.

    A step's picture is a scene too. In the train split only steps are chosen that show no scene that is held out.
    """
    count, nouns = len(scene.things), _nouns(scene, rng)
    orders = [(0, 1), (1, 0)] if count == 2 else [tuple(range(count))]
    orders = [o for o in orders if not _reveals_held_out(scene, o)]
    pictures = rng.randint(1, count) if orders else 1
    plural = f"{NUMBERS[pictures]} picture{'s' if pictures > 1 else ''}"
    what = _fill(rng.choice(NOUN_PHRASES[scene.layout]), nouns)
    question = rng.choice(
        (
            f"How do I draw {what}? Show {plural}.",
            f"How can I draw {what}? Use {plural}.",
            f"Show me how to draw {what}, in {plural}.",
            f"Teach me to draw {what}. Use {plural}.",
        )
    )
    placed = [f"{noun} {_at(place)}" for noun, place in zip(nouns, scene.places, strict=True)]
    steps: list[tuple[str, tuple[int, ...]]]
    if pictures == 1:
        steps = [(_in_one(scene, nouns, rng), tuple(range(count)))]
    elif count == 2:
        i, j = rng.choice(orders)
        first, then = rng.choice((("First draw", "Then add"), ("Start with", "Now put"), ("Draw", "Next draw")))
        steps = [(f"{first} {placed[i]}.", (i,)), (f"{then} {nouns[j]} {SECOND[scene.layout, j]}.", (0, 1))]
    elif pictures == 2:
        a, b, c = nouns
        steps = [(f"First draw {a} and {b} at the top.", (0, 1)), (f"Then add {c} below them.", (0, 1, 2))]
    else:
        first, then, last = rng.choice((("First", "Then", "Last"), ("Draw", "Add", "Now add")))
        a, b, c = placed
        steps = [(f"{first} {a}.", (0,)), (f"{then} {b}.", (0, 1)), (f"{last} {c}.", (0, 1, 2))]
    ending = rng.choice(("", "", "Done.", "That is all.", f"It has {NUMBERS[count]} shape{'s' if count > 1 else ''}."))
    parts: list[str | bytes] = [part for text, shown in steps for part in (text, encoded(scene, shown))]
    return Document((*parts, ending) if ending else tuple(parts), question)


def _nouns(scene: Scene, rng: random.Random) -> list[str]:
    """What a document calls a scene's things, from its first word to its last."""
    return [noun(thing, rng) for thing in scene.things]


def _fill(template: str, nouns: list[str]) -> str:
    return template.format(**dict(zip("abc", nouns, strict=False)))


def _at(place: str) -> str:
    return f"{'on' if place in ('left', 'right') else 'at'} the {place}"


def _in_one(scene: Scene, nouns: list[str], rng: random.Random) -> str:
    if rng.random() < 0.3:
        return rng.choice(("Draw it like this.", "Here it is.", "It looks like this.", "This is how it looks."))
    return f"{rng.choice(('Here is', 'Draw', 'This is'))} {_fill(rng.choice(NOUN_PHRASES[scene.layout]), nouns)}."


def _reveals_held_out(scene: Scene, order: tuple[int, ...]) -> bool:
    """Whether drawing in this order begins, in the train split, with a picture that is a scene of another split."""
    if len(order) != 2:  # one thing: no step before the last; three: a step is no scene, no layout has its places
        return False
    first = Scene(scene.places[order[0]], (scene.things[order[0]],))
    return split_of(scene) == "train" and split_of(first) != "train"


def told_apart(scene: Scene) -> list[str]:
    """The shortest name by which each thing can be told from the others: `the circle`, `the red circle`, …"""
    forms = [
        (f"the {t.shape}", f"the {t.colour} {t.shape}", f"the {t.size} {t.shape}", f"the {t.size} {t.colour} {t.shape}")
        for t in scene.things
    ]
    names = []
    for i, thing in enumerate(scene.things):
        others = [form for j, form in enumerate(forms) if j != i]
        at = _at(scene.places[i])
        free = [name for k, name in enumerate(forms[i]) if all(name != other[k] for other in others)]
        names.append(free[0] if free else f"the {thing.shape} {at}")
    return names


def listed(items: list[str]) -> str:
    """Things as a sentence lists them: `a, b and c`."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def _describe(scene: Scene, nouns: list[str], rng: random.Random) -> list[str]:
    start = rng.choice(("the picture shows", "here we see", "you can see", "this is a picture of"))
    return [f"{start} {_fill(rng.choice(NOUN_PHRASES[scene.layout]), nouns)}.", *_fact(scene, rng)]


def _fact(scene: Scene, rng: random.Random) -> list[str]:
    """One true sentence on one of the things."""
    i = rng.randrange(len(scene.things))
    thing, name = scene.things[i], told_apart(scene)[i]
    sides = {"circle": "is round", "square": "has four sides", "triangle": "has three sides", "cross": "has four arms"}
    other_colour = rng.choice([c for c in ("red", "green", "blue", "yellow", "purple") if c != thing.colour])
    other_size = "small" if thing.size == "large" else "large"
    facts = [f"{name} {sides[thing.shape]}.", f"{name} is {thing.colour}, not {other_colour}."]
    if thing.size not in name:
        facts.append(f"{name} is {thing.size}, not {other_size}.")
    return [rng.choice(facts)]


def _repeat(scene: Scene, nouns: list[str], rng: random.Random) -> list[str]:
    """Something said, and said again word by word: how a small decoder learns to copy, which answering needs."""
    phrases = NOUN_PHRASES[scene.layout] + SENTENCES[scene.layout]
    what = listed(nouns) if len(nouns) > 2 else _fill(rng.choice(phrases), nouns)
    again = rng.choice(("once more", "I say it again", "in a word", "please repeat"))
    return [f"{what}.", f"{again}: {what}."]


def _explain(scene: Scene, nouns: list[str], rng: random.Random) -> list[str]:
    what = _fill(rng.choice(NOUN_PHRASES[scene.layout]), nouns)
    if len(nouns) == 1:
        return [rng.choice((f"to draw {what}, take {scene.things[0].colour} paint.", f"it is easy to draw {what}."))]
    if len(nouns) == 2:
        return [f"to draw {what}, begin with {nouns[0]}.", f"then put {nouns[1]} {SECOND[scene.layout, 1]}."]
    return [f"to draw {listed(nouns)}, begin with {nouns[0]}.", f"then add {nouns[1]} and {nouns[2]}."]


def _count(scene: Scene, nouns: list[str], rng: random.Random) -> list[str]:
    n = NUMBERS[len(scene.things)]
    first = rng.choice(
        (f"there are {n} shapes: {listed(nouns)}.", f"{listed(nouns)} make {n} shapes.", f"here are {listed(nouns)}.")
    )
    attribute = rng.choice(("shape", "colour", "size"))
    value = getattr(rng.choice(scene.things), attribute)
    same = sum(getattr(t, attribute) == value for t in scene.things)
    many = "all" if same == len(scene.things) > 2 else "both" if same == len(scene.things) else NUMBERS[same]
    what = f"a {value}" if attribute == "shape" and same == 1 else f"{value}s" if attribute == "shape" else value
    return [first, f"{many} of them {'is' if same == 1 else 'are'} {what}."]


def _compare(scene: Scene, nouns: list[str], rng: random.Random) -> list[str]:
    i, j = rng.sample(range(len(scene.things)), 2)
    names = told_apart(scene)
    a, b = scene.things[i], scene.things[j]
    if a.size == b.size:
        says = rng.choice(("are the same size", f"are both {a.size}", "are equally big"))
        return [
            f"{rng.choice(('look at', 'here are', 'we have'))} {listed(nouns)}.",
            f"{names[i]} and {names[j]} {says}.",
        ]
    (x, y) = (names[i], names[j]) if a.size == "large" else (names[j], names[i])
    says = rng.choice((f"{x} is bigger than {y}", f"{x} is larger than {y}", f"{y} is smaller than {x}"))
    return [f"{rng.choice(('look at', 'here are', 'we have'))} {listed(nouns)}.", f"{says}."]


def _place(scene: Scene, nouns: list[str], rng: random.Random) -> list[str]:
    names = told_apart(scene)
    i, j = rng.choice(((0, 1), (0, 2), (1, 2))) if len(names) == 3 else (0, 1)
    beside = scene.layout == "beside" or ((i, j) == (0, 1) and scene.layout == "three")
    before, after = ("to the left of", "to the right of") if beside else ("above", "below")
    first = f"{_fill(rng.choice(NOUN_PHRASES[scene.layout]), nouns)}."
    says = (f"so {names[i]} is {before} {names[j]}.", f"so {names[j]} is {after} {names[i]}.")
    return [first, rng.choice(says)]


def _colours(scene: Scene, nouns: list[str], rng: random.Random) -> list[str]:
    names = told_apart(scene)
    i, j = rng.sample(range(len(names)), 2)
    same = scene.things[i].colour == scene.things[j].colour
    says = f"{names[i]} and {names[j]} have {'the same colour' if same else 'different colours'}."
    return [f"{rng.choice(('look at', 'here are', 'we have'))} {listed(nouns)}.", says]


def _ask(scene: Scene, nouns: list[str], rng: random.Random) -> list[str]:
    names = told_apart(scene)
    i = rng.randrange(len(names))
    thing = scene.things[i]
    questions = [("how many shapes are there?", f"{NUMBERS[len(names)]}.")]
    if thing.colour not in names[i]:
        questions.append((f"what colour is {names[i]}?", f"{thing.colour}."))
    if thing.size not in names[i]:
        size = rng.choice(("large", "small"))
        questions.append((f"is {names[i]} {size}?", "yes." if size == thing.size else "no."))
    return [f"{rng.choice(('look at', 'here are', 'we have'))} {listed(nouns)}.", *rng.choice(questions)]


def _remove(scene: Scene, nouns: list[str], rng: random.Random) -> list[str]:
    names = told_apart(scene)
    i = rng.randrange(len(names))
    left = listed([n for j, n in enumerate(nouns) if j != i])
    verb = "is" if len(names) == 2 else "are"
    start = rng.choice(("here are", "we have"))
    return [f"{start} {listed(nouns)}.", f"take away {names[i]}, and {left} {verb} left."]


_ABOUT_ONE: tuple[Callable[[Scene, list[str], random.Random], list[str]], ...] = (_describe, _explain, _repeat)
_ABOUT_SEVERAL = (_describe, _explain, _repeat, _repeat, _repeat, _count, _compare, _place, _colours, _ask, _remove)
