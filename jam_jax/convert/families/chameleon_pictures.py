"""The image tokenizer in an export of Chameleon: `model.vqmodel.*` beside the decoder, and what config.json says of it.

transformers has a place for the half that reads pictures alone. The half that draws is written all the same, under the
names of Meta's file, so that `import --family vqgan` gets back the whole; transformers says that it passes it over.
"""

from typing import Any

from jam_jax.config import ModelConfig, VqganConfig
from jam_jax.convert.families import vqgan, vqgan_settings
from jam_jax.convert.rules import Exported
from jam_jax.models.model import KINDS
from jam_jax.tokens import TokenSpace


def write_config(config: ModelConfig, space: TokenSpace, what: str) -> dict[str, Any]:
    """Their `vq_config` for an image tokenizer of ours, which the message calls `what`.

    ValueError if it is none, one that they cannot describe, or one of other codes than those of `space`.
    """
    if not isinstance(config, VqganConfig):
        raise ValueError(f"{what} is no image tokenizer but {KINDS[type(config)]}: import one with --family vqgan")
    settings = vqgan_settings.write_chameleon(config, what)
    if config.codes != len(space.image_ids):
        raise ValueError(
            f"{what} draws with {config.codes} codes, but the model's vocabulary has {len(space.image_ids)}: "
            "they do not belong together; --image-tokenizer none leaves it out"
        )
    if space.draws and config.grid**2 != space.codes_per_image:
        raise ValueError(
            f"{what} gives {config.grid**2} codes a picture, but the model's tokenizer says {space.codes_per_image}: "
            "they do not belong together; --image-tokenizer none leaves it out"
        )
    return settings


def weights(config: VqganConfig, leaves: dict[str, Any]) -> Exported:
    """All of an image tokenizer's weights under the names that they have inside a Chameleon."""
    return Exported(vqgan.table(config, vqgan.PREFIXES[0]), leaves)
