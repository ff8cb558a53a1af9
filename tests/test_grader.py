"""The grader: right on what the world draws, also blurred and noisy; wrong on anything else."""

import dataclasses
import random

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from jam_jax.data import grader
from jam_jax.data.scenes import BACKGROUND, COLOURS, SHAPES, Scene, Thing, render, sample


def draw(number, seed=0):
    rng = random.Random(seed)
    return [sample(rng.choice(("train", "test")), rng.choice((1, 2, 3)), rng) for _ in range(number)]


def as_picture(values):
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def blurred(picture, sigma):
    return as_picture(ndimage.gaussian_filter(picture.astype(np.float32), (sigma, sigma, 0)))


def noisy(picture, sigma, seed=0):
    return as_picture(picture + np.random.default_rng(seed).normal(0, sigma, picture.shape))


@pytest.mark.parametrize("number", [500, pytest.param(2000, marks=pytest.mark.long)])
def test_what_the_world_draws_is_seen_as_it_is(number):
    wrong = [scene for scene in draw(number) if grader.look(render(scene)) != scene]
    assert wrong == []


@pytest.mark.parametrize(
    "change",
    [
        lambda p: noisy(p, 10),
        lambda p: noisy(p, 25),
        lambda p: blurred(p, 0.6),
        lambda p: blurred(p, 1.0),
        lambda p: noisy(blurred(p, 0.7), 12),
        lambda p: np.roll(p, (1, -1), (0, 1)),
        lambda p: np.asarray(Image.fromarray(p).resize((256, 256), Image.Resampling.NEAREST)),
        lambda p: np.asarray(Image.fromarray(p).resize((80, 80), Image.Resampling.BICUBIC)),
    ],
    ids=["noise 10", "noise 25", "blur 0.6", "blur 1", "blur and noise", "shift", "8 times as large", "80 pixels"],
)
def test_a_picture_that_a_tokenizer_has_touched_is_still_seen(change):
    scenes = draw(100, seed=1)
    assert sum(grader.grade(change(render(scene)), scene).sizes for scene in scenes) >= 98


def test_another_shape_colour_or_order_is_wrong_and_another_size_is_reported_apart():
    for scene in draw(100, seed=2):
        picture, (first, *others) = render(scene), scene.things
        shape = SHAPES[SHAPES.index(first.shape) - 1]
        colour = list(COLOURS)[list(COLOURS).index(first.colour) - 1]
        size = "small" if first.size == "large" else "large"
        for change in ({"shape": shape}, {"colour": colour}):
            told = Scene(scene.layout, (dataclasses.replace(first, **change), *others))
            assert grader.grade(picture, told) == grader.Mark(right=False, sizes=False)
        told = Scene(scene.layout, (dataclasses.replace(first, size=size), *others))
        assert grader.grade(picture, told) == grader.Mark(right=True, sizes=False)
        turned = tuple(reversed(scene.things))
        if [(t.shape, t.colour) for t in turned] != [(t.shape, t.colour) for t in scene.things]:
            assert not grader.grade(picture, Scene(scene.layout, turned)).right


def test_another_place_is_wrong():
    thing, other = Thing("circle", "red", "small"), Thing("cross", "blue", "large")
    layouts = ("centre", "left", "right", "top", "bottom")
    marks = [[grader.grade(render(Scene(a, (thing,))), Scene(b, (thing,))).right for b in layouts] for a in layouts]
    assert np.array_equal(marks, np.eye(5, dtype=bool))
    beside, above = (Scene(layout, (thing, other)) for layout in ("beside", "above"))
    assert not grader.grade(render(beside), above).right and not grader.grade(render(above), beside).right


def test_a_missing_or_extra_shape_is_wrong():
    for scene in [s for s in draw(100, seed=3) if len(s.things) > 1]:
        assert not grader.grade(render(scene, (0,)), scene).right
        alone = Scene("left", scene.things[:1])
        assert not grader.grade(render(scene), alone).right


def test_a_shape_that_is_half_drawn_or_torn_is_not_named():
    for shape in SHAPES:
        picture = render(Scene("right", (Thing(shape, "blue", "large"),)))
        torn = picture.copy()
        torn[16:24, 16:24] = BACKGROUND  # one of its four code cells
        assert grader.look(picture) is not None and grader.look(torn) is None


def test_two_colours_in_one_shape_are_not_one_shape():
    scene = Scene("centre", (Thing("square", "red", "large"),))
    picture = render(scene)
    picture[:16][(picture[:16] == COLOURS["red"]).all(-1)] = COLOURS["green"]
    assert grader.look(picture) is None


def test_blank_and_garbage_show_nothing():
    rng = np.random.default_rng(0)
    pictures = [np.full((32, 32, 3), v, np.uint8) for v in (0, 128, 255)]
    pictures += [np.full((32, 32, 3), c, np.uint8) for c in (BACKGROUND, *COLOURS.values())]
    pictures += [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(20)]
    pictures += [np.kron(rng.integers(0, 256, (n, n, 3)), np.ones((32 // n, 32 // n, 1))).astype(np.uint8)
                 for n in (2, 4, 8) for _ in range(10)]  # fmt: skip
    palette = np.array([BACKGROUND, *COLOURS.values()], np.uint8)
    pictures += [palette[rng.integers(0, 6, (32, 32))] for _ in range(30)]
    assert [grader.look(picture) for picture in pictures] == [None] * len(pictures)


@pytest.mark.parametrize("side", [1, 2, 7, 33, 100])
def test_any_square_picture_is_looked_at_without_an_error(side):
    rng = np.random.default_rng(side)
    for _ in range(5):
        found = grader.look(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        assert found is None or 1 <= len(found.things) <= 3


@pytest.mark.parametrize("array", [np.zeros((32, 32), np.uint8), np.zeros((32, 32, 3)), np.zeros((0, 0, 3), np.uint8)])
def test_what_is_no_picture_is_refused(array):
    with pytest.raises(ValueError, match=r"a picture is uint8 \[R, R, 3\]"):
        grader.look(array)
