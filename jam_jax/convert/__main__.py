"""Weights of other systems in, and out again: `python -m jam_jax.convert import|export --source … --target …`."""

import dataclasses
import time
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jam_jax import config, hosts, machine, tokens
from jam_jax.convert.families import Exportable, Importable
from jam_jax.convert.vocabulary import Grammars
from jam_jax.trees import paths

if TYPE_CHECKING:
    from jam_jax.convert import rules


@dataclasses.dataclass(frozen=True)
class Import:
    """Turn a PyTorch checkpoint into a model directory that every command here reads."""

    # Directory or file: Hugging Face's, metaseq's *.pt (any one of its pieces names the whole), Meta's Chameleon, CLIP
    # (Hugging Face's or OpenAI's ViT-*.pt), pytorch-fid's pt_inception-*.pth, or an image tokenizer: a VQGAN of
    # taming-transformers or Meta with its yaml, or Chameleon's inside its checkpoint
    source: str
    target: str  # directory to make; must not exist, or be empty
    # Whose layout it is; auto: by its own files. lumina: Lumina-mGPT or Anole, which have Chameleon's; of all three
    # `vqgan` takes the image tokenizer alone
    family: Literal["auto"] | Importable = "auto"
    resolution: int = 0  # pixels a side, for an image tokenizer whose settings are not beside it
    tokenizer: str = ""  # directory of the model's tokenizer, if it is not beside the weights; none: leave it behind
    # Whose documents the tokenizer writes; auto: by its tokens. Both parents of a fusion need the same
    grammar: Literal["auto"] | Grammars = "auto"


@dataclasses.dataclass(frozen=True)
class Export:
    """Turn a model directory into one that `transformers` loads, metaseq's file, or an image tokenizer's two files."""

    source: str  # model directory, or a training run's
    target: str  # directory to make; must not exist, or be empty
    family: Exportable = "opt"  # whose layout to write
    # Model directory of the image tokenizer (import --family vqgan) that goes into an export of chameleon; empty: the
    # one in the model's tokenizer, if there is one; none: leave it out, as transformers forbids image codes in the
    # output of a model that reads pictures
    image_tokenizer: str = ""


def import_model(
    source: str | Path,
    target: str | Path,
    family: Literal["auto"] | Importable = "auto",
    resolution: int = 0,
    tokenizer: str = "",
    grammar: Literal["auto"] | Grammars = "auto",
) -> None:
    """Convert a checkpoint of another system; the tokenizer beside its weights, ours or another's, comes along.

    ValueError in one line for whatever does not fit, before the target exists. Values that are no numbers are kept,
    as a conversion changes none, and warned of: a model with them answers nothing.
    """
    from jam_jax import checkpoint
    from jam_jax.convert import families, readers, rules

    source, target = Path(source), Path(target)
    checkpoint.check_vacant(target)
    parent = families.read(source, family, resolution)
    language = isinstance(parent.config, config.DecoderConfig | config.CrossConfig)
    if not language and (tokenizer or grammar != "auto"):
        raise ValueError(f"--tokenizer and --grammar are for language models, and {source} is none: leave them out")
    if resolution and not isinstance(parent.config, config.VqganConfig):
        raise ValueError(f"--resolution is for image tokenizers, and {source} is none: leave it out")
    weights = readers.Watched(parent.weights)
    with _tokenizer(parent.config, source, tokenizer, grammar) as (kept, about):
        leaves = rules.leaves(parent.table, weights, checkpoint.shapes(parent.config), str(source))
        checkpoint.save_leaves(target, parent.config, leaves, tokenizer=kept, task="convert")
    count = sum(leaf.size for leaf in paths(leaves).values())
    print(f"{target}  {count:,} parameters from {source}{about}")
    if parent.beside:
        print(parent.beside)
    if odd := weights.not_finite:
        such = f"{', '.join(odd[:3])}{f' and {len(odd) - 3} more' if len(odd) > 3 else ''}"
        warnings.warn(f"{source} holds infinities or what is not a number, imported as they are: {such}", stacklevel=2)


def _tokenizer(
    model: config.ModelConfig, source: Path, tokenizer: str, grammar: str
) -> AbstractContextManager[tuple[Path | None, str]]:
    """The tokenizer that comes along with a model, and a word about it."""
    from jam_jax.data import clip_text, vocabulary

    if isinstance(model, config.VqganConfig | config.InceptionConfig):  # one beside it reads text
        return nullcontext((None, ""))
    if isinstance(model, config.ClipConfig):
        return clip_text.of_checkpoint(source, model)
    return vocabulary.of_checkpoint(source, tokenizer, grammar, model.vocab_size)


