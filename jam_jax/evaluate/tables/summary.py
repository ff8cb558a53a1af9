"""What measured figures say together: means with their spread, differences from parents, and verdicts on claims.

The spread is the standard deviation over the models of a row, with n - 1; of one model there is none.
"""

import dataclasses
import math
from collections.abc import Mapping
from statistics import fmean, stdev
from typing import Literal

from jam_jax.evaluate.tables.describe import Claim, Table
from jam_jax.evaluate.tables.measures import Figure

Verdict = Literal["confirmed", "not confirmed", "cannot be told"]
ERRORS = 2  # standard errors that a difference must exceed to decide a claim
RULE = (
    "A claim that one model is better than another is decided by the mean of their differences, seed by seed, and its "
    "standard error (standard deviation of the differences / √seeds): *confirmed* where the mean is more than "
    f"{ERRORS} standard errors on the claimed side of 0, *not confirmed* where it is more than {ERRORS} on the other "
    "side, and *cannot be told* in between, or with one seed alone."
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """The figures of a row's models by one measure."""

    values: Mapping[str, float]  # by group
    faults: Mapping[str, str] = dataclasses.field(default_factory=dict)  # by group: why there is no figure
    notes: tuple[str, ...] = ()

    @property
    def mean(self) -> float | None:
        """Over the models that have a figure."""
        return fmean(self.values.values()) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over these models, None for fewer than two."""
        return stdev(self.values.values()) if len(self.values) > 1 else None


@dataclasses.dataclass(frozen=True)
class MeasuredTable:
    """A table with its figures."""

    table: Table
    figures: Mapping[tuple[str, str, str], Figure]  # by row's label, group, measure's label

    def cell(self, label: str, measure: str) -> Cell:
        """The figures of a row."""
        groups = [row.group for row in self.table.rows if row.label == label]
        found = {group: self.figures[label, group, measure] for group in groups}
        return Cell(
            {group: figure.value for group, figure in found.items() if figure.value is not None},
            {group: figure.fault for group, figure in found.items() if figure.value is None},
            tuple(dict.fromkeys(figure.note for figure in found.values() if figure.note)),
        )

    def difference(self, label: str, from_: str, measure: str) -> Cell:
        """A row less another, group by group; where that one has a single model, less that."""
        ours, theirs = self.cell(label, measure).values, self.cell(from_, measure).values
        single = next(iter(theirs.values())) if len(self._groups(from_)) == 1 and theirs else None
        bases = {group: theirs.get(group, single) for group in ours}
        return Cell({group: ours[group] - base for group, base in bases.items() if base is not None})

    def _groups(self, label: str) -> list[str]:
        return [row.group for row in self.table.rows if row.label == label]

    @property
    def faults(self) -> list[str]:
        """A line for every figure that is missing."""
        return [
            f"{label}{f' ({group})' if group else ''}, {measure}: {figure.fault}"
            for (label, group, measure), figure in self.figures.items()
            if figure.value is None
        ]


@dataclasses.dataclass(frozen=True)
class Decided:
    """A claim with what our figures say of it."""

    claim: Claim
    verdict: Verdict
    mean: float | None  # by how much it is better on average, in the measure's units; less than 0: it is worse
    error: float | None  # standard error of that
    seeds: int  # differences that it is the mean of


def decide(measured: MeasuredTable, claim: Claim) -> Decided:
    """The verdict on a claim, by RULE."""
    measure = measured.table.measure(claim.measure)
    sign = -1 if measure.lower else 1
    found = [sign * v for v in measured.difference(claim.better, claim.than, claim.measure).values.values()]
    if not found:  # one model is said to be better than those of several seeds
        found = [-sign * v for v in measured.difference(claim.than, claim.better, claim.measure).values.values()]
    if len(found) < 2:
        return Decided(claim, "cannot be told", fmean(found) if found else None, None, len(found))
    mean, error = fmean(found), stdev(found) / math.sqrt(len(found))
    verdict: Verdict = "cannot be told"
    if abs(mean) > ERRORS * error:
        verdict = "confirmed" if mean > 0 else "not confirmed"
    return Decided(claim, verdict, mean, error, len(found))
