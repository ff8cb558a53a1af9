"""Continued pretraining of every fusion of the tables in miniature: the same blocks, so equal tokens for all.

    python -m jam_jax.train --config configs/world/tables/cpt.py --seed 1 \
        --init runs/tables/1/cross_2-0 --out runs/tables/1/cross_2
"""

import dataclasses
from pathlib import Path

from jam_jax.config import Config, read_config


def get_config() -> Config:
    """The quickstart's mixture, for fewer steps."""
    base = read_config(Path(__file__).parents[1] / "cpt.py")
    optim = dataclasses.replace(base.optim, warmup=50)
    return dataclasses.replace(base, optim=optim, steps=800)
