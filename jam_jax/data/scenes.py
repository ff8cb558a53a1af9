"""The scenes of the built-in world: one to three coloured shapes, how they are drawn, and which are held out.

A picture is 32 x 32 pixels and a shape's room a block of 8 x 8 pixel cells, so that an image tokenizer of downsampling
8 meets few different cells: every shape stands in a room of 16 pixels at one of eight places, and a shape alone in the
centre has the whole picture as its room. `large` and `small` are relative to the room.
"""

import dataclasses
import functools
import hashlib
import json
import random
from typing import Literal

import numpy as np

from jam_jax.data.formats.pictures import png

SIDE = 32  # pixels of a picture's side at which the layouts below are given
BACKGROUND = (244, 244, 240)
COLOURS = {
    "red": (216, 40, 44),
    "green": (44, 164, 72),
    "blue": (36, 92, 214),
    "yellow": (246, 196, 16),
    "purple": (146, 58, 176),
}
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = ("large", "small")

PLACES = {  # centre of the room, in pixels
    "centre": (16, 16),
    "left": (8, 16),
    "right": (24, 16),
    "top": (16, 8),
    "bottom": (16, 24),
    "top left": (8, 8),
    "top right": (24, 8),
}
LAYOUTS: dict[str, tuple[str, ...]] = {  # places in reading order
    "centre": ("centre",),
    "left": ("left",),
    "right": ("right",),
    "top": ("top",),
    "bottom": ("bottom",),
    "beside": ("left", "right"),
    "above": ("top", "bottom"),
    "three": ("top left", "top right", "bottom"),
}
DIAMETERS = {"large": 14, "small": 10}  # pixels of a shape's side in a room of 16
CENTRE_DIAMETERS = {"large": 28, "small": 14}  # pixels in the room that is the whole picture
Split = Literal["train", "validation", "test"]
PARTS = 20  # of all scenes; which of them are held out from training
HELD_OUT: dict[int, Split] = {0: "test", 10: "test", 1: "validation"}


@dataclasses.dataclass(frozen=True)
class Thing:
    """One coloured shape."""

    shape: str
    colour: str
    size: str

    def __post_init__(self) -> None:
        for value, known in ((self.shape, SHAPES), (self.colour, COLOURS), (self.size, SIZES)):
            if value not in known:
                raise ValueError(f"the world has no {value!r}; it has {', '.join(known)}")


@dataclasses.dataclass(frozen=True)
class Scene:
    """Things at the places of a layout."""

    layout: str
    things: tuple[Thing, ...]  # in the order of LAYOUTS[layout]

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"the world has no layout {self.layout!r}; it has {', '.join(LAYOUTS)}")
        if len(self.things) != len(self.places):
            raise ValueError(f"layout {self.layout!r} takes {len(self.places)} shapes, got {len(self.things)}")

    @property
    def places(self) -> tuple[str, ...]:
        """The place of every thing."""
        return LAYOUTS[self.layout]

    def to_json(self) -> str:
        """The scene as one line of JSON; `from_json` reads it back."""
        return json.dumps({"layout": self.layout, "things": [(t.shape, t.colour, t.size) for t in self.things]})

    @staticmethod
    def from_json(text: str) -> "Scene":
        """Inverse of `to_json`; ValueError if it is no scene."""
        try:
            values = json.loads(text)
            return Scene(values["layout"], tuple(Thing(*t) for t in values["things"]))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"this is no scene: {text[:80]!r}") from error


def diameter(place: str, size: str) -> int:
    """Pixels of a shape's side, in a picture of SIDE pixels."""
    return (CENTRE_DIAMETERS if place == "centre" else DIAMETERS)[size]


@functools.lru_cache(maxsize=4096)
def sprite(shape: str, x: float, y: float, side: float, resolution: int) -> np.ndarray:
    """Coverage float32 [resolution, resolution] in 0..1 of a shape with centre (x, y) and side `side`, in pixels."""
    fine = 8  # samples a pixel along one axis
    grid = (np.arange(resolution * fine, dtype=np.float32) + 0.5) / fine
    u, v = (grid[None, :] - x) * 2 / side, (grid[:, None] - y) * 2 / side  # -1..1 inside the bounding box
    box = (abs(u) <= 1) & (abs(v) <= 1)
    inside = {
        "circle": u**2 + v**2 <= 1,
        "square": box,
        "triangle": box & (abs(u) <= (v + 1) / 2),
        "cross": box & ((abs(u) <= 0.38) | (abs(v) <= 0.38)),
    }[shape]
    coverage = inside.reshape(resolution, fine, resolution, fine).mean((1, 3), dtype=np.float32)
    coverage.setflags(write=False)
    return coverage


def render(scene: Scene, shown: tuple[int, ...] | None = None, resolution: int = SIDE) -> np.ndarray:
    """The picture of a scene, uint8 [resolution, resolution, 3]; `shown` leaves out all but those things."""
    scale = resolution / SIDE
    picture = np.empty((resolution, resolution, 3), np.float32)
    picture[:] = BACKGROUND
    for i in range(len(scene.things)) if shown is None else shown:
        thing, place = scene.things[i], scene.places[i]
        (x, y), side = PLACES[place], diameter(place, thing.size)
        alpha = sprite(thing.shape, x * scale, y * scale, side * scale, resolution)[..., None]
        picture += alpha * (np.array(COLOURS[thing.colour], np.float32) - picture)
    return (picture + 0.5).astype(np.uint8)


@functools.lru_cache(maxsize=8192)
def encoded(scene: Scene, shown: tuple[int, ...] | None = None) -> bytes:
    """`render` as PNG bytes, SIDE pixels a side."""
    return png(render(scene, shown))


@functools.lru_cache(maxsize=65536)
def split_of(scene: Scene) -> Split:
    """The split of a scene, by a hash of its shapes, colours and places: scenes that differ in size alone share one.

    So what the grader marks right or wrong was in no picture of the training split, whatever the seed of a data set.
    """
    shown = [scene.layout, [(thing.shape, thing.colour) for thing in scene.things]]
    digest = hashlib.sha256(json.dumps(shown).encode()).digest()
    return HELD_OUT.get(int.from_bytes(digest[:4], "big") % PARTS, "train")


def sample(split: Split, count: int, rng: random.Random) -> Scene:
    """A scene of a split with `count` shapes (1 to 3), drawn evenly by layout, then by things; ValueError else."""
    layouts = [name for name, places in LAYOUTS.items() if len(places) == count]
    if not layouts:
        raise ValueError(f"a scene has 1 to 3 shapes, got {count}")
    while True:
        things = tuple(Thing(rng.choice(SHAPES), rng.choice(tuple(COLOURS)), rng.choice(SIZES)) for _ in range(count))
        scene = Scene(rng.choice(layouts), things)
        if split_of(scene) == split:
            return scene
