"""Means and covariances of pictures' features, streamed, and the Fréchet distance between two sets (arXiv 1706.08500).

    d² = |m1 - m2|² + tr(C1 + C2 - 2 (C1^(1/2) C2 C1^(1/2))^(1/2))

with means m and covariances C (over n - 1). All is float64 on the host, and no more than the sums is held: sets are
put together from batches, and from the shares of several processes, by the deviations from their means (Chan, Golub
and LeVeque 1983), so that nothing large cancels.
"""

import dataclasses
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jam_jax import config, hosts

GATHERED = 1 << 20  # numbers that the processes of a run send at once
SAVED = "moments of pictures' features"  # what a file of them says that it holds


@dataclasses.dataclass(frozen=True)
class Moments:
    """A set of feature vectors of width D: how many, their mean, and how they lie about it."""

    count: int
    mean: np.ndarray  # float64 [D]
    scatter: np.ndarray  # float64 [D, D], the sum of (x - mean)(x - mean)^T

    def __add__(self, other: "Moments") -> "Moments":
        """Those of both sets together."""
        if not (self.count and other.count):
            return self if self.count else other
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        between = np.outer(apart, apart * (self.count * other.count / count))
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> np.ndarray:
        """Over n - 1, as numpy.cov has it, float64 [D, D]; of fewer than two vectors it is nan."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.scatter / np.float64(max(self.count - 1, 0))

    @property
    def errors(self) -> np.ndarray:
        """The standard errors of the means, float64 [D]; nan for fewer than two vectors."""
        with np.errstate(invalid="ignore"):
            return np.sqrt(np.diag(self.covariance) / self.count) if self.count else np.full(len(self.mean), np.nan)

    @property
    def full_rank(self) -> bool:
        """Whether there are vectors enough for the covariance to have full rank: more than they are wide."""
        return self.count > len(self.mean)


def moments(rows: np.ndarray) -> Moments:
    """Of vectors [n, D], n perhaps 0; ValueError if they hold anything that is no finite number."""
    rows = rows.astype(np.float64)
    if not np.isfinite(rows).all():
        raise ValueError("the features hold NaN or infinite numbers: the network's weights are damaged")
    mean = rows.mean(axis=0) if len(rows) else np.zeros(rows.shape[1])
    apart = rows - mean
    return Moments(len(rows), mean, apart.T @ apart)


def total(own: Moments) -> Moments:
    """Those of the sets of all processes together; every process must ask, and gets the same."""
    counts = hosts.gathered(np.array(own.count))
    if len(counts) == 1:
        return own
    count = int(counts.sum())
    mean = counts @ hosts.gathered(own.mean) / max(count, 1)
    apart = own.mean - mean
    scatter = own.scatter + own.count * np.outer(apart, apart)
    rows = max(GATHERED // (len(counts) * len(mean)), 1)
    parts = [hosts.gathered(scatter[i : i + rows]).sum(axis=0) for i in range(0, len(mean), rows)]
    return Moments(count, mean, np.concatenate(parts))


def distance(a: Moments, b: Moments) -> float:
    """The Fréchet distance d² of two sets, taken for Gaussians; ValueError for a set of fewer than two."""
    for each in (a, b):
        if each.count < 2:
            raise ValueError(f"a Fréchet distance needs two pictures or more on either side, got {each.count}")
    assert a.mean.shape == b.mean.shape
    root = _root(a.covariance)
    crossed = np.linalg.eigvalsh(root @ b.covariance @ root)
    both = np.sqrt(np.maximum(crossed, 0)).sum()  # here and below, what rounding made negative is 0
    apart = a.mean - b.mean
    return max(float(apart @ apart + np.trace(a.covariance) + np.trace(b.covariance) - 2 * both), 0.0)


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def save(path: str | Path, held: Mapping[str, Moments], fingerprints: Mapping[str, str]) -> None:
    """Write a set's moments by each network, with the network's fingerprint, as an `.npz`; whole or not at all."""
    arrays: dict[str, Any] = {"what": np.array(SAVED)}
    for name, each in held.items():
        arrays |= {f"{name}/{field}": getattr(each, field) for field in ("count", "mean", "scatter")}
        arrays[f"{name}/fingerprint"] = np.array(fingerprints[name])
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    config.write_whole(path, buffer.getvalue())


def load(path: str | Path, fingerprints: Mapping[str, str]) -> dict[str, Moments]:
    """What `save` wrote of these networks, by their fingerprints; ValueError if it is damaged or of other networks."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if str(arrays["what"]) != SAVED:
                raise ValueError(f"it holds {arrays['what']}")
            given = {name: str(arrays[f"{name}/fingerprint"]) for name in fingerprints if f"{name}/count" in arrays}
            found = {name: _moments(arrays, name) for name in given}
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} holds no moments that can be read: write them with --save-moments") from error
    for name, wanted in fingerprints.items():
        if name not in given:
            raise ValueError(f"{path} has no moments by --{name}: save them again with it")
        if given[name] != wanted:
            raise ValueError(
                f"the moments in {path} are of another network (fingerprint {given[name]}) than --{name} names "
                f"({wanted}): name the one that made them, or save them again"
            )
    return found


def _moments(arrays: Any, name: str) -> Moments:
    count, mean, scatter = (arrays[f"{name}/{field}"] for field in ("count", "mean", "scatter"))
    kinds = {mean.dtype, scatter.dtype}
    if mean.ndim != 1 or scatter.shape != 2 * mean.shape or count.shape or kinds != {np.dtype(np.float64)}:
        raise ValueError(f"{name} has {mean.dtype} {mean.shape} and {scatter.dtype} {scatter.shape}")
    return Moments(int(count), mean, scatter)
