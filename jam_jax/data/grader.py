"""The grader: looks at a picture and says which shapes, colours, sizes and places of the built-in world it shows.

It knows how the world's shapes and colours look, and nothing of what the picture should show. It takes pictures that an
image tokenizer has blurred or that carry some noise; what it cannot tell from a blot it does not name.
"""

import dataclasses
import functools
import itertools
import math

import numpy as np
from PIL import Image
from scipy import ndimage

from jam_jax.data.scenes import (
    BACKGROUND,
    COLOURS,
    LAYOUTS,
    PLACES,
    SHAPES,
    SIDE,
    SIZES,
    Scene,
    Thing,
    diameter,
    sprite,
)

LEAST_AREA = 20  # pixels of a piece that is taken for a shape; the smallest shape, a small cross, has 50
LEAST_LIKENESS = 0.82  # intersection over union with a shape; two of the shapes have 0.79 at most with one another
SURE_LIKENESS = 0.95  # from which on no other drawing is tried
BLURS = (0.0, 0.7, 1.1)  # standard deviations, in pixels, with which a shape may be blurred
MARGIN = 3  # pixels around a shape that are compared with its drawing
FARTHEST = 4.0  # pixels between a shape and the place that it is said to stand at; two places are 8 apart
SIDE_OFF = 2.5  # pixels by which a shape's side may differ from that of its size
STRAY = 0.03  # share of a picture's pixels that may be neither background nor part of a shape
OFF_COLOUR = 80.0  # distance in RGB from every mixture of the background and one colour at which a pixel is stray


@dataclasses.dataclass(frozen=True)
class Piece:
    """One shape as a picture shows it, in pixels of a picture of SIDE pixels."""

    shape: str
    colour: str
    side: float
    x: float  # of the centre
    y: float


@dataclasses.dataclass(frozen=True)
class Mark:
    """How a picture compares with a scene."""

    right: bool  # in shapes, colours and places
    sizes: bool  # right, and in sizes too


def look(picture: np.ndarray) -> Scene | None:
    """The scene that a picture shows, None if it shows no scene of the world; uint8 [R, R, 3], any R.

    ValueError if the array is no such picture.
    """
    found = pieces(picture)
    for layout, places in LAYOUTS.items():
        if len(places) != len(found):
            continue
        for order in itertools.permutations(found):
            if all(math.dist((p.x, p.y), PLACES[place]) <= FARTHEST for p, place in zip(order, places, strict=True)):
                things = [_thing(p, place) for p, place in zip(order, places, strict=True)]
                return Scene(layout, tuple(t for t in things if t)) if all(things) else None
    return None


def grade(picture: np.ndarray, scene: Scene) -> Mark:
    """Whether a picture shows a scene's shapes and colours at their places, and in their sizes; errors as of `look`."""
    seen = look(picture)
    if seen is None or seen.layout != scene.layout:
        return Mark(False, False)
    right = all((a.shape, a.colour) == (b.shape, b.colour) for a, b in zip(seen.things, scene.things, strict=True))
    return Mark(right, seen == scene)


def pieces(picture: np.ndarray) -> list[Piece]:
    """The shapes that a picture shows; none if anything else in it could be a shape. ValueError as of `look`."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise ValueError(f"a picture is uint8 [R, R, 3], got {picture.dtype} {list(picture.shape)}")
    if picture.shape[:2] != (SIDE, SIDE):
        picture = np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX))
    coverage, colour, distance = _unmix(picture.astype(np.float32))
    inked = coverage > 0.5
    stray = (distance > OFF_COLOUR) | inked
    found = []
    for k, name in enumerate(COLOURS):
        labels, count = ndimage.label(inked & (colour == k))
        for i in range(1, count + 1):
            region = labels == i
            if region.sum() < LEAST_AREA:
                continue
            near = ndimage.binary_dilation(region, iterations=2)
            piece = _recognise(np.where(near & (colour == k), coverage, 0), region, name)
            if piece is None:
                return []
            found.append(piece)
            stray &= ~near
    return found if stray.mean() <= STRAY else []


def _unmix(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pixel as a mixture of the background and the one colour that explains it and its neighbours best.

    float32 [R, R, 3] → share of the colour in 0..1, index of the colour, distance of the pixel from that mixture.
    """
    from_background = pixels - np.array(BACKGROUND, np.float32)
    directions = np.array(list(COLOURS.values()), np.float32) - np.array(BACKGROUND, np.float32)
    share = np.clip(from_background @ directions.T / (directions**2).sum(-1), 0, 1)
    distance = np.linalg.norm(from_background[:, :, None] - share[..., None] * directions, axis=-1)
    distance = ndimage.gaussian_filter(distance, (0.8, 0.8, 0))
    best = distance.argmin(-1)
    pick = best[..., None]
    return np.take_along_axis(share, pick, -1)[..., 0], best, np.take_along_axis(distance, pick, -1)[..., 0]


def _recognise(coverage: np.ndarray, region: np.ndarray, colour: str) -> Piece | None:
    """The shape whose drawing is most like the coverage float [SIDE, SIDE] of one region; None if none is like it."""
    rows, columns = (np.flatnonzero(region.any(axis)) for axis in (1, 0))
    height, width = int(rows[-1] + 1 - rows[0]), int(columns[-1] + 1 - columns[0])
    if max(height, width) > 1.5 * min(height, width):
        return None
    window = max(height, width) + 2 * MARGIN
    left, top = int(columns[0]) - MARGIN, int(rows[-1]) + 1 + MARGIN - window
    padded = np.pad(coverage, SIDE)[top + SIDE : top + SIDE + window, left + SIDE : left + SIDE + window]
    likeness, piece = LEAST_LIKENESS, None
    for blur in BLURS:
        drawings, descriptions = _drawings(width, window, blur)
        like = np.minimum(drawings, padded).sum((1, 2)) / np.maximum(drawings, padded).sum((1, 2))
        best = int(like.argmax())
        if like[best] > likeness:
            shape, side, x, y = descriptions[best]
            likeness, piece = float(like[best]), Piece(shape, colour, side, x + left, y + top)
        if likeness > SURE_LIKENESS:
            break
    return piece


@functools.lru_cache(maxsize=96)
def _drawings(width: int, window: int, blur: float) -> tuple[np.ndarray, list[tuple[str, float, float, float]]]:
    """Every shape about `width` pixels wide that stands MARGIN above the bottom of a window.

    float32 [n, window, window], and the shape, side and centre of each. The tip of a triangle is thinner than half a
    pixel, and so is a blurred corner: what is drawn may be larger than what was measured, and is set by its bottom and
    middle.
    """
    drawings, descriptions = [], []
    half = (-0.5, 0.0, 0.5)
    for shape, grown, below, right in itertools.product(SHAPES, (-1.0, *half, 1.0, 1.5, 2.0), half, half):
        x, y = MARGIN + width / 2 + right, window - MARGIN + below - (width + grown) / 2
        drawings.append(ndimage.gaussian_filter(sprite(shape, x, y, width + grown, window), blur))
        descriptions.append((shape, width + grown, x, y))
    return np.stack(drawings), descriptions


def _thing(piece: Piece, place: str) -> Thing | None:
    """A piece at a place, with the size whose side is nearest to the piece's; None if none is near."""
    size = min(SIZES, key=lambda s: abs(piece.side - diameter(place, s)))
    near = abs(piece.side - diameter(place, size)) <= SIDE_OFF
    return Thing(piece.shape, piece.colour, size) if near else None
