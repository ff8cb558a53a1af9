"""The built-in world: what its words say is what its pictures show, and its splits share no scene."""

import dataclasses
import io
import itertools
import random
import re

import numpy as np
import pytest
from PIL import Image

from jam_jax.data import formats, scenes, world, world_text
from jam_jax.data.formats import tfds
from jam_jax.data.scenes import LAYOUTS, Scene, Thing

SMALL = world.Counts(text=60, captions=60, illustrated=60)
BOTH = {"train": SMALL, "test": SMALL}


def draw(count, number, split="train"):
    rng = random.Random(number)
    return [scenes.sample(split, count, rng) for _ in range(number)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp("world")
    world.write(directory, 3, BOTH)
    return directory


def test_a_scene_reads_back_from_its_json():
    for scene in draw(1, 20) + draw(3, 20):
        assert Scene.from_json(scene.to_json()) == scene


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: Thing("star", "red", "large"), "no 'star'"),
        (lambda: Scene("sideways", ()), "no layout 'sideways'"),
        (lambda: Scene("beside", (Thing("cross", "red", "large"),)), "takes 2 shapes, got 1"),
        (lambda: Scene.from_json("{}"), "this is no scene"),
        (lambda: Scene.from_json("none"), "this is no scene"),
        (lambda: scenes.sample("train", 4, random.Random(0)), "1 to 3 shapes, got 4"),
    ],
)
def test_what_the_world_has_not_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_a_picture_shows_its_colours_where_its_layout_puts_them():
    red, blue = Thing("square", "red", "large"), Thing("circle", "blue", "small")
    picture = scenes.render(Scene("beside", (red, blue)))
    assert picture.shape == (32, 32, 3) and picture.dtype == np.uint8
    assert tuple(picture[16, 8]) == scenes.COLOURS["red"] and tuple(picture[16, 24]) == scenes.COLOURS["blue"]
    assert tuple(picture[2, 2]) == tuple(picture[30, 30]) == scenes.BACKGROUND
    is_red = (picture == scenes.COLOURS["red"]).all(-1)
    assert is_red.sum() == 14 * 14 and is_red[9:23, 1:15].all()
    fills = scenes.render(Scene("centre", (red,)))
    assert (fills == scenes.COLOURS["red"]).all(-1).sum() == 28 * 28


def test_a_shape_stays_in_the_cells_of_its_room():
    """What a picture shows at one place does not change the code cells of another."""
    for scene in draw(2, 20) + draw(3, 20):
        whole = scenes.render(scene)
        for i, place in enumerate(scene.places):
            alone = scenes.render(scene, (i,))
            x, y = scenes.PLACES[place]
            room = (slice(y - 8, y + 8), slice(x - 8, x + 8))
            assert (whole[room] == alone[room]).all()
            outside = np.ones((32, 32), bool)
            outside[room] = False
            assert (alone[outside] == scenes.BACKGROUND).all()


def test_a_picture_is_drawn_at_any_resolution():
    scene = draw(2, 1)[0]
    large = scenes.render(scene, resolution=128).reshape(32, 4, 32, 4, 3).mean((1, 3))
    assert abs(large - scenes.render(scene)).max() < 24  # of 255: the two sample the edges at other points


def test_about_a_tenth_of_the_scenes_is_held_out_and_all_words_are_left_for_training():
    things = [Thing(*t) for t in itertools.product(scenes.SHAPES, scenes.COLOURS, scenes.SIZES)]
    ones = [Scene(layout, (t,)) for layout, places in LAYOUTS.items() if len(places) == 1 for t in things]
    pairs = [Scene(layout, both) for layout in ("beside", "above") for both in itertools.product(things, repeat=2)]
    for every in (ones, pairs):
        share = {split: np.mean([scenes.split_of(s) == split for s in every]) for split in world.COUNTS}
        assert 0.07 < share["test"] < 0.14 and 0.03 < share["validation"] < 0.08
    trained = [s for s in ones if scenes.split_of(s) == "train"]
    for field in ("shape", "colour", "size"):
        assert {(s.layout, getattr(s.things[0], field)) for s in trained} == {
            (s.layout, getattr(s.things[0], field)) for s in ones
        }
    assert {s.things[0] for s in trained} == set(things)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_caption_tells_its_scene_from_all_others(layout):
    """All templates of all layouts on the same three things in all orders: no wording stands for two scenes."""
    things = (Thing("circle", "red", "large"), Thing("square", "blue", "small"), Thing("cross", "green", "large"))
    said = {}
    for name, places in LAYOUTS.items():
        for order in itertools.permutations(things, len(places)):
            words = {letter: f"a {t.size} {t.colour} {t.shape}" for letter, t in zip("abc", order, strict=False)}
            for template in world_text.NOUN_PHRASES[name] + world_text.SENTENCES[name]:
                said.setdefault(template.format(**words), set()).add(Scene(name, order))
    mine = [wording for wording, meant in said.items() if any(s.layout == layout for s in meant)]
    assert len(mine) >= 4
    assert {wording for wording in mine if len(said[wording]) > 1} == set()


