"""Sums of likelihoods over documents, and the figures that follow from them: perplexity, bits per byte, errors.

All sums are in float64 on the host. X is a sum of negative log-likelihoods in nats over some targets, N their number;
x and n are the same of one document, and D documents were measured.

    perplexity       exp(X / N)
    standard error   of X / N: sqrt(D / (D - 1) * sum((x - X / N * n)^2)) / N
    bits per byte    X / (bytes * ln 2), over the targets that are text

The error is that of a ratio of two sums over documents, which are taken for drawn independently of each other; targets
inside one are not (Cochran, Sampling Techniques, 3rd edition, section 2.11). A document without targets of the kind
counts, with x = n = 0.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from jam_jax import hosts
from jam_jax import tokens as ids
from jam_jax.tokens import TokenSpace

# Of targets, by what they are: pieces of text; codes of pictures; what opens and closes a picture; the end of a
# document (and of a question, where that ends in one); all other ids.
GROUPS = ("text", "image", "break", "end", "special")
# What a report shows. Knowing where to stop is part of writing, so `text` has the ends too.
SHOWN: dict[str, tuple[str, ...]] = {"text": ("text", "end"), "image": ("image",), "all": GROUPS}
Softmax = Literal["vocabulary", "modality"]  # over every id, or over those of the target's modality alone


def groups(space: TokenSpace) -> np.ndarray:
    """Index in GROUPS of every id, int64 [vocab_size]."""
    names = {ids.TEXT: "text", ids.IMAGE: "image", ids.SPECIAL: "special"}
    table = np.array([GROUPS.index(names[m]) for m in space.modality.tolist()])
    for i in (space.start_of_image, space.end_of_image, *space.picture_closers):
        if i is not None:
            table[i] = GROUPS.index("break")
    table[space.end_of_document] = GROUPS.index("end")
    return table


@dataclasses.dataclass(frozen=True)
class Perplexity:
    """Sums over a set of documents; of groups in the order of GROUPS."""

    nll: tuple[float, ...]  # nats per group, by a softmax over the vocabulary
    within: tuple[float, ...]  # the same by a softmax over the target's modality
    count: tuple[int, ...]  # targets per group
    # Sums over documents of the products of any two of its nll, within and count per group: [15][15].
    products: tuple[tuple[float, ...], ...]
    documents: int  # that hold a target
    bytes: int | None = None  # of the documents' texts in UTF-8; None: not counted
    empty: int = 0  # documents that hold none
    first_empty: int = -1  # the first of them; -1: there is none
    lost: int = 0  # documents with a target whose likelihood is no finite number
    first_lost: int = -1  # the first of them; -1: there is none

    def mean(self, *chosen: str, softmax: Softmax = "vocabulary") -> float:
        """Mean nll in nats over the targets of some groups; nan without any."""
        places, sums = _places(chosen), self.nll if softmax == "vocabulary" else self.within
        count = sum(self.count[i] for i in places)
        return sum(sums[i] for i in places) / count if count else math.nan

    def over(self, *chosen: str, softmax: Softmax = "vocabulary") -> float:
        """exp(mean nll) over the targets of some groups; nan without any target, inf where it is no float64."""
        mean = self.mean(*chosen, softmax=softmax)
        return math.inf if mean > 709 else math.exp(mean)

    def error(self, *chosen: str, softmax: Softmax = "vocabulary") -> float:
        """The standard error of `mean`, in nats (the module says of what and how); nan for fewer than two documents."""
        places, mean = _places(chosen), self.mean(*chosen, softmax=softmax)
        if self.documents < 2 or math.isnan(mean):
            return math.nan
        weights = np.zeros(3 * len(GROUPS))
        weights[[i + (0 if softmax == "vocabulary" else len(GROUPS)) for i in places]] = 1
        weights[[i + 2 * len(GROUPS) for i in places]] = -mean
        squares = max(float(weights @ np.array(self.products) @ weights), 0.0)
        count = sum(self.count[i] for i in places)
        return math.sqrt(self.documents / (self.documents - 1) * squares) / count

    @property
    def text(self) -> float:
        """Over text and the ends of documents."""
        return self.over(*SHOWN["text"])

    @property
    def image(self) -> float:
        """Over the codes of pictures only."""
        return self.over(*SHOWN["image"])

    @property
    def all(self) -> float:
        """Over every target."""
        return self.over(*SHOWN["all"])

    def bits_per_byte(self, softmax: Softmax = "vocabulary") -> float:
        """Bits that the model needs for a byte of text, from the targets that are text; nan where there is none."""
        text = self.mean("text", softmax=softmax) * self.count[0]
        return text / (self.bytes * math.log(2)) if self.bytes else math.nan

    def require_finite(self, what: str) -> None:
        """ValueError where a likelihood is no finite number: a figure over the other documents would flatter."""
        if self.lost:
            others = f" and {self.lost - 1} more of {self.documents}" if self.lost > 1 else f" of {self.documents}"
            raise ValueError(
                f"{what}: the model gives document {self.first_lost}{others} a likelihood that is no finite number "
                "(NaN or infinite logits): no perplexity is given, since one without them would flatter the model"
            )


def _places(chosen: tuple[str, ...]) -> list[int]:
    return [GROUPS.index(name) for name in chosen]


class Tally:
    """The sums of the documents of one process, filled batch by batch."""

    def __init__(self, documents: int) -> None:
        """Of so many documents, none of which has been seen."""
        self._sums = np.zeros((documents, 3, len(GROUPS)))  # nll, within and count

    def add(
        self, documents: np.ndarray, which: np.ndarray, counts: np.ndarray, nll: np.ndarray, within: np.ndarray
    ) -> None:
        """Rows of targets: documents [R], which group each target is of [R, T], which count, bool [R, T], both nlls."""
        rows, size = len(documents), len(documents) * len(GROUPS)
        place = (np.arange(rows)[:, None] * len(GROUPS) + which)[counts]
        found = [np.bincount(place, x[counts].astype(np.float64), size) for x in (nll, within)]
        found.append(np.bincount(place, minlength=size))
        np.add.at(self._sums, documents, np.stack(found).reshape(3, rows, len(GROUPS)).swapaxes(0, 1))

    def total(self, leaders: Sequence[int], numbers: Callable[[int], int], bytes: int | None) -> Perplexity:
        """What the first processes of all groups have seen together; every process must ask, and gets the same.

        `numbers` gives a document's number among those of all processes; `bytes` are this process's.
        """
        width = 3 * len(GROUPS)
        flat = self._sums.reshape(-1, width)
        empty, lost = self._sums[:, 2].sum(axis=1) == 0, ~np.isfinite(flat).all(axis=1)
        firsts = [numbers(int(where.argmax())) if where.any() else math.inf for where in (empty, lost)]
        seen = [(~empty).sum(), empty.sum(), lost.sum(), 0 if bytes is None else bytes]
        with np.errstate(invalid="ignore"):  # what is no number is told of as `lost`
            own = np.concatenate([flat.sum(axis=0), (flat.T @ flat).ravel(), seen, firsts])
        found = hosts.gathered(own)[list(leaders)]
        first_empty, first_lost = (-1 if math.isinf(first) else int(first) for first in found[:, -2:].min(axis=0))
        sums, products, tallies = np.split(found[:, :-2].sum(axis=0), [width, width * (width + 1)])
        nll, within, count = sums.reshape(3, -1).tolist()
        documents, empties, losses, counted = (int(x) for x in tallies)
        return Perplexity(
            nll=tuple(nll),
            within=tuple(within),
            count=tuple(int(c) for c in count),
            products=tuple(tuple(row) for row in products.reshape(width, width).tolist()),
            documents=documents,
            bytes=None if bytes is None else counted,
            empty=empties,
            first_empty=first_empty,
            lost=losses,
            first_lost=first_lost,
        )
