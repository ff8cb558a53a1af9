"""JAM-Cross: both parents whole, with new cross-attention blocks between them (arXiv 2309.15564, section 2.2.3)."""

import dataclasses

import jax
import jax.numpy as jnp

from jam_jax.config import CrossConfig, DecoderConfig
from jam_jax.models import cross
from jam_jax.models.model import RUN_TIME
from jam_jax.tokens import TEXT, TokenSpace


def fuse(
    llm_config: DecoderConfig,
    img_config: DecoderConfig,
    llm: dict,
    img: dict,
    space: TokenSpace,
    *,
    every: int = 2,
    key: jax.Array,
) -> tuple[CrossConfig, dict]:
    """Two parents → the joint model. Text rows of the embedding come from the LLM, all others from the image parent.

    The paper is silent on the rest; ours: positions, special tokens and the final norm come from the image parent,
    whose documents hold both modalities. The new cross blocks start as the identity, the projection at random.
    """
    # The towers run alike, whatever their parents' directories say of it.
    llm_config = dataclasses.replace(llm_config, **{name: getattr(img_config, name) for name in RUN_TIME})
    config = CrossConfig(llm_config, img_config, every)
    is_text = jnp.asarray(space.modality == TEXT)[:, None]
    embed = dict(img["embed"], tokens=jnp.where(is_text, llm["embed"]["tokens"], img["embed"]["tokens"]))
    params = {
        "embed": embed,
        "llm": {"layers": llm["layers"]},
        "img": {"layers": img["layers"]},
        "cross": cross.init_cross(jax.random.fold_in(key, 0), config),
        "project": cross.init_project(jax.random.fold_in(key, 1), config),
        "final_norm": img["final_norm"],
    }
    if not img_config.tied:
        params["unembed"] = jnp.where(is_text, llm["unembed"], img["unembed"])
    return config, params
