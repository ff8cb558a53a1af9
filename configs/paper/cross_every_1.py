"""JAM-Cross with a cross block after every layer (table 4: Wikipedia / COCO perplexity 7.53 / 152.4 after 25B tokens).

    python -m jam_jax.fuse cross --every 1 --project random --llm LLM --img IMG --target runs/cross-0
    python -m jam_jax.train --config configs/paper/cross_every_1.py --init runs/cross-0 --out runs/cross

26.09B parameters; data, batches and steps as for JAM-Uniform.
"""

import dataclasses
from pathlib import Path

from jam_jax.config import Config, CrossConfig, DecoderConfig, read_config


def get_config() -> Config:
    """Continued pretraining of two towers of the parents' size."""
    base = read_config(Path(__file__).with_name("uniform.py"))
    assert isinstance(base.model, DecoderConfig)
    return dataclasses.replace(base, model=CrossConfig(base.model, base.model, every=1))