def told(caption):
    """Which scene a caption means, read word by word and without the templates: the far side of the test below."""
    sizes = {"large": "large", "big": "large", "small": "small", "little": "small"}
    found = list(re.finditer(r"a (\w+) (\w+) (circle|square|triangle|cross)", caption))
    things = [Thing(m[3], m[2], sizes[m[1]]) for m in found]
    gaps = [caption[a.end() : b.start()] for a, b in itertools.pairwise(found)]
    head, tail = caption[: found[0].start()], caption[found[-1].end() :]
    if len(things) == 1:
        words = head + tail
        sides = {"left": "left", "right": "right", "top": "top", "upper": "top", "bottom": "bottom", "lower": "bottom"}
        return Scene(next((place for word, place in sides.items() if word in words), "centre"), tuple(things))
    if len(things) == 3:
        if "below" in head or "below" in gaps[0]:  # the lowest first, or the head says that what follows is above
            lowest = 2 if "below" in head else 0
        else:
            lowest = 2
        upper = [t for i, t in enumerate(things) if i != lowest]
        if "right" in gaps[0]:
            upper.reverse()
        return Scene("three", (*upper, things[lowest]))
    first_is_second = {  # whether the thing that is named first stands to the right, or below
        "with": any(w in tail for w in ("left", "above")),
        "and": any(w in gaps[0] for w in ("right", "bottom")),
        "": any(w in gaps[0] for w in ("right", "below", "under")),
    }[next(w for w in ("with", "and", "") if w in gaps[0])]
    vertical = not any(w in caption for w in ("left", "right"))
    return Scene("above" if vertical else "beside", tuple(reversed(things) if first_is_second else things))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_captions_are_short_and_mean_their_scene(count):
    rng = random.Random(count)
    for scene in draw(count, 300):
        caption = world_text.caption(scene, rng)
        assert told(caption) == scene, caption
        assert 4 <= len(caption.split()) <= 18 and caption == caption.lower()


def test_captions_vary_in_their_words():
    scene = draw(2, 1)[0]
    rng = random.Random(0)
    assert len({world_text.caption(scene, rng) for _ in range(200)}) > 20


def test_paragraphs_are_short_sentences_about_their_scene():
    rng = random.Random(0)
    for scene in draw(1, 100) + draw(2, 300) + draw(3, 300):
        text = world_text.paragraph(scene, rng)
        sentences = re.findall(r"[^.?]+[.?]", text)
        assert "".join(sentences) == text and 1 <= len(sentences) <= 3 and len(text.split()) <= 45
        assert all(s.strip()[0].isupper() for s in sentences), text
        assert all(t.colour in text and t.shape in text for t in scene.things), text


def test_paragraphs_reason_rightly():
    """A hand-made table: the claims that may be made on one scene, and some that may not."""
    scene = Scene("beside", (Thing("circle", "red", "large"), Thing("square", "blue", "small")))
    rng = random.Random(0)
    said = " ".join(world_text.paragraph(scene, rng).lower() for _ in range(2000))
    for true in (
        "the circle is bigger than the square",
        "the square is smaller than the circle",
        "so the circle is to the left of the square",
        "make two shapes",
        "one of them is large",
        "have different colours",
        "is the square large? no",
        "how many shapes are there? two",
        "the circle is red, not",
    ):
        assert true in said, true
    for false in (
        "the square is bigger",
        "the circle is smaller",
        "the square is to the left of the circle.",
        "the same",
        "both of them",
        "three",
        "the square has three",
    ):
        assert false not in said, false