def export_model(
    source: str | Path, target: str | Path, family: Exportable = "opt", image_tokenizer: str | Path = ""
) -> None:
    """Write a model directory as a checkpoint of another system; its tokenizer comes along.

    One that came from another system lies where transformers finds it, one made here in `tokenizer/`. Chameleon's
    image tokenizer goes into the same files (`Export.image_tokenizer`).

    ValueError if that system has no such model, or if the target exists and is not empty.
    """
    from jam_jax import checkpoint
    from jam_jax.convert import families, readers, rules, writers
    from jam_jax.convert.families import clip, clip_settings, metaseq, vqgan

    source, target = Path(source), Path(target)
    checkpoint.check_vacant(target)
    if image_tokenizer and family != "chameleon":
        raise ValueError(f"--image-tokenizer is for --family chameleon, and {family} has no place for it: leave it out")
    ours = checkpoint.read_model_config(source)
    if family == "vqgan":
        settings = vqgan.write_config(ours)
        assert isinstance(ours, config.VqganConfig)
        writers.write_taming(target, settings, rules.Exported(vqgan.table(ours), checkpoint.open_leaves(source)[1]))
        print(f"{target}  {settings['model']['target']}")
        return
    if family == "clip":
        theirs = clip_settings.write_config(ours)
        assert isinstance(ours, config.ClipConfig)
        weights = rules.Exported(clip.table(ours), checkpoint.open_leaves(source)[1])
        writers.write_clip(target, theirs, clip_settings.write_preprocessor(ours), weights, source / "tokenizer")
        print(f"{target}  {theirs['architectures'][0]}")
        return
    tokenizer = source / "tokenizer"
    kept = checkpoint.tokenizer_dir(source) if tokenizer.is_dir() else None
    if family == "metaseq":
        settings = metaseq.write_settings(ours)
        assert isinstance(ours, config.DecoderConfig | config.CrossConfig)
        table = metaseq.table(ours)
        weights = rules.Exported(table, checkpoint.open_leaves(source)[1])
        writers.write_metaseq(target, settings, weights, table.copies, tokenizer=kept)
        print(f"{target}  {settings['arch']}{', with its tokenizer' if kept else ''}")
        return
    writer = families.writer(family)
    theirs = writer.write_config(ours, tokens.load(kept) if kept else None)
    assert isinstance(ours, config.DecoderConfig)
    files = [rules.Exported(writer.table(ours), checkpoint.open_leaves(source)[1])]
    about = ", with its tokenizer" if kept else ""
    images = _image_tokenizer(kept, str(image_tokenizer)) if family == "chameleon" else None
    if images:
        changes, weights = _reading_pictures(images, kept)
        theirs |= changes | {"torch_dtype": writers.type_of(files[0])}  # most of the weights are the language model's
        files.append(weights)
        about += f", with the image tokenizer {images}"
    writers.write_hugging_face(target, theirs, readers.Files(files), tokenizer=kept)
    print(f"{target}  {theirs['architectures'][0]}{about}")
    if images:
        print(
            "transformers reads pictures with it and forbids its codes in what the model writes; the tensors of its "
            "decoder, for which transformers has no use, are listed there as unexpected"
        )
    elif family == "chameleon" and image_tokenizer != "none":
        print(
            "no image tokenizer: transformers fills in a random one, and what it reads in a picture means nothing; "
            "--image-tokenizer DIR writes one (import --family vqgan)"
        )


def _image_tokenizer(kept: Path | None, named: str) -> Path | None:
    """The image tokenizer that goes into an export: the one named, or the one in the model's tokenizer."""
    if named:
        return Path(named) if named != "none" else None
    return kept / "image" if kept and (kept / "image").is_dir() else None


def _reading_pictures(images: Path, kept: Path | None) -> tuple[dict[str, Any], "rules.Exported"]:
    """What config.json says of an image tokenizer inside a Chameleon with the tokenizer `kept`, and its weights."""
    from jam_jax import checkpoint
    from jam_jax.convert.families import chameleon_pictures
    from jam_jax.data import tokenizers

    if kept is None:
        raise ValueError(
            f"the model has no tokenizer that says which ids the codes of {images} have: import it with --tokenizer"
        )
    ours = checkpoint.read_model_config(images)
    settings = chameleon_pictures.write_config(ours, tokens.load(kept), str(images))
    assert isinstance(ours, config.VqganConfig)
    weights = chameleon_pictures.weights(ours, checkpoint.open_leaves(images)[1])
    return {"vq_config": settings, "vocabulary_map": tokenizers.vocabulary_map(kept)}, weights


def main(args: Sequence[str] | None = None) -> None:
    """The command."""
    options = config.cli(Import | Export, args, prog="python -m jam_jax.convert", description=__doc__)
    start = time.monotonic()
    machine.share_freed_memory()
    hosts.start()
    if isinstance(options, Import):
        import_model(
            options.source, options.target, options.family, options.resolution, options.tokenizer, options.grammar
        )
    else:
        export_model(options.source, options.target, options.family, options.image_tokenizer)
    print(f"{time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    config.run(main)
