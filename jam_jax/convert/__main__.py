"""Weights of other systems in, and out again: `python -m jam_jax.convert import|export --source … --target …`."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jam_jax import config, tokens
from jam_jax.convert.families import Exportable, Importable


@dataclasses.dataclass(frozen=True)
class Import:
    """Turn a PyTorch checkpoint into a model directory that every command here reads."""

    # Directory or file: Hugging Face's, metaseq's *.pt (any one of its pieces names the whole), Meta's Chameleon, or an
    # image tokenizer: a VQGAN of taming-transformers or Meta with its yaml, or Chameleon's inside its checkpoint
    source: str
    target: str  # directory to make; must not exist, or be empty
    # Whose layout it is; auto: by its own files. Of a Chameleon `vqgan` takes the image tokenizer alone
    family: Literal["auto"] | Importable = "auto"
    resolution: int = 0  # pixels a side, for an image tokenizer whose settings are not beside it


@dataclasses.dataclass(frozen=True)
class Export:
    """Turn a model directory into one that `transformers` loads, or an image tokenizer into taming's two files."""

    source: str  # model directory, or a training run's
    target: str  # directory to make; must not exist, or be empty
    family: Exportable = "opt"  # whose layout to write


def import_model(
    source: str | Path, target: str | Path, family: Literal["auto"] | Importable = "auto", resolution: int = 0
) -> None:
    """Convert a checkpoint of another system; a `tokenizer/` of ours beside its weights comes along.

    ValueError in one line for whatever does not fit, before the target exists.
    """
    from jam_jax import checkpoint
    from jam_jax.convert import families, rules, writers

    source, target = Path(source), Path(target)
    writers.check_target(target)
    parent = families.read(source, family, resolution)
    tokenizer = (source if source.is_dir() else source.parent) / "tokenizer"
    kept = tokenizer if (tokenizer / "tokens.json").is_file() else None
    if isinstance(parent.config, config.VqganConfig):
        kept = None  # a tokenizer beside it reads text
    elif resolution:
        raise ValueError(f"--resolution is for image tokenizers, and {source} is none: leave it out")
    elif kept and (rows := tokens.load(kept).vocab_size) != parent.config.vocab_size:
        raise ValueError(f"{kept} is of another model: it has {rows} ids, the embedding {parent.config.vocab_size}")
    params = rules.gather(parent.table, parent.weights, checkpoint.shapes(parent.config), str(source))
    checkpoint.save_model(target, parent.config, params, tokenizer=kept)
    count = sum(leaf.size for leaf in rules.flatten(params).values())
    print(f"{target}  {count:,} parameters from {source}{', with its tokenizer' if kept else ''}")
    if parent.beside:
        print(parent.beside)


def export_model(source: str | Path, target: str | Path, family: Exportable = "opt") -> None:
    """Write a model directory as a checkpoint of another system; its tokenizer comes along as `tokenizer/`.

    ValueError if that system has no such model, or if the target exists and is not empty.
    """
    from jam_jax import checkpoint
    from jam_jax.convert import families, rules, writers
    from jam_jax.convert.families import vqgan

    source, target = Path(source), Path(target)
    writers.check_target(target)
    ours = checkpoint.read_model_config(source)
    if family == "vqgan":
        settings = vqgan.write_config(ours)
        assert isinstance(ours, config.VqganConfig)
        writers.write_taming(target, settings, rules.Exported(vqgan.table(ours), checkpoint.load_model(source)[1]))
        print(f"{target}  {settings['model']['target']}")
        return
    tokenizer = source / "tokenizer"
    kept = checkpoint.tokenizer_dir(source) if tokenizer.is_dir() else None
    writer = families.writer(family)
    theirs = writer.write_config(ours, tokens.load(kept) if kept else None)
    assert isinstance(ours, config.DecoderConfig)
    _, params = checkpoint.load_model(source)
    writers.write_hugging_face(target, theirs, rules.Exported(writer.table(ours), params), tokenizer=kept)
    print(f"{target}  {theirs['architectures'][0]}{', with its tokenizer' if kept else ''}")


def main(args: Sequence[str] | None = None) -> None:
    """The command."""
    options = config.cli(Import | Export, args, prog="python -m jam_jax.convert", description=__doc__)
    start = time.monotonic()
    if isinstance(options, Import):
        import_model(options.source, options.target, options.family, options.resolution)
    else:
        export_model(options.source, options.target, options.family)
    print(f"{time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    config.run(main)
