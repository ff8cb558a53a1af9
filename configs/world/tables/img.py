"""The parent that draws in the paper's tables in miniature: the small text parent's architecture, on captions.

    python -m jam_jax.train --config configs/world/tables/img.py --seed 1001 \
        --out runs/tables/1/img --tokenizer runs/tables/tokenizer
"""

import dataclasses
from pathlib import Path

from jam_jax.config import Config, read_config


def get_config() -> Config:
    """Pairs of caption and picture, as the quickstart's image parent has them."""
    base = read_config(Path(__file__).parents[1] / "img.py")
    return dataclasses.replace(base, model=read_config(Path(__file__).with_name("llm.py")).model, steps=2000)
