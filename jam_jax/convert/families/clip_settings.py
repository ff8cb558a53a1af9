"""What a published CLIP's settings say of it, as our ClipConfig: its config.json, or the shapes of OpenAI's tensors.

Every attribute that would change the computation is one of those read here, or has the one value that we compute, or
is refused by its name.
"""

import math
import re
from pathlib import Path
from typing import Any

from jam_jax.config import ModelConfig
from jam_jax.convert.families import hugging_face
from jam_jax.convert.readers import Weights
from jam_jax.model_config import ClipConfig, TowerConfig
from jam_jax.models.clip import LOGIT_SCALE
from jam_jax.models.model import KINDS

# Of each tower in config.json, with the values of what a file leaves out.
TEXT = {
    **{"vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12},
    **{"num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "eos_token_id": 49407,
}
IMAGE = {
    **{"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    **{"image_size": 224, "patch_size": 32, "num_channels": 3, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
}
TOWER = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
WHOLE = ("projection_dim", "text_config", "vision_config", "text_config_dict", "vision_config_dict")
# Of starting and training a model, of encoders alone (their projection), and of generation, which CLIP has none of.
HARMLESS = (
    *("initializer_factor", "logit_scale_init_value", "attention_dropout", "dropout", "projection_dim"),
    *("tie_word_embeddings", "diversity_penalty", "length_penalty", "repetition_penalty", "typical_p"),
    *("num_beams", "num_beam_groups", "num_return_sequences"),
)
# transformers reads this id as "at the highest id", since its first CLIPs carried it by mistake.
HIGHEST = 2

# preprocessor_config.json: what is computed, and what lies in the config.
STEPS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize"), (True,)),
    "resample": (3,),  # bicubic
    "rescale_factor": (1 / 255,),
}
HEAD_SIZE = 64  # of every CLIP of OpenAI; the tensors do not tell


def read_config(values: dict[str, Any], path: Path) -> ClipConfig:
    """The config in a config.json, with the colours' mean and std of the preprocessor_config.json beside it."""
    if values.get("model_type") != "clip":
        raise ValueError(f"{path} is no CLIP: its model_type is {values.get('model_type')!r}")
    hugging_face.refuse_unknown(values, (*WHOLE, *HARMLESS), path)
    text, image = _inner(values, "text_config", TEXT, path), _inner(values, "vision_config", IMAGE, path)
    hugging_face.refuse_others(image, {"num_channels": (3,)}, path)
    vocab, context = hugging_face.numbers(text, ("vocab_size", "max_position_embeddings"), path)
    resolution, patch = hugging_face.numbers(image, ("image_size", "patch_size"), path)
    (width,) = hugging_face.numbers({"projection_dim": 512} | values, ("projection_dim",), path)
    end = text["eos_token_id"]
    if type(end) is not int:
        raise ValueError(f"{path}: eos_token_id should be one whole number, got {end!r}")
    colours = _read_colours(path.with_name("preprocessor_config.json"), resolution)
    return _make(
        str(path),
        text=_tower(text, path),
        image=_tower(image, path),
        vocab_size=vocab,
        context=context,
        end_of_text=None if end == HIGHEST else end,
        resolution=resolution,
        patch=patch,
        embed_width=width,
        **colours,
    )


def _inner(values: dict[str, Any], name: str, defaults: dict[str, Any], path: Path) -> dict[str, Any]:
    """One tower's attributes; where a file has them twice, transformers takes those of `…_dict`, with the defaults."""
    twice = values.get(name + "_dict")
    inner = twice if twice is not None else values.get(name) or {}
    if not isinstance(inner, dict):
        raise ValueError(f"{path}: {name} should be an object of attributes, got {inner!r}")
    hugging_face.refuse_unknown(inner, (*defaults, *HARMLESS), path)
    return {**defaults, **{k: v for k, v in inner.items() if v is not None}}


def _tower(values: dict[str, Any], path: Path) -> TowerConfig:
    hugging_face.refuse_others(values, {"hidden_act": ("quick_gelu", "gelu")}, path)
    layers, width, heads, ffn = hugging_face.numbers(values, TOWER, path)
    eps = hugging_face.positive(values, "layer_norm_eps", path)
    if width % heads:
        raise ValueError(f"{path}: hidden_size ({width}) does not divide by num_attention_heads ({heads})")
    return TowerConfig(layers, width, heads, ffn, activation=values["hidden_act"], norm_eps=eps)


def _read_colours(path: Path, resolution: int) -> dict[str, Any]:
    """mean and std of a preprocessor_config.json; ValueError if it makes pictures in another way than CLIP's own."""
    if not path.is_file():
        return {}
    values = hugging_face.read_object(path)
    hugging_face.refuse_others(values, STEPS, path)
    sides = {"size": (resolution, {"shortest_edge": resolution})}
    sides["crop_size"] = (resolution, {"height": resolution, "width": resolution})
    hugging_face.refuse_others(values, sides, path)
    found = {}
    for theirs, ours in (("image_mean", "mean"), ("image_std", "std")):
        numbers = values.get(theirs)
        if numbers is None:
            continue
        if not isinstance(numbers, list) or len(numbers) != 3 or any(type(n) not in (int, float) for n in numbers):
            raise ValueError(f"{path}: {theirs} should be three numbers, got {numbers!r}")
        found[ours] = tuple(float(n) for n in numbers)
    return found


def deduce(weights: Weights, what: str) -> ClipConfig:
    """The config that the shapes of OpenAI's tensors tell; ValueError if they are not those of a CLIP with a ViT."""
    names = set(weights.names())

    def sizes(name: str, rank: int) -> tuple[int, ...]:
        if name not in names or len(weights.shape(name)) != rank:
            raise ValueError(f"{what} is no CLIP of OpenAI's: it has no {name} of {rank} axes")
        return weights.shape(name)

    def tower(prefix: str, width: int) -> TowerConfig:
        layers = len({m[1] for n in names if (m := re.match(rf"{re.escape(prefix)}(\d+)\.", n))})
        (ffn,) = sizes(f"{prefix}0.mlp.c_fc.bias", 1)
        if not width or width % HEAD_SIZE:
            raise ValueError(f"{what}: a width of {width} does not divide into heads of {HEAD_SIZE}, as OpenAI's do")
        if not ffn:
            raise ValueError(f"{what} is no CLIP of OpenAI's: {prefix}0.mlp.c_fc.bias is empty")
        return TowerConfig(layers, width, width // HEAD_SIZE, ffn)

    if any(n.startswith("visual.layer1.") for n in names):
        raise ValueError(f"{what} reads pictures by a ResNet, which cannot be imported: take one of OpenAI's ViT-*.pt")
    (vocab, text_width), (context, _) = sizes("token_embedding.weight", 2), sizes("positional_embedding", 2)
    (image_width, _, _, patch), (positions, _) = (
        sizes("visual.conv1.weight", 4),
        sizes("visual.positional_embedding", 2),
    )
    grid = math.isqrt(max(positions - 1, 0))
    if grid**2 + 1 != positions:
        raise ValueError(f"{what}: visual.positional_embedding has {positions} rows, not one more than a square number")
    return _make(
        what,
        text=tower("transformer.resblocks.", text_width),
        image=tower("visual.transformer.resblocks.", image_width),
        vocab_size=vocab,
        context=context,
        resolution=grid * patch,
        patch=patch,
        embed_width=sizes("text_projection", 2)[1],
    )


def _make(what: str, **fields: Any) -> ClipConfig:
    try:
        return ClipConfig(**fields)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error


def write_config(config: ModelConfig) -> dict[str, Any]:
    """transformers' config.json for one of ours; ValueError if it is no CLIP, or one that cannot be said there."""
    if not isinstance(config, ClipConfig):
        raise ValueError(f"this model is {KINDS[type(config)]}, not a CLIP: export it as another family")
    if config.end_of_text == HIGHEST:
        raise ValueError(
            f"this CLIP reads texts off at id {HIGHEST} (end_of_text), which transformers takes for the highest id: "
            "it has no export"
        )
    text = _write_tower(config.text) | {
        "model_type": "clip_text_model",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context,
        "projection_dim": config.embed_width,
        "eos_token_id": HIGHEST if config.end_of_text is None else config.end_of_text,
    }
    image = _write_tower(config.image) | {
        "model_type": "clip_vision_model",
        "image_size": config.resolution,
        "patch_size": config.patch,
        "num_channels": 3,
        "projection_dim": config.embed_width,
    }
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.embed_width,
        "logit_scale_init_value": LOGIT_SCALE,
        "text_config": text,
        "vision_config": image,
    }


def _write_tower(tower: TowerConfig) -> dict[str, Any]:
    values = zip(TOWER, (tower.layers, tower.width, tower.heads, tower.ffn_width), strict=True)
    extra = {"hidden_act": tower.activation, "layer_norm_eps": tower.norm_eps, "attention_dropout": 0.0}
    return dict(values) | extra


def write_preprocessor(config: ClipConfig) -> dict[str, Any]:
    """transformers' preprocessor_config.json for what `data.clip_pictures` does."""
    side = config.resolution
    return {name: allowed[0] for name, allowed in STEPS.items()} | {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
        "image_mean": list(config.mean),
        "image_std": list(config.std),
    }
