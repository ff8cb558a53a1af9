"""`python -m jam_jax.fuse uniform|width|cross --llm DIR --img DIR --target DIR`: two parents into one model."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jam_jax import config as configs
from jam_jax import hosts, machine
from jam_jax.trees import paths

if TYPE_CHECKING:
    from jam_jax.fuse.compatibility import Row, Vocabulary


@dataclasses.dataclass(frozen=True)
class _Parents:
    llm: str  # model directory of the parent that writes
    img: str  # model directory of the parent that draws
    target: str = ""  # model directory to write
    check: bool = False  # only compare the parents; write nothing


@dataclasses.dataclass(frozen=True)
class Uniform(_Parents):
    """Average every weight of the two parents, or mix them in another proportion."""

    weight: float = 0.5  # the LLM's share of every weight, from 0 to 1; the rest is the image parent's
    text_weight: float | None = None  # its share of the rows of text tokens; None: as the rest
    image_weight: float | None = None  # its share of the rows of image tokens; None: as the rest

    def __post_init__(self) -> None:
        for name in ("weight", "text_weight", "image_weight"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name} is a share from 0 (the image parent's) to 1 (the LLM's), got {share}")


@dataclasses.dataclass(frozen=True)
class Width(_Parents):
    """Put the parents side by side in a decoder of twice the width."""

    # What fills the off-diagonal blocks: zeros, or as in the paper copies of the diagonal ones or the parents' average.
    init: Literal["zero", "copy", "average"] = "zero"


@dataclasses.dataclass(frozen=True)
class Cross(_Parents):
    """Keep both parents whole and join them by cross-attention blocks."""

    every: int = 2  # a cross block per direction after layers 0, every, 2 every, …; 0: none
    seed: int = 0  # of the new blocks' random weights
    # How the projection of both towers starts: as their average, as one tower alone, or at random (the original code).
    project: Literal["average", "llm", "img", "random"] = "average"
    blocks: Literal["identity", "random"] = "identity"  # whether new blocks pass all on at first, or add what is drawn
    positions: Literal["img", "llm", "average"] = "img"  # whose position table both towers read

    def __post_init__(self) -> None:
        configs.check_seed(self.seed)


Command = Uniform | Width | Cross
LACKS = "holds no tokenizer, which says which rows are text: give its import one"  # what JAM-Cross needs


def main(args: list[str] | None = None) -> None:
    """The command; see `fuse`."""
    command = configs.cli(Command, args, prog="python -m jam_jax.fuse", description=__doc__ or "")
    machine.share_freed_memory()
    hosts.start()
    fuse(command)


def fuse(command: Command) -> None:
    """Compare two parents and write their fusion; ValueError says in what they do not fit."""
    from jam_jax import checkpoint
    from jam_jax.fuse import compatibility, rows
    from jam_jax.models.model import require_language

    llm_config, img_config = (checkpoint.read_model_config(d) for d in (command.llm, command.img))
    for directory, found in ((command.llm, llm_config), (command.img, img_config)):
        require_language(found, directory)
    compared = compatibility.compare(llm_config, img_config, _vocabulary(command.llm), _vocabulary(command.img))
    if command.check:
        _show(compared)
    compatibility.errors(compared)
    warnings = [str(row) for row in compared if row.verdict == "warning"]
    if command.check:
        so = f", with {len(warnings)} warning{'s' * (len(warnings) > 1)}" if warnings else ""
        if _tokenizer(command.img):
            print(f"the parents fit{so}: all three fusions are possible")
        else:
            print(f"the parents fit{so}: uniform and width are possible, cross is not, since {command.img} {LACKS}")
        return
    if not command.target:
        raise ValueError("give the fusion a directory: --target DIR")
    checkpoint.check_vacant(command.target)
    for warning in warnings:
        print(f"warning: {warning}")
    (_, llm), (_, img) = checkpoint.open_leaves(command.llm), checkpoint.open_leaves(command.img)
    assert isinstance(llm_config, configs.DecoderConfig) and isinstance(img_config, configs.DecoderConfig)
    most = min(llm_config.max_positions, img_config.max_positions)
    img_config = dataclasses.replace(img_config, max_positions=most)
    fused, leaves = _fused(command, llm_config, img_config, rows.complete(llm, img), img)
    tokenizer = _tokenizer(command.img)
    checkpoint.save_leaves(command.target, fused, leaves, tokenizer=tokenizer, task="fuse")
    millions = sum(leaf.size for leaf in paths(leaves).values()) / 1e6
    print(f"{command.target}: JAM-{type(command).__name__}, {millions:.2f}M parameters")


def _fused(
    command: Command, llm_config: configs.DecoderConfig, img_config: configs.DecoderConfig, llm: dict, img: dict
) -> tuple[configs.ModelConfig, dict]:
    from jam_jax import tokens
    from jam_jax.fuse import cross, uniform, width

    found = _tokenizer(command.img)
    space = tokens.load(found) if found else None
    if isinstance(command, Uniform):
        share = uniform.row_shares(space, command.weight, command.text_weight, command.image_weight)
        return uniform.fuse(img_config, llm, img, command.weight, share)
    if isinstance(command, Width):
        return width.fuse(img_config, llm, img, command.init)
    if space is None:
        raise ValueError(f"{command.img} {LACKS}")
    return cross.fuse(
        *(llm_config, img_config, llm, img, space),
        every=command.every,
        seed=command.seed,
        project=command.project,
        blocks=command.blocks,
        positions=command.positions,
    )


def _tokenizer(directory: str) -> Path | None:
    found = Path(directory) / "tokenizer"
    return found if (found / "tokens.json").is_file() else None


def _vocabulary(directory: str) -> "Vocabulary | None":
    from jam_jax import tokens
    from jam_jax.data import tokenizers
    from jam_jax.fuse.compatibility import Vocabulary

    found = _tokenizer(directory)
    return Vocabulary(tokens.load(found), tokenizers.names(found)) if found else None


def _show(rows: "list[Row]") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "LLM", "image parent", "", title="Do the parents fit?")
    colours = {"fits": "", "warning": "yellow", "error": "red"}
    for row in rows:
        verdict = f"{row.verdict}: {row.note}" if row.note else row.verdict
        table.add_row(row.name, row.llm, row.img, verdict, style=colours[row.verdict])
    Console().print(table)


if __name__ == "__main__":
    configs.run(main)
