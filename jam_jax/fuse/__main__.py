"""`python -m jam_jax.fuse uniform|width|cross --llm DIR --img DIR --target DIR`: two parents into one model."""

import dataclasses
from pathlib import Path
from typing import Literal

from jam_jax import config as configs


@dataclasses.dataclass(frozen=True)
class _Parents:
    llm: str  # model directory of the parent that writes
    img: str  # model directory of the parent that draws
    target: str = ""  # model directory to write
    check: bool = False  # only compare the parents; write nothing


@dataclasses.dataclass(frozen=True)
class Uniform(_Parents):
    """Average every weight of the two parents."""


@dataclasses.dataclass(frozen=True)
class Width(_Parents):
    """Put the parents side by side in a decoder of twice the width."""

    init: Literal["copy", "average"] = "copy"  # what fills the off-diagonal blocks


@dataclasses.dataclass(frozen=True)
class Cross(_Parents):
    """Keep both parents whole and join them by cross-attention blocks."""

    every: int = 2  # a cross block per direction after layers 0, every, 2 every, …; 0: none
    seed: int = 0  # of the new blocks' random weights

    def __post_init__(self) -> None:
        configs.check_seed(self.seed)


Command = Uniform | Width | Cross


def main(args: list[str] | None = None) -> None:
    """The command; see `fuse`."""
    fuse(configs.cli(Command, args, prog="python -m jam_jax.fuse", description=__doc__ or ""))


def fuse(command: Command) -> None:
    """Compare two parents and write their fusion; ValueError says in what they do not fit."""
    import jax

    from jam_jax import checkpoint, tokens
    from jam_jax.fuse import compatibility, cross, uniform, width

    llm_config, img_config = (checkpoint.read_model_config(d) for d in (command.llm, command.img))
    for directory, found in ((command.llm, llm_config), (command.img, img_config)):
        if isinstance(found, configs.VqganConfig):
            raise ValueError(f"{directory} is an image tokenizer, not a language model")
    llm_tokenizer, img_tokenizer = (checkpoint.tokenizer_dir(d) for d in (command.llm, command.img))
    misfits = compatibility.config_misfits(llm_config, img_config)
    misfits += compatibility.tokenizer_misfits(llm_tokenizer, img_tokenizer)
    compatibility.require_fit(misfits)
    if command.check:
        print("the parents fit: all three fusions are possible")
        return
    if not command.target:
        raise ValueError("give the fusion a directory: --target DIR")
    if Path(command.target).exists() and any(Path(command.target).iterdir()):
        raise ValueError(f"{command.target} already exists: remove it or choose another target")
    (_, llm), (_, img) = checkpoint.load_model(command.llm), checkpoint.load_model(command.img)
    assert isinstance(llm_config, configs.DecoderConfig) and isinstance(img_config, configs.DecoderConfig)
    fused: configs.ModelConfig
    if isinstance(command, Uniform):
        fused, params = uniform.fuse(img_config, llm, img)
    elif isinstance(command, Width):
        fused, params = width.fuse(img_config, llm, img, command.init)
    else:
        space, key = tokens.load(img_tokenizer), jax.random.key(command.seed)
        fused, params = cross.fuse(llm_config, img_config, llm, img, space, every=command.every, key=key)
    checkpoint.save_model(command.target, fused, params, tokenizer=img_tokenizer)
    millions = sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6
    print(f"{command.target}: JAM-{type(command).__name__}, {millions:.2f}M parameters")


if __name__ == "__main__":
    configs.run(main)
