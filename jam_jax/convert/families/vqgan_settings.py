"""What a published VQGAN's settings say of it, as our VqganConfig: read from its yaml, its config.json, or its tensors.

Every attribute that would change the computation is one of those read here, or has the one value that we compute, or
is refused by its name.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any, Literal

from jam_jax.config import VqganConfig
from jam_jax.convert.families import hugging_face
from jam_jax.convert.readers import Weights

# Their name → ours. taming-transformers' yaml (`model.params`, with its `ddconfig` opened into it):
TAMING = {
    "resolution": "resolution",
    "ch": "channels",
    "ch_mult": "multipliers",
    "num_res_blocks": "res_blocks",
    "attn_resolutions": "attn_resolutions",
    "z_channels": "z_channels",
    "n_embed": "codes",
    "embed_dim": "code_width",
}
# What changes the computation, and the only value that we compute, which is also the value if it is absent.
TAMING_ONLY: dict[str, Any] = {
    "double_z": False,
    "in_channels": 3,
    "out_ch": 3,
    "attn_type": "vanilla",
    "use_linear_attn": False,
    "resamp_with_conv": True,
    "give_pre_end": False,
    "tanh_out": False,
    "remap": None,
    "colorize_nlabels": None,
}
TAMING_TRAINING = (
    *("lossconfig", "monitor", "ckpt_path", "ignore_keys", "image_key", "dropout", "kl_weight"),
    *("temperature_scheduler_config", "sane_index_shape"),  # the latter: whether codes come as rows or as a grid
)
CLASSES: dict[str, Literal["nearest", "logits"]] = {
    "VQModel": "nearest",
    "VQNoDiscModel": "nearest",
    "GumbelVQ": "logits",
}  # → codes_by

# Hugging Face's Chameleon, `vq_config` of its config.json, with the values of what that leaves out.
CHAMELEON = {
    "resolution": "resolution",
    "base_channels": "channels",
    "channel_multiplier": "multipliers",
    "num_res_blocks": "res_blocks",
    "attn_resolutions": "attn_resolutions",
    "latent_channels": "z_channels",
    "num_embeddings": "codes",
    "embed_dim": "code_width",
}
CHAMELEON_DEFAULTS = {
    **{"resolution": 512, "base_channels": 128, "channel_multiplier": [1, 1, 2, 2, 4], "num_res_blocks": 2},
    **{"attn_resolutions": None, "latent_channels": 256, "num_embeddings": 8192, "embed_dim": 256},
}
CHAMELEON_ONLY = {"double_latent": False, "in_channels": 3, "out_channels": 3, "attn_type": "vanilla"}

GROUPS = 32  # of the group norms; neither system lets it be chosen


def read_yaml(path: Path) -> VqganConfig:
    """The config in a yaml of taming-transformers or of Meta's Chameleon; ValueError names what does not fit."""
    import yaml

    try:
        contents = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {(str(error).splitlines() or [type(error).__name__])[0]}") from error
    model = contents.get("model") if isinstance(contents, dict) else None
    params = model.get("params") if isinstance(model, dict) else None
    parts = params.get("ddconfig") if isinstance(params, dict) else None
    if not (isinstance(model, dict) and isinstance(params, dict) and isinstance(parts, dict)):
        raise ValueError(f"{path} holds no settings of a VQGAN: expected model.params.ddconfig")
    kind = str(model.get("target", "VQModel")).split(".")[-1]
    if kind not in CLASSES:
        raise ValueError(f"{path}: a model of class {kind} cannot be imported, only {', '.join(CLASSES)}")
    values = {k: v for k, v in params.items() if k != "ddconfig"} | parts
    config = _translate(values, TAMING, TAMING_ONLY, TAMING_TRAINING, path)
    return dataclasses.replace(config, codes_by=CLASSES[kind])


def read_chameleon(values: dict[str, Any], path: Path) -> VqganConfig:
    """The config of Chameleon's VQGAN from a config.json, of the whole model or of the VQGAN alone."""
    if values.get("model_type") != "chameleon_vqgan":
        values = values.get("vq_config") or {}
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged: vq_config should be an object of attributes")
    return _translate(CHAMELEON_DEFAULTS | values, CHAMELEON, CHAMELEON_ONLY, ("dropout",), path)


