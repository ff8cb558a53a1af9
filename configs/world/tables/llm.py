"""The parent that writes in the paper's tables in miniature: as the quickstart's, half as wide and twice as deep.

Four layers, so that cross blocks after every one, every second and every fourth layer are three different models.

    python -m jam_jax.train --config configs/world/tables/llm.py --seed 1 \
        --out runs/tables/1/llm --tokenizer runs/tables/tokenizer
"""

import dataclasses
from pathlib import Path

from jam_jax.config import Config, read_config


def get_config() -> Config:
    """Text documents, one a row, causal; each seed has its own order of them and its own first weights."""
    base = read_config(Path(__file__).parents[1] / "llm.py")
    small = dataclasses.replace(base.model, layers=4, width=64, heads=4, head_size=16, ffn_width=256)
    return dataclasses.replace(base, model=small, steps=1500)