def test_equal_things_are_told_apart_by_their_place():
    twin = Thing("cross", "green", "small")
    names = world_text.told_apart(Scene("three", (twin, twin, Thing("circle", "red", "large"))))
    assert names == ["the cross at the top left", "the cross at the top right", "the circle"]


def test_a_how_to_shows_as_many_pictures_as_it_is_asked_for_and_ends_with_the_scene():
    rng = random.Random(0)
    numbers = {"one picture": 1, "two pictures": 2, "three pictures": 3}
    seen = set()
    for scene in draw(1, 50) + draw(2, 150) + draw(3, 150) + draw(2, 50, "test"):
        document = world_text.how_to(scene, rng)
        asked = next(n for words, n in numbers.items() if words in document.question)
        assert len(document.pictures) == asked <= len(scene.things)
        assert document.pictures[-1] == scenes.encoded(scene)
        assert len(set(document.pictures)) == asked
        words = len(" ".join((document.question, *document.texts)).split())
        assert words <= 60  # with 18 tokens a picture below a block of configs/world/instruct.py
        seen.add((len(scene.things), asked))
    assert seen == {(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3)}


def test_no_picture_of_the_training_data_is_a_scene_of_another_split():
    """A step of a how-to is a scene too: it must not show what is held out."""
    things = [Thing(*t) for t in itertools.product(scenes.SHAPES, scenes.COLOURS, scenes.SIZES)]
    ones = (Scene(layout, (t,)) for layout, places in LAYOUTS.items() if len(places) == 1 for t in things)
    held_out = {scenes.encoded(s) for s in ones if scenes.split_of(s) != "train"}
    rng = random.Random(0)
    shown = {p for scene in draw(2, 1500) for p in world_text.how_to(scene, rng).pictures}
    assert len(shown) > 1000 and not shown & held_out
    without_rule = {scenes.encoded(s, (0,)) for s in draw(2, 1500)}
    assert without_rule & held_out  # the law above could fail


def test_an_example_is_a_function_of_its_arguments():
    for dataset in world.FEATURES:
        assert world.example(dataset, "train", 1, 5) == world.example(dataset, "train", 1, 5)
        assert world.example(dataset, "train", 1, 5) != world.example(dataset, "train", 1, 6)
        assert world.example(dataset, "train", 1, 5) != world.example(dataset, "train", 2, 5)


def test_written_datasets_read_back_as_they_were_made(written):
    for dataset, features in world.FEATURES.items():
        for split in ("train", "test"):
            stored = list(tfds.examples(written / dataset, split))
            made = [world.example(dataset, split, 3, i) for i in range(60)]
            for example in made:
                if "steps" in example:
                    example["steps"] = {k: [s[k] for s in example["steps"]] for k in ("text", "picture")}
            assert stored == made and set(stored[0]) == set(features)


def test_written_datasets_are_documents_with_their_pictures(written):
    captions = list(formats.read(written / "captions", "test"))
    stored = list(tfds.examples(written / "captions", "test"))
    assert [d.parts for d in captions] == [(e["caption"], e["picture"]) for e in stored]
    assert all(scenes.split_of(Scene.from_json(e["scene"])) == "test" for e in stored)
    pixels = np.asarray(Image.open(io.BytesIO(captions[0].pictures[0])))
    assert (pixels == scenes.render(Scene.from_json(stored[0]["scene"]))).all()
    assert all(len(d.parts) == 1 and isinstance(d.parts[0], str) for d in formats.read(written / "text"))
    for document in formats.read(written / "illustrated"):
        kinds = [type(part) for part in document.parts]
        assert kinds[:2] == [str, bytes] and all(a != b for a, b in itertools.pairwise(kinds)) and document.question


def test_written_datasets_are_complete_or_absent(written, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="exists; remove it first"):
        world.write(written, 3, BOTH)
    monkeypatch.setattr(world, "paragraph", lambda scene, rng: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        world.write(tmp_path, 3, BOTH)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_every_example(tmp_path):
    counts = dataclasses.replace(SMALL, text=101)
    done = []
    world.write(tmp_path, 0, {"train": counts, "test": SMALL}, progress=done.append)
    assert sum(done) == 101 + 5 * 60