def deduce(weights: Weights, resolution: int, what: str) -> VqganConfig:
    """The config that the shapes of a taming-transformers checkpoint tell; `resolution` they do not.

    ValueError if they are not a VQGAN's.
    """
    names = set(weights.names())

    def size(name: str, rank: int, axis: int = 0) -> int:
        if name not in names or len(weights.shape(name)) != rank:
            raise ValueError(f"{what} is no VQGAN: it has no {name} of {rank} axes")
        return weights.shape(name)[axis]

    def count(pattern: str) -> int:
        return len({m[1] for n in names if (m := re.match(pattern, n))})

    codes_by = "logits" if "quantize.proj.weight" in names else "nearest"
    codebook = codebook_name(codes_by)
    channels, levels = size("encoder.conv_in.weight", 4), count(r"encoder\.down\.(\d+)\.block\.")
    widths = [size(f"encoder.down.{i}.block.0.conv1.weight", 4) for i in range(levels)]
    if not channels or any(w % channels for w in widths):
        raise ValueError(f"{what}: the widths {widths} are no multiples of the first convolution's, {channels}")
    attended = [i for i in range(levels) if f"encoder.down.{i}.attn.0.q.weight" in names]
    return _make(
        {
            "resolution": resolution,
            "channels": channels,
            "multipliers": tuple(w // channels for w in widths),
            "res_blocks": count(r"encoder\.down\.0\.block\.(\d+)\."),
            "attn_resolutions": tuple(resolution >> i for i in attended),
            "z_channels": size("encoder.conv_out.weight", 4),
            "codes": size(codebook, 2),
            "code_width": size(codebook, 2, 1),
            "codes_by": codes_by,
        },
        what,
    )


def codebook_name(codes_by: str) -> str:
    """The codebook's name in taming-transformers, which differs between the kinds."""
    return "quantize.embed.weight" if codes_by == "logits" else "quantize.embedding.weight"


def write_yaml(config: VqganConfig) -> dict[str, Any]:
    """taming-transformers' settings for a config of ours; ValueError for what they cannot say."""
    if config.groups != GROUPS:
        raise ValueError(
            f"this image tokenizer's group norms have groups={config.groups}; the other systems that read VQGANs have "
            f"{GROUPS} and cannot be told otherwise, so it has no export"
        )
    values = {theirs: getattr(config, ours) for theirs, ours in TAMING.items()}
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
    params: dict[str, Any] = {"embed_dim": values.pop("embed_dim"), "n_embed": values.pop("n_embed")}
    gumbel = config.codes_by == "logits"
    if gumbel:  # its class cannot be made without a schedule for its training
        schedule = {"warm_up_steps": 0, "max_decay_steps": 1000001, "lr_start": 0.9, "lr_max": 0.9, "lr_min": 1e-6}
        target = "taming.lr_scheduler.LambdaWarmUpCosineScheduler"
        params["temperature_scheduler_config"] = {"target": target, "params": schedule}
    params["ddconfig"] = {"double_z": False, "in_channels": 3, "out_ch": 3, "dropout": 0.0} | values
    params["lossconfig"] = {"target": "taming.modules.losses.vqperceptual.DummyLoss"}
    return {"model": {"target": f"taming.models.vqgan.{'GumbelVQ' if gumbel else 'VQModel'}", "params": params}}


def write_chameleon(config: VqganConfig, what: str) -> dict[str, Any]:
    """Chameleon's `vq_config` for a config of ours; ValueError, with `what` for its name, for what it cannot say."""
    for name, only in (("codes_by", "nearest"), ("groups", GROUPS)):
        if (value := getattr(config, name)) != only:
            raise ValueError(
                f"{what} has {name}={value!r}, and Chameleon's image tokenizer in transformers has {name}={only!r} "
                "alone: --image-tokenizer none leaves it out"
            )
    values = {theirs: getattr(config, ours) for theirs, ours in CHAMELEON.items()}
    return CHAMELEON_ONLY | {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()} | {"dropout": 0.0}


def _translate(
    values: dict[str, Any], names: dict[str, str], only: dict[str, Any], training: tuple[str, ...], path: Path
) -> VqganConfig:
    for name, value in only.items():
        if values.get(name, value) != value:
            raise ValueError(f"{path}: {name}={values[name]!r} is not supported, only {value!r}")
    hugging_face.refuse_unknown(values, (*names, *only, *training), path)
    found: dict[str, Any] = {}
    for theirs, ours in names.items():
        value = values.get(theirs)
        if ours in ("multipliers", "attn_resolutions"):
            value = tuple(value) if isinstance(value, list | tuple) else () if value is None else value
            if not isinstance(value, tuple) or any(type(v) is not int or v < 1 for v in value):
                raise ValueError(f"{path}: {theirs} should be a list of positive whole numbers, got {value!r}")
        elif type(value) is not int or value < 1:
            raise ValueError(f"{path}: {theirs} should be a positive whole number, got {value!r}")
        found[ours] = value
    return _make(found, str(path))


def _make(fields: dict[str, Any], what: str) -> VqganConfig:
    try:
        return VqganConfig(groups=GROUPS, **fields)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
