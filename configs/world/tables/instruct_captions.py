"""Instruction tuning with a share of caption data (the paper's table 5: COCO perplexity 164.5), in miniature.

    python -m jam_jax.train --config configs/world/tables/instruct_captions.py --seed 1 \
        --init runs/tables/1/cross_2 --out runs/tables/1/instruct_captions
"""

import dataclasses
from pathlib import Path

from jam_jax.config import Config, read_config


def get_config() -> Config:
    """As without captions, with the quickstart's share of them; as many steps."""
    base = read_config(Path(__file__).with_name("instruct.py"))
    data = read_config(Path(__file__).parents[1] / "instruct.py").data
    return dataclasses.replace(base, data=data)
