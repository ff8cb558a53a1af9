"""Instruction tuning with a share of caption data (the paper's table 5: COCO perplexity 164.5), in miniature.

    python -m jam_jax.train --config configs/world/tables/instruct_captions.py --seed 1 \
        --init runs/tables/1/cross_2 --out runs/tables/1/instruct_captions
"""

import dataclasses
from pathlib import Path

from jam_jax.config import Config, SourceConfig, read_config


def get_config() -> Config:
    """As without captions, with a share of them; as many steps."""
    base = read_config(Path(__file__).with_name("instruct.py"))
    captions = SourceConfig("runs/tables/stores/captions-train", weight=0.4, cut="packed", cm3=0.0, mask_caption=0.15)
    data = dataclasses.replace(base.data, sources=(*base.data.sources, captions))
    return dataclasses.replace(base, out="runs/tables/instruct_captions", data=data)
