"""The `pictures` command: how close pictures come to real ones, and to their captions.

What is measured, and what of it can be compared with published figures: docs/evaluation.md.
"""

import contextlib
import dataclasses
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from jam_jax import hosts, progress
from jam_jax.evaluate import measure, samples

if TYPE_CHECKING:
    import numpy as np

    from jam_jax.data.formats.source import Source
    from jam_jax.evaluate.frechet import Moments
    from jam_jax.retrieval.encode import Encoder

CLIP_SCORE = 2.5  # times the cosine, where that is positive (Hessel et al. 2021, section 3)
BATCH = 256  # pictures that are in memory at once
# Of each network what the Fréchet distance over its features is called, in the JSON file and for people.
DISTANCES = {
    "clip": ("fd_clip", "FD-CLIP (Fréchet distance over CLIP's features, not FID)"),
    "inception": ("fid", "FID"),
}


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Fréchet distance of pictures to real ones, and CLIP score of pictures with their captions.

    docs/evaluation.md says what can be compared with published figures. Several processes share the pictures.
    """

    pictures: str  # directory: what `draw` wrote, or pictures, with or without captions
    clip: str = ""  # directory of a CLIP with its tokenizer, as `jam_jax.convert import` or `jam_jax.train` writes it
    inception: str = ""  # directory of FID's Inception network, as `jam_jax.convert import` writes it
    reference: str = ""  # real pictures: a folder, a dataset as `jam_jax.data` takes it, or a file of --save-moments
    split: str = "test"  # of a reference that is a dataset
    captions: str = ""  # file of the pictures' names and captions: .jsonl, .csv, or .txt with a tab between
    prefix: str = ""  # stands before every caption: "A photo depicts " in the paper of CLIPScore
    save_moments: str = ""  # FILE.npz to keep what is needed of the reference, for the next time
    out: str = ""  # JSON file to write; empty: print only
    damaged: float = 0.01  # share of the pictures that may be damaged: they are skipped and told; more stop the run

    def __post_init__(self) -> None:
        if not (self.clip or self.inception):
            raise ValueError("name a network that looks at the pictures: --clip, --inception, or both")
        if not (self.clip or self.reference):
            raise ValueError("FID compares with real pictures: name these with --reference")
        if not self.clip and (self.captions or self.prefix):
            raise ValueError("--captions and --prefix are for the CLIP score: name a CLIP with --clip")
        if self.save_moments and (not self.reference or _is_moments(self.reference)):
            raise ValueError("--save-moments keeps the moments of real pictures: name these with --reference")
        if self.save_moments and not _is_moments(self.save_moments):
            raise ValueError(f"--save-moments writes a file .npz, got {self.save_moments}")
        if not 0 <= self.damaged <= 1:
            raise ValueError(f"--damaged is a share from 0 to 1, got {self.damaged}")


class Network(Protocol):
    """What turns pictures into features."""

    @property
    def width(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def features(self, pictures: Sequence[bytes], /) -> "np.ndarray": ...  # float32 [n, width]


@dataclasses.dataclass(frozen=True)
class Seen:
    """A set of pictures as all processes together have seen it."""

    moments: "dict[str, Moments]"  # of the features, by network
    # Of 100 cos and 2.5 max(cos, 0), a row for each picture with its caption; None where captions were not looked at.
    fit: "Moments | None" = None
    damaged: int = 0


def run(options: Pictures) -> None:
    """The command; every process of a run does it, the first one writes."""
    from jam_jax.evaluate import frechet, picture_sets
    from jam_jax.evaluate.inception import Features
    from jam_jax.retrieval.encode import Encoder

    with hosts.together():
        found = picture_sets.open_set(
            options.pictures, options.damaged, captioned=bool(options.clip), captions=options.captions
        )
        if not found.captioned and not options.reference:
            raise ValueError(
                f"{options.pictures} has no captions and there is no --reference: there is nothing to compare with"
            )
        if options.prefix and not found.captioned:
            raise ValueError(f"--prefix stands before captions, and {options.pictures} has none")
        if options.reference and found.source.count < 2:
            raise ValueError(f"a Fréchet distance needs two pictures or more, and {options.pictures} has one")
        real = None
        if options.reference and not _is_moments(options.reference):
            real = picture_sets.open_reference(options.reference, options.split, options.damaged)
    if found.undrawn:
        print(f"{options.pictures}: no picture came of {found.undrawn} prompts: they do not count", file=sys.stderr)
    clip = Encoder(options.clip) if options.clip else None
    networks: dict[str, Network] = {"clip": clip} if clip else {}
    if options.inception:
        networks["inception"] = Features(options.inception)
    fingerprints = {name: network.fingerprint for name, network in networks.items()}
    reference = None
    if _is_moments(options.reference):
        with hosts.together():
            reference = Seen(frechet.load(options.reference, fingerprints))
    began = time.monotonic()
    if real:
        reference = look(real, networks, task="reference")
        with hosts.together():
            if options.save_moments and hosts.first():
                frechet.save(options.save_moments, reference.moments, fingerprints)
    seen = look(found.source, networks, clip if found.captioned else None, options.prefix, task="pictures")
    took = time.monotonic() - began
    values: dict[str, Any] = {"pictures": options.pictures, "reference": options.reference}
    values |= {"split": options.split} if real else {}
    for name in networks:
        about = {"path": getattr(options, name), "fingerprint": fingerprints[name], "width": networks[name].width}
        values[name] = about
    values |= figures(seen, reference) | {"prefix": options.prefix, "undrawn": found.undrawn, "seconds": took}
    kinds = dict.fromkeys(sample.kind for sample in found.drawn)
    marks = {kind: samples.percent_right(found.drawn, kind) for kind in kinds}
    values["right"] = {kind: mark for kind, mark in marks.items() if mark is not None}
    _say(values)
    measure.write(options.out, values)


def look(
    source: "Source", networks: Mapping[str, Network], clip: "Encoder | None" = None, prefix: str = "", *, task: str
) -> Seen:
    """What the networks see of a set's pictures; with `clip` how each fits its caption, after `prefix`, too.

    Every process calls it, reads its own share of the set, and gets the same. ValueError, on all of them, if too many
    pictures are damaged, or if a network gives no finite numbers. `task` names the progress line.
    """
    import jax
    import numpy as np

    from jam_jax.evaluate.frechet import moments, total
    from jam_jax.retrieval.encode import unit

    own = {name: moments(np.empty((0, network.width))) for name, network in networks.items()}
    fit, tally = moments(np.empty((0, 2))), Counter[str]()
    of = jax.process_count()
    with hosts.together(), _bar(task, -(-source.documents_expected // of)) as advance:
        for pairs in _batches(_pairs(source, hosts.number(), of, tally)):
            captions, pictures = [prefix + caption for caption, _ in pairs], [picture for _, picture in pairs]
            found = {name: network.features(pictures) for name, network in networks.items()}
            for name, features in found.items():
                own[name] += moments(features)
            if clip:
                of_pictures = unit(found["clip"].astype(np.float64))
                cosines = np.einsum("nE,nE->n", of_pictures, clip.texts(captions))
                fit += moments(np.stack([100 * cosines, CLIP_SCORE * np.maximum(cosines, 0)], axis=1))
            advance(len(pairs))
    read, damaged = hosts.gathered(np.array([tally["read"], tally["damaged"]])).sum(axis=0).tolist()
    if damaged > source.tolerated * read:  # of all shares; each alone may have had fewer than are tolerated of all
        raise ValueError(f"{source.name}: {damaged} of {read} records are damaged, more than {source.tolerated:.0%}")
    return Seen({name: total(each) for name, each in own.items()}, total(fit) if clip else None, damaged)


def _pairs(source: "Source", index: int, of: int, tally: Counter[str]) -> Iterator[tuple[str, bytes]]:
    """Every picture of a share with the caption before it, or ""."""
    for document in source.documents(index, of, tally):
        caption = document.texts[0] if document.texts else ""
        yield from ((caption, picture) for picture in document.pictures)


def _batches(pairs: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    rest = iter(pairs)
    while batch := list(itertools.islice(rest, BATCH)):
        yield batch


def _bar(task: str, total: int) -> Any:
    return progress.bar(task, total) if total else contextlib.nullcontext(lambda n: None)


def figures(seen: Seen, reference: Seen | None) -> dict[str, Any]:
    """The figures as JSON holds them; None where there is none. ValueError where there are too few pictures."""
    from jam_jax.evaluate.frechet import distance

    count = _count(seen)
    if not count:
        raise ValueError("there is no picture that can be read")
    values: dict[str, Any] = {"count": count, "damaged": seen.damaged}
    values["reference_count"] = _count(reference) if reference else None
    for name, (figure, _) in DISTANCES.items():
        both = (seen.moments[name], reference.moments[name]) if reference and name in seen.moments else None
        values[figure] = distance(*both) if both else None
        values[f"{figure}_full_rank"] = all(each.full_rank for each in both) if both else None
    of_fit = dict.fromkeys(("cosine_x100", "clip_score"), (None, None))
    if seen.fit:
        of_fit = dict(zip(of_fit, zip(seen.fit.mean.tolist(), seen.fit.errors.tolist(), strict=True), strict=True))
    for name, (mean, error) in of_fit.items():
        values |= {name: mean, f"{name}_standard_error": error}
    return values


def _count(seen: Seen) -> int:
    return next(iter(seen.moments.values())).count


def _say(values: dict[str, Any]) -> None:
    """A line for each figure, and a warning for a distance that means little."""
    what = f"{values['pictures']} ({values['count']:,} pictures)"
    real = f"{values['reference']} ({values['reference_count'] or 0:,} pictures)"
    for name, (figure, said) in DISTANCES.items():
        if (found := values[figure]) is None:
            continue
        print(f"{what}: {said} {found:.4f} to {real}, by {values[name]['path']}")
        if not values[f"{figure}_full_rank"]:
            fewest = min(values["count"], values["reference_count"])
            print(
                f"warning: {fewest:,} pictures are too few for a covariance of {values[name]['width']:,} features: "
                "compare this distance with those of as many pictures alone",
                file=sys.stderr,
            )
    if values["clip_score"] is not None:
        both = {"CLIPScore (2.5 max(cos, 0))": ("clip_score", 4), "100 cos": ("cosine_x100", 2)}
        shown = [
            f"{said} {values[figure]:.{digits}f} ± {values[f'{figure}_standard_error']:.{digits}f}"
            for said, (figure, digits) in both.items()
        ]
        print(f"{what}: {', '.join(shown)} with their captions, by {values['clip']['path']}")
    for kind, mark in values["right"].items():
        print(f"{what}: {mark:.1f}% of the drawings{f' of {kind}' if kind else ''} are right")


def _is_moments(path: str) -> bool:
    return path.endswith(".npz")
