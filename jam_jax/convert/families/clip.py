"""CLIP (arXiv 2103.00020) of other systems ↔ our two towers: where its weights lie, under either of their names.

Hugging Face   config.json with model_type "clip", and weights in any of its forms; also the layout of an export
OpenAI         ViT-*.pt, a TorchScript archive of which the tensors alone are read, or a state dict of its names
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jam_jax.convert import pickles, torchscript
from jam_jax.convert.families import clip_settings, hugging_face, opt
from jam_jax.convert.readers import Safetensors, Tensors, Weights, open_weights
from jam_jax.convert.rules import Parent, Rule, Table, nested
from jam_jax.model_config import ClipConfig, TowerConfig

Rows = tuple[tuple[str, str, str], ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """One system's names: of each tower, of its blocks (after the beginnings given), and of the norms in a block."""

    text: Rows
    text_block: str
    image: Rows
    image_block: str
    block: Rows
    attn_norm: str
    ffn_norm: str


HUGGING_FACE = Layout(
    text=(
        ("text_model.embeddings.token_embedding.weight", "VD -> VD", "embed/tokens"),
        ("text_model.embeddings.position_embedding.weight", "PD -> PD", "embed/positions"),
        ("text_model.final_layer_norm.weight", "D -> D", "final_norm/scale"),
        ("text_model.final_layer_norm.bias", "D -> D", "final_norm/bias"),
        ("text_projection.weight", "ED -> DE", "project"),
    ),
    text_block="text_model.encoder.layers.{L}.",
    image=(
        ("vision_model.embeddings.patch_embedding.weight", "DCYX -> (YXC)D", "embed/patches"),
        ("vision_model.embeddings.class_embedding", "D -> D", "embed/class_token"),
        ("vision_model.embeddings.position_embedding.weight", "PD -> PD", "embed/positions"),
        ("vision_model.pre_layrnorm.weight", "D -> D", "embed_norm/scale"),
        ("vision_model.pre_layrnorm.bias", "D -> D", "embed_norm/bias"),
        ("vision_model.post_layernorm.weight", "D -> D", "final_norm/scale"),
        ("vision_model.post_layernorm.bias", "D -> D", "final_norm/bias"),
        ("visual_projection.weight", "ED -> DE", "project"),
    ),
    image_block="vision_model.encoder.layers.{M}.",
    block=(
        *opt.SPLIT,
        *opt.SPLIT_BIAS,
        ("self_attn.out_proj.weight", "D(NH) -> NHD", "attn/o"),
        ("self_attn.out_proj.bias", "D -> D", "attn/o_bias"),
        ("mlp.fc1.weight", "FD -> DF", "ffn/up"),
        ("mlp.fc1.bias", "F -> F", "ffn/up_bias"),
        ("mlp.fc2.weight", "DF -> FD", "ffn/down"),
        ("mlp.fc2.bias", "D -> D", "ffn/down_bias"),
    ),
    attn_norm="layer_norm1.",
    ffn_norm="layer_norm2.",
)
OPENAI = Layout(
    text=(
        ("token_embedding.weight", "VD -> VD", "embed/tokens"),
        ("positional_embedding", "PD -> PD", "embed/positions"),
        ("ln_final.weight", "D -> D", "final_norm/scale"),
        ("ln_final.bias", "D -> D", "final_norm/bias"),
        ("text_projection", "DE -> DE", "project"),
    ),
    text_block="transformer.resblocks.{L}.",
    image=(
        ("visual.conv1.weight", "DCYX -> (YXC)D", "embed/patches"),
        ("visual.class_embedding", "D -> D", "embed/class_token"),
        ("visual.positional_embedding", "PD -> PD", "embed/positions"),
        ("visual.ln_pre.weight", "D -> D", "embed_norm/scale"),
        ("visual.ln_pre.bias", "D -> D", "embed_norm/bias"),
        ("visual.ln_post.weight", "D -> D", "final_norm/scale"),
        ("visual.ln_post.bias", "D -> D", "final_norm/bias"),
        ("visual.proj", "DE -> DE", "project"),
    ),
    image_block="visual.transformer.resblocks.{M}.",
    block=(
        ("attn.in_proj_weight", "(NH)D -> DNH", "attn/q attn/k attn/v"),
        ("attn.in_proj_bias", "(NH) -> NH", "attn/q_bias attn/k_bias attn/v_bias"),
        ("attn.out_proj.weight", "D(NH) -> NHD", "attn/o"),
        ("attn.out_proj.bias", "D -> D", "attn/o_bias"),
        ("mlp.c_fc.weight", "FD -> DF", "ffn/up"),
        ("mlp.c_fc.bias", "F -> F", "ffn/up_bias"),
        ("mlp.c_proj.weight", "DF -> FD", "ffn/down"),
        ("mlp.c_proj.bias", "D -> D", "ffn/down_bias"),
    ),
    attn_norm="ln_1.",
    ffn_norm="ln_2.",
)
# What files hold beside the weights: numbers of positions, the causal mask, and sizes that the weights tell.
INERT = ("position_ids", "attn_mask")
SIZES = ("input_resolution", "context_length", "vocab_size")


