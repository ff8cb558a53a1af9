"""One file per kind of checkpoints: what its settings mean, and the table of its weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from jam_jax.config import DecoderConfig, ModelConfig
    from jam_jax.convert.rules import Parent, Table
    from jam_jax.tokens import TokenSpace

Decoders = Literal["opt", "llama", "qwen2", "gemma", "emu3", "chameleon"]  # of language models, in and out
Exportable = Literal[Decoders, "metaseq", "vqgan", "clip"]
Importable = Literal[Exportable, "lumina", "inception"]


class Reader(Protocol):
    """A layout that can be imported."""

    def recognises(self, source: Path, /) -> bool:
        """Whether `source` is in this layout; ValueError if it is, and is damaged."""

    def read(self, source: Path, /) -> "Parent":
        """The model; ValueError if it is another computation than ours, or damaged."""


class Writer(Protocol):
    """A layout that can be exported."""

    def write_config(self, config: "ModelConfig", space: "TokenSpace | None", /) -> dict[str, Any]:
        """Their config.json for one of ours; ValueError lists what they do not have."""

    def table(self, config: "DecoderConfig", /) -> "Table":
        """The names of the weights in an export."""


def read(source: Path, family: Literal["auto"] | Importable = "auto", resolution: int = 0) -> "Parent":
    """The model that `source` (a directory or a file) holds, in the family named or the one that recognises it.

    `resolution` is of an image tokenizer whose settings do not say it (pixels a side).
    ValueError if there is nothing, nothing known, or if the weights are not exactly those of the settings.
    """
    from jam_jax.convert import rules

    if not source.exists():
        raise ValueError(f"there is no checkpoint {source}")
    parent = _read(source, family, resolution)
    rules.check(parent.table, parent.weights, str(source))
    return parent


def _read(source: Path, family: Literal["auto"] | Importable, resolution: int) -> "Parent":
    from jam_jax.convert.families import chameleon_meta, clip, hugging_face, inception, metaseq, vqgan
    from jam_jax.convert.readers import shown

    if family == "vqgan":
        return vqgan.read(source, resolution)
    known: dict[str, tuple[Reader, ...]] = {name: (layout,) for name, layout in _writers().items()}
    # CLIP before metaseq, which would take its TorchScript archives for damaged files.
    known |= {"chameleon": (*known["chameleon"], chameleon_meta), "clip": (clip,), "metaseq": (metaseq,)}
    known |= {"inception": (inception,)}
    if family == "lumina":  # Lumina-mGPT and Anole are Chameleon's decoder, trained on
        family = "chameleon"
    candidates = known[family] if family != "auto" else [reader for readers in known.values() for reader in readers]
    for reader in candidates:
        if reader.recognises(source):
            return reader.read(source)
    if family != "auto":
        return candidates[0].read(source)  # says what is missing
    if vqgan.recognises(source):  # last: it looks into every file of a directory
        return vqgan.read(source, resolution)
    kind = hugging_face.read_config(source).get("model_type") if hugging_face.config_path(source).is_file() else None
    such = f" (model_type {shown(kind)})" if kind else ""
    raise ValueError(
        f"{source} is no checkpoint that is known here{such}: expected Hugging Face's config.json with model_type opt, "
        "llama, qwen2, gemma, emu3, chameleon or clip, metaseq's *.pt (with `model` and `cfg`), Meta's Chameleon "
        "(params.json), OpenAI's ViT-*.pt of CLIP, pytorch-fid's pt_inception-*.pth, or a VQGAN's *.ckpt (with "
        "`state_dict`)"
    )


def writer(family: Decoders) -> Writer:
    """The layout of a family of language models."""
    return _writers()[family]


def _writers() -> dict[str, Any]:
    from jam_jax.convert.families import decoders, opt

    return {
        "opt": opt,
        "llama": decoders.LLAMA,
        "qwen2": decoders.QWEN2,
        "gemma": decoders.GEMMA,
        "emu3": decoders.EMU3,
        "chameleon": decoders.CHAMELEON,
    }
