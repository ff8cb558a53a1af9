"""What a table is, as a config file describes it: rows of models, columns of measures, and claims that it decides."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jam_jax import config
from jam_jax.evaluate import paper

if TYPE_CHECKING:
    from jam_jax.evaluate.tables.measures import Measure

SEED = "{seed}"  # in a path: each of the seeds that the table is made for


@dataclasses.dataclass(frozen=True)
class Row:
    """A model. Rows of one label become one line: their mean, with its spread."""

    label: str
    model: str  # model directory, from the table's root; with "{seed}" in it there is one for each seed
    parent: bool = False  # the others are compared with it; of several, each with the one of its own group
    group: str = ""  # what tells rows of one label apart; of rows made for seeds it is the seed
    paper: str = ""  # row of the paper's table that stands beside it


@dataclasses.dataclass(frozen=True)
class Claim:
    """What the paper says: that one row is better than another by a measure."""

    text: str  # as a sentence
    better: str  # label of a row
    than: str  # label of another row
    measure: str  # label of the measure


@dataclasses.dataclass(frozen=True)
class Table:
    """What `get_config()` of a table's config file gives."""

    title: str
    rows: tuple[Row, ...]
    measures: "tuple[Measure, ...]"
    note: str = ""  # a paragraph under the title
    paper: str = ""  # number of the paper's table that stands beside it
    claims: tuple[Claim, ...] = ()

    def __post_init__(self) -> None:
        if not self.rows or not self.measures:
            raise ValueError(f"the table {self.title!r} needs at least one row and one measure")
        labels = [measure.label for measure in self.measures]
        self._require_once("measures", labels)
        self._require_once("rows", [f"{row.label} {row.group} {row.model * (SEED in row.model)}" for row in self.rows])
        for claim in self.claims:
            for name, known in ((claim.better, self.labels), (claim.than, self.labels), (claim.measure, labels)):
                if name not in known:
                    raise ValueError(f"a claim of {self.title!r} names {name!r}; there are {', '.join(known)}")
        if self.paper and self.paper not in paper.TABLES:
            raise ValueError(f"the paper has no table {self.paper!r} here; it has {', '.join(paper.TABLES)}")
        told = paper.TABLES.get(self.paper, {})
        self._require_told([row.paper for row in self.rows], list(told))
        columns = dict.fromkeys(column for figures in told.values() for column in figures)
        self._require_told([measure.paper for measure in self.measures], list(columns))

    def _require_once(self, what: str, names: list[str]) -> None:
        if twice := [name.strip() for i, name in enumerate(names) if name in names[:i]]:
            raise ValueError(f"the table {self.title!r} has two {what} {twice[0]!r}: give one another label or group")

    def _require_told(self, names: list[str], known: list[str]) -> None:
        if unknown := [name for name in names if name and name not in known]:
            raise ValueError(
                f"the table {self.title!r} names {unknown[0]!r} of the paper's table "
                f"{self.paper or '(none is given)'}, which has {', '.join(known) or 'nothing'}"
            )

    @property
    def labels(self) -> list[str]:
        """The rows' labels, each once, in order."""
        return list(dict.fromkeys(row.label for row in self.rows))

    @property
    def parents(self) -> list[str]:
        """Labels of the rows that others are compared with."""
        return list(dict.fromkeys(row.label for row in self.rows if row.parent))

    def measure(self, label: str) -> "Measure":
        """The measure of a label."""
        return next(measure for measure in self.measures if measure.label == label)

    def told(self, label: str, measure: "Measure") -> float | None:
        """The paper's figure beside a row's."""
        row = next((row.paper for row in self.rows if row.label == label and row.paper), "")
        return paper.TABLES.get(self.paper, {}).get(row, {}).get(measure.paper)


def read(path: str | Path, root: str = "", seeds: Sequence[int] = ()) -> Table:
    """The table of a config file, with a row for every seed and all models' paths from `root`; ValueError else."""
    table = config.read_config(path, Table)
    rows: list[Row] = []
    for row in table.rows:
        if SEED in row.model and not seeds:
            raise ValueError(f"{path}: the model {row.model} is one for each seed: give --seeds, such as --seeds 1 2 3")
        made = [dataclasses.replace(row, model=row.model.replace(SEED, str(s)), group=str(s)) for s in seeds]
        rows += made if SEED in row.model else [row]
    return dataclasses.replace(
        table, rows=tuple(dataclasses.replace(row, model=str(Path(root) / row.model)) for row in rows)
    )
