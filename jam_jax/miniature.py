"""The paper's tables in miniature: every model of them trained on the built-in world, from several seeds, and measured.

The road is the quickstart's: the world, the tokenizers and the stores are made once; then, for each seed, two parents
that know nothing of each other, every fusion of the tables, and what is trained on from it. Finished stages are kept.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from jam_jax import config as configs
from jam_jax import quickstart
from jam_jax.evaluate.tables import markdown as markdown_files
from jam_jax.machine import keep_programs
from jam_jax.stages import MINUTES, Command, Road, Stage

TABLES = ("table_1", "table_2", "table_3", "table_4", "table_5", "ablations")
SHARED = ("world", "text_tokenizer", "image_tokenizer", "tokenizer", "stores")  # stages of the quickstart


def _cross(*, every: int = 2, project: str = "random", blocks: str = "identity", positions: str = "img") -> Command:
    """JAM-Cross as the original starts it, but for what is named."""
    starts = {"every": every, "project": project, "blocks": blocks, "positions": positions}
    return ["cross", *(part for name, value in starts.items() for part in (f"--{name}", str(value)))]


FUSIONS: dict[str, Command] = {  # name → `python -m jam_jax.fuse` with these arguments
    "uniform": ["uniform"],
    "width_copy": ["width", "--init", "copy"],
    "width_average": ["width", "--init", "average"],
    "width_zero": ["width", "--init", "zero"],
    **{f"cross_{every}": _cross(every=every) for every in (0, 1, 2, 4)},
    **{f"cross_2_project_{start}": _cross(project=start) for start in ("average", "llm", "img")},
    "cross_2_blocks_random": _cross(blocks="random"),
    **{f"cross_2_positions_{whose}": _cross(positions=whose) for whose in ("llm", "average")},
    "cross_2_project_average_positions_llm": _cross(project="average", positions="llm"),
}
TUNED = {"instruct": "cross_2", "instruct_captions": "cross_2"}  # config → what it is trained on from
NEW = ("cross/.*", "project")  # of JAM-Cross, what is no parent's: alone trained while the towers are frozen
FROZEN_SHARE = 0.25  # of the steps of continued pretraining
IMG_SEEDS = 1000  # what a seed's image parent is further on: no parent shares its seed with another


@dataclasses.dataclass(frozen=True)
class Options:
    """Train every model of the paper's tables on the built-in world, and put our figures beside the paper's."""

    seeds: str = "21,22,23"  # whole numbers below 1000, by commas: each makes its own parents and all that follows
    fresh: bool = False  # begin again; without it finished stages are kept
    share: float = 1.0  # of the steps of every training: a small one shows whether all runs, and nothing of the tables
    markdown: str = ""  # a Markdown file that gets the tables too, such as docs/reproduction.md
    out: str = ""  # where everything goes; empty: runs/tables in the repository

    def __post_init__(self) -> None:
        if not 0 < self.share < math.inf:
            raise ValueError(f"--share must be more than 0 and finite, got {self.share:g}")
        read_seeds(self.seeds)


def read_seeds(text: str) -> tuple[int, ...]:
    """`21,22,23` → the numbers; ValueError for anything else."""
    parts = text.split(",")
    seeds = tuple(int(part) for part in parts if part.isdecimal() and int(part) < IMG_SEEDS)
    if len(set(seeds)) < len(parts):
        raise ValueError(f"--seeds takes different whole numbers below {IMG_SEEDS}, such as 21,22,23, got {text!r}")
    return seeds


@dataclasses.dataclass(frozen=True)
class Miniature(Road):
    """The stages of all tables; `fusion` is of no use here, and `minutes` scale steps as the quickstart's do."""

    seeds: tuple[int, ...] = (21, 22, 23)
    markdown: str = ""

    @property
    def about(self) -> str:
        """What it is made on, as stamps and messages say it."""
        return "the built-in world, for the paper's tables"

    def config(self, name: str) -> str:
        """Of a model of the tables their own; of the image tokenizer the quickstart's."""
        return super().config(name) if name == "image_tokenizer" else f"configs/world/tables/{name}.py"

    def run_of(self, seed: int, config: str, name: str, seed_of_run: int, *, init: str = "") -> Command:
        """The training command of a model of one seed."""
        command = self.train(config, f"{seed}/{name}", init=f"{seed}/{init}" if init else "", model=not init)
        return [*command, "--seed", str(seed_of_run)]

    def parent(self, seed: int, name: str) -> Stage:
        """One of the two parents."""
        own = seed + (IMG_SEEDS if name == "img" else 0)
        title = f"Seed {seed}: train the {'image' if name == 'img' else 'text'} parent"
        return Stage(
            f"{seed}-{name}",
            title,
            lambda: [self.run_of(seed, name, name, own)],
            (f"{seed}/{name}",),
            (self.config(name), self.config("llm")),  # the image parent's reads the text parent's
        )

    def fused(self, seed: int, name: str) -> Stage:
        """A fusion and its continued pretraining."""
        return Stage(
            f"{seed}-{name}",
            f"Seed {seed}: fuse and train {name}",
            lambda: [self.fuse(seed, name), self.run_of(seed, "cpt", name, seed, init=f"{name}-0")],
            (f"{seed}/{name}-0", f"{seed}/{name}"),
            (self.config("cpt"),),
        )

    def fuse(self, seed: int, name: str) -> Command:
        """The command of a fusion of one seed's parents."""
        parents = ["--llm", self.at(str(seed), "llm"), "--img", self.at(str(seed), "img")]
        random = ["--seed", str(seed)] if FUSIONS[name][0] == "cross" else []
        return ["fuse", *FUSIONS[name], *random, *parents, "--target", self.at(str(seed), f"{name}-0")]

    def frozen(self, seed: int) -> Stage:
        """JAM-Cross whose towers are frozen for the first steps: two runs, together as long as the others are."""
        config = configs.read_config(self.config("cpt"))
        whole = max(2, round(config.steps * self.minutes / MINUTES))
        first = min(max(1, round(whole * FROZEN_SHARE)), whole - 1)
        half, name = "cross_2_frozen-1", "cross_2_frozen"

        def commands() -> list[Command]:
            alone = self.run_of(seed, "cpt", half, seed, init="cross_2-0")
            then = self.run_of(seed, "cpt", name, seed + IMG_SEEDS, init=half)  # other blocks than the first run's
            return [
                [*_with_steps(alone, first), "--optim.train-only", *NEW],
                _with_steps(then, whole - first),
            ]

        return Stage(
            f"{seed}-{name}",
            f"Seed {seed}: train cross_2 with frozen towers, then whole",
            commands,
            (f"{seed}/{half}", f"{seed}/{name}"),
            (self.config("cpt"),),
        )

    def tuned(self, seed: int, name: str) -> Stage:
        """Instruction tuning."""
        return Stage(
            f"{seed}-{name}",
            f"Seed {seed}: tune, {name}",
            lambda: [self.run_of(seed, name, name, seed, init=TUNED[name])],
            (f"{seed}/{name}",),
            (self.config(name), self.config("instruct")),  # one reads the other
        )

    def tables(self) -> Command:
        """The command that measures and writes all tables."""
        command = ["evaluate", "tables", "--config", *(self.config(name) for name in TABLES)]
        command += ["--root", self.at(), "--out", self.at("tables"), "--seeds", *map(str, self.seeds)]
        return [*command, *(["--markdown", self.markdown] if self.markdown else [])]

    def stages(self) -> list[Stage]:
        """The road, in order."""
        road = [stage for stage in super().stages() if stage.name in SHARED]
        for seed in self.seeds:
            road += [self.parent(seed, "llm"), self.parent(seed, "img")]
            road += [self.fused(seed, name) for name in FUSIONS]
            road += [self.frozen(seed), *(self.tuned(seed, name) for name in TUNED)]
        # What it leaves is never removed: a figure that is missing costs none of the others.
        return [*road, Stage("tables", "Measure, and write the tables", lambda: [self.tables()], (), always=True)]


def _with_steps(command: Command, steps: int) -> Command:
    """A training command with another number of steps."""
    if "--steps" in command:
        at = command.index("--steps")
        command = command[:at] + command[at + 2 :]
    return [*command, "--steps", str(steps)]


def main(args: Sequence[str] | None = None) -> None:
    """The command."""
    options = configs.cli(Options, args, prog="bash launch/tables.sh", description=__doc__ or "")
    markdown = str(Path(options.markdown).absolute()) if options.markdown else ""
    if markdown:
        markdown_files.check(Path(markdown))  # now, not after hours
    keep_programs()  # the seeds' models are compiled alike
    run = quickstart.enter(options.out, "tables")
    quickstart.follow(
        Miniature(run, "cross", MINUTES * options.share, seeds=read_seeds(options.seeds), markdown=markdown),
        fresh=options.fresh,
    )


if __name__ == "__main__":
    configs.run(main)
