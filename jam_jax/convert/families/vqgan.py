"""VQGANs (arXiv 2012.09841) of other systems ↔ our image tokenizer: taming-transformers' checkpoints and Chameleon's.

    taming-transformers   a .ckpt with `state_dict`, its yaml beside it or in ../configs; both kinds, nearest and Gumbel
    Meta's Chameleon      vqgan.ckpt and vqgan.yaml: the same
    Hugging Face          model.vqmodel.* of Chameleon and what was trained from it; only exports that kept the decoder

All three have the same names behind their prefix, and ours are those with the numbers drawn in.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jam_jax import checkpoint
from jam_jax.config import ModelConfig, VqganConfig
from jam_jax.convert import pickles
from jam_jax.convert.families import hugging_face, vqgan_settings
from jam_jax.convert.readers import Safetensors, Tensors, Weights, open_weights
from jam_jax.convert.rules import Parent, Rule, Table
from jam_jax.models.model import KINDS
from jam_jax.trees import paths

# Our module → theirs.
MODULES = (
    (r"(down|up)_(\d+)_(block|attn)_(\d+)", r"\1.\2.\3.\4"),
    (r"(down|up)_(\d+)_(downsample|upsample)", r"\1.\2.\3.conv"),
    (r"mid_(block|attn)_(\d+)", r"mid.\1_\2"),
    (r"^proj/", "quantize.proj/"),
    (r"/", "."),
)
# Our leaf → theirs, and the axes: output and input channels, height and width of the kernel.
LEAVES = {
    "kernel": ("weight", "OIYX -> YXIO"),
    "bias": ("bias", "O -> O"),
    "scale": ("weight", "O -> O"),
}
PREFIXES = ("model.vqmodel.", "vqmodel.", "")  # Hugging Face: inside the language model, or alone
# Tensors that checkpoints hold beside the tokenizer, by the beginning of the name.
BESIDE = (
    (r"loss\.", "the training loss (perceptual network and discriminator)"),
    (r"(model\.)?(language_model\.)?(embed_tokens|layers|norm)\.|lm_head\.", "the language model"),
)
ENDINGS = (".ckpt", ".pt", ".pth", ".safetensors")


def recognises(source: Path) -> bool:
    """Whether `source` is an image tokenizer and nothing more (Chameleon's directory is a language model first)."""
    if _is_chameleon(source):
        return hugging_face.is_family(source, "chameleon_vqgan")
    return any(_holds_vqgan(path) for path in _files(source))


def read(source: Path, resolution: int = 0) -> Parent:
    """The image tokenizer in a checkpoint; `resolution` is needed where no settings lie beside it.

    ValueError if the settings ask for what we do not compute (named), or if there is no decoder.
    """
    config, weights = _read_chameleon(source) if _is_chameleon(source) else _read_taming(source, resolution)
    if resolution and resolution != config.resolution:
        raise ValueError(f"{source} is for pictures of {config.resolution} by its settings, not {resolution} pixels")
    names = weights.names()
    prefix = next((p for p in PREFIXES if any(n.startswith(p + "encoder.") for n in names)), None)
    if prefix is None:
        raise ValueError(f"{source} holds no image tokenizer: it has no weights of an encoder")
    if not any(n.startswith(prefix + "decoder.") for n in names):
        raise ValueError(
            f"{source} holds the encoder of an image tokenizer without its decoder, as transformers saves Chameleon: "
            "it could read pictures and draw none; import Meta's vqgan.ckpt with its vqgan.yaml, or an export that "
            "kept the decoder"
        )
    beside = {n: what for n in names for pattern, what in BESIDE if re.match(pattern, n)}
    counts = ", ".join(f"{count} tensors of {what}" for what, count in Counter(beside.values()).items())
    note = f"left out, being no part of the tokenizer: {counts}" if counts else ""
    return Parent(config, table(config, prefix, tuple(beside)), weights, note)


def _read_chameleon(source: Path) -> tuple[VqganConfig, Weights]:
    config = vqgan_settings.read_chameleon(hugging_face.read_config(source), hugging_face.config_path(source))
    return config, open_weights(source)


def _read_taming(source: Path, resolution: int) -> tuple[VqganConfig, Weights]:
    path = _only_file(source)
    if settings := _settings(path):
        return vqgan_settings.read_yaml(settings), _open(path)
    if resolution < 1:
        raise ValueError(
            f"{path} has no settings beside it ({path.stem}.yaml or model.yaml): give --resolution, the pixels a side "
            "that it was trained on; the other sizes are read from the weights"
        )
    weights = _open(path)
    return vqgan_settings.deduce(weights, resolution, str(path)), weights


def write_config(config: ModelConfig) -> dict[str, Any]:
    """taming-transformers' settings for one of ours; ValueError if it is no image tokenizer, or one unknown there."""
    if not isinstance(config, VqganConfig):
        raise ValueError(f"this model is {KINDS[type(config)]}, not an image tokenizer: export it as another family")
    return vqgan_settings.write_yaml(config)


def table(config: VqganConfig, prefix: str = "", beside: tuple[str, ...] = ()) -> Table:
    """The names of a VQGAN's weights; `beside` are those in the same file that are no part of it."""
    rules = []
    for path, leaf in paths(checkpoint.shapes(config)).items():
        if path == "codebook":
            name, layout = vqgan_settings.codebook_name(config.codes_by), "CE -> CE"
        else:
            module, _, last = path.rpartition("/")
            name, layout = LEAVES[last]
            name = f"{module}/{name}"
            for ours, theirs in MODULES:
                name = re.sub(ours, theirs, name)
        # A letter's size differs from one convolution to the next; the shape here knows it.
        sizes = dict(zip(layout.split("-> ")[1], leaf.shape, strict=True))
        rules.append(Rule(prefix + name, layout, path, sizes))
    return Table(tuple(rules), {}, inert=beside)


def _is_chameleon(source: Path) -> bool:
    """Whether this is a checkpoint of Hugging Face's Chameleon, with or without its language model."""
    if source.is_file() and source.suffix not in (".safetensors", ".bin", ".json"):
        return False  # Meta's file may lie in the same directory
    return any(hugging_face.is_family(source, kind) for kind in ("chameleon", "chameleon_vqgan"))


def _files(source: Path) -> list[Path]:
    """The files that may hold a VQGAN: `source`, or those in it or in its `checkpoints`, where taming writes them."""
    if source.is_file():
        return [source] if source.suffix in ENDINGS else []
    folders = [f for f in (source, source / "checkpoints") if f.is_dir()]
    return sorted(p for folder in folders for p in folder.iterdir() if p.suffix in ENDINGS and p.is_file())


def _only_file(source: Path) -> Path:
    paths = _files(source)
    if not paths:
        raise ValueError(f"{source} holds no image tokenizer: expected a file that ends in {', '.join(ENDINGS)}")
    if len(paths) > 1:
        raise ValueError(f"{source} holds several files ({', '.join(p.name for p in paths[:5])}): give --source one")
    return paths[0]


def _state(path: Path) -> Any:
    """What a pickle holds; PyTorch Lightning's have the weights under `state_dict`, beside the training's state."""
    contents = pickles.load(path)
    return contents["state_dict"] if isinstance(contents, Mapping) and "state_dict" in contents else contents


def _open(path: Path) -> Weights:
    return Safetensors(path) if path.suffix == ".safetensors" else Tensors(lambda: _state(path), path)


def _holds_vqgan(path: Path) -> bool:
    """ValueError if the file is damaged."""
    held = Safetensors(path).names() if path.suffix == ".safetensors" else _state(path)
    return isinstance(held, Mapping | list) and {"encoder.conv_in.weight", "quant_conv.weight"} <= {
        n for n in held if isinstance(n, str)
    }


def _settings(path: Path) -> Path | None:
    """The yaml of a checkpoint: beside it, or in `../configs`, where taming writes it."""
    for folder in (path.parent, path.parent.parent / "configs"):
        named = [folder / f"{path.stem}.yaml", folder / "model.yaml", folder / "config.yaml"]
        if found := next((p for p in [*named, *sorted(folder.glob("*-project.yaml"))] if p.is_file()), None):
            return found
    return None
