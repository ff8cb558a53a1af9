"""Instruction tuning without caption data (the paper's table 5: COCO perplexity 190.2), in miniature.

    python -m jam_jax.train --config configs/world/tables/instruct.py --seed 1 \
        --init runs/tables/1/cross_2 --out runs/tables/1/instruct
"""

import dataclasses
from pathlib import Path

from jam_jax.config import Config, read_config


def get_config() -> Config:
    """The quickstart's illustrated answers and texts alone, in the proportion that they have there."""
    base = read_config(Path(__file__).parents[1] / "instruct.py")
    kept = tuple(source for source in base.data.sources if "captions" not in source.store)
    optim = dataclasses.replace(base.optim, warmup=30)
    return dataclasses.replace(base, data=dataclasses.replace(base.data, sources=kept), optim=optim, steps=400)