def recognises(source: Path) -> bool:
    """Whether `source` is a CLIP of Hugging Face or of OpenAI; ValueError if a file is damaged."""
    if _has_config(source):
        return hugging_face.is_family(source, "clip")
    paths = _files(source)
    return any(torchscript.is_archive(p) for p in paths) or (len(paths) == 1 and _holds_clip(paths[0]))


def read(source: Path) -> Parent:
    """The model in a checkpoint: a directory, or the file with its weights.

    ValueError if the settings ask for what we do not compute (named), or if the weights are damaged.
    """
    if _has_config(source):
        config = clip_settings.read_config(hugging_face.read_config(source), hugging_face.config_path(source))
        weights = open_weights(source)
        layout = HUGGING_FACE
    else:
        path = _only_file(source)
        if path.name.startswith("open_clip") or (path.parent / "open_clip_config.json").is_file():
            raise ValueError(
                f"{path} is OpenCLIP's, whose models differ in activation and in the size of heads, which weights do "
                "not tell: import the same model in Hugging Face's layout (config.json with model_type clip)"
            )
        weights = _open(path)
        config = clip_settings.deduce(weights, str(path))
        layout = OPENAI
    inert = tuple(n for n in weights.names() if n.endswith(INERT) or n in SIZES)
    return Parent(config, table(config, layout, inert), weights)


def table(config: ClipConfig, layout: Layout = HUGGING_FACE, inert: tuple[str, ...] = ()) -> Table:
    """The names of CLIP's weights, as an export has them or as OpenAI has."""
    c = config
    towers = (
        ("text/", c.text, layout.text, layout.text_block, c.context),
        ("image/", c.image, layout.image, layout.image_block, c.grid**2 + 1),
    )
    rules = [Rule("logit_scale", "->", "logit_scale")]
    for path, tower, rows, source, positions in towers:
        layers = f"{path}layers/"
        found = (
            *nested("", path, rows),
            *nested(source, layers, layout.block),
            *nested(source + layout.attn_norm, layers + "attn_norm/", opt.NORM),
            *nested(source + layout.ffn_norm, layers + "ffn_norm/", opt.NORM),
        )
        # The towers' letters have different values.
        rules += [dataclasses.replace(rule, sizes=_sizes(tower, positions)) for rule in found]
    sizes = {"V": c.vocab_size, "E": c.embed_width, "C": 3, "Y": c.patch, "X": c.patch}
    return Table(tuple(rules), sizes | {"L": c.text.layers, "M": c.image.layers}, inert=inert)


def _sizes(tower: TowerConfig, positions: int) -> dict[str, int]:
    heads = {"N": tower.heads, "K": tower.heads, "H": tower.width // tower.heads}
    return {"D": tower.width, "F": tower.ffn_width, "P": positions} | heads


def _has_config(source: Path) -> bool:
    """Whether settings of Hugging Face's belong to this; OpenAI's file may lie in the same directory."""
    return source.suffix != ".pt" and hugging_face.config_path(source).is_file()


def _files(source: Path) -> list[Path]:
    """The files that may be OpenAI's: `source`, or those in it."""
    paths = sorted(source.iterdir()) if source.is_dir() else [source]
    return [p for p in paths if p.suffix == ".pt" and p.is_file()]


def _only_file(source: Path) -> Path:
    if source.is_file():
        return source
    paths = _files(source)
    if len(paths) != 1:
        what = f"several files ({', '.join(p.name for p in paths[:5])}): give --source one" if paths else "no CLIP"
        raise ValueError(f"{source} holds {what}; expected Hugging Face's config.json or one ViT-*.pt of OpenAI")
    return paths[0]


def _open(path: Path) -> Weights:
    if torchscript.is_archive(path):
        return torchscript.Archive(path)
    return Safetensors(path) if path.suffix == ".safetensors" else Tensors(lambda: _state(path), path)


def _state(path: Path) -> Any:
    """What a pickle holds; trainers put the weights under `state_dict`, beside their own state."""
    contents = pickles.load(path)
    return contents["state_dict"] if isinstance(contents, Mapping) and "state_dict" in contents else contents


def _holds_clip(path: Path) -> bool:
    state = _state(path)
    return isinstance(state, Mapping) and {"visual.conv1.weight", "token_embedding.weight"} <= state.keys()
