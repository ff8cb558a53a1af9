"""The image tokenizer for a user's own pictures: a VQGAN that gives 64 of 512 codes for a picture of 32 x 32 pixels.

Real pictures hold more than the built-in world's: a code covers 4 x 4 pixels here.

    python -m jam_jax.train --config configs/own/image_tokenizer.py --data.pictures DIR --out runs/own/image_tokenizer
"""

import dataclasses
from pathlib import Path

from jam_jax.config import Config, VqganConfig, read_config


def get_config() -> Config:
    """As the world's, with one halving of the side fewer."""
    world = read_config(Path(__file__).parent.with_name("world") / "image_tokenizer.py")
    assert isinstance(world.model, VqganConfig)
    model = dataclasses.replace(world.model, multipliers=(1, 2, 2), codes=512)
    data = dataclasses.replace(world.data, pictures=("pictures",))
    return dataclasses.replace(world, out="runs/own/image_tokenizer", model=model, data=data)
