"""JAM-Cross with no cross blocks (table 4: Wikipedia / COCO perplexity 7.86 / 153.2 after 25B tokens).

    python -m jam_jax.fuse cross --every 0 --project random --llm LLM --img IMG --target runs/cross-0
    python -m jam_jax.train --config configs/paper/cross_none.py --init runs/cross-0 --out runs/cross

13.21B parameters; data, batches and steps as for JAM-Uniform.
"""

import dataclasses
from pathlib import Path

from jam_jax.config import Config, CrossConfig, DecoderConfig, read_config


def get_config() -> Config:
    """Continued pretraining of two towers of the parents' size."""
    base = read_config(Path(__file__).with_name("uniform.py"))
    assert isinstance(base.model, DecoderConfig)
    return dataclasses.replace(base, model=CrossConfig(base.model, base.model, every=0))
