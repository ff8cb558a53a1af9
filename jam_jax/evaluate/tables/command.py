"""The `tables` command: any models by any measures, kept, summed up and written in four forms."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from jam_jax import config
from jam_jax.config import check_seed
from jam_jax.evaluate.tables import describe, markdown, output
from jam_jax.evaluate.tables.results import Results
from jam_jax.evaluate.tables.summary import MeasuredTable


@dataclasses.dataclass(frozen=True)
class Tables:
    """Tables of figures, as config files describe them: on the terminal, and as tables.html, .json and .csv.

    Figures that are there already are kept, in `out`/results. A measure that fails is a dash in its table with the
    reason below; the others go on, and the command ends with exit code 1.
    """

    config: tuple[str, ...]  # files with get_config() -> Table, such as configs/world/tables/table_2.py
    out: str  # directory to write into
    root: str = ""  # directory where the paths of the tables begin; empty: the working directory
    seeds: tuple[int, ...] = ()  # what {seed} in a model's path stands for
    markdown: str = ""  # also a Markdown file: a new one, or one with markers, between which the tables are put
    fresh: bool = False  # measure all again

    def __post_init__(self) -> None:
        for seed in self.seeds:
            check_seed(seed)
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"--seeds names one twice: {' '.join(map(str, self.seeds))}")


def measure(options: Tables, run: Callable[[list[str]], None]) -> None:
    """The command; `run` is `python -m jam_jax.evaluate`, as which every figure is measured.

    ValueError, before anything is measured, for a description that is wrong; and after all is written, if a figure is
    missing.
    """
    tables = [describe.read(path, options.root, options.seeds) for path in options.config]
    out = Path(options.out)
    if options.markdown:
        markdown.check(Path(options.markdown))
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: give the tables a directory with --out")
    results = Results(out / "results", options.root, run, options.fresh)
    found = []
    for table in tables:
        figures = {(r.label, r.group, m.label): results.figure(r, m) for r in table.rows for m in table.measures}
        found.append(MeasuredTable(table, figures))
    out.mkdir(parents=True, exist_ok=True)
    config.write_whole(out / "tables.json", output.as_json(found))
    config.write_whole(out / "tables.csv", output.as_csv(found))
    config.write_whole(out / "tables.html", output.as_page(found))
    if options.markdown:
        markdown.write(Path(options.markdown), found)
    output.show(found)
    print(f"the tables: {(out / 'tables.html').resolve()}")
    if faults := [fault for measured in found for fault in measured.faults]:
        every = sum(len(measured.figures) for measured in found)
        raise ValueError(f"{len(faults)} of {every} figures are missing, the first is {faults[0]}")
