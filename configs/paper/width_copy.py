"""JAM-Width with its off-diagonal blocks filled by copies (table 3: Wikipedia / COCO perplexity 7.34 / 159.5).

    python -m jam_jax.fuse width --init copy --llm LLM --img IMG --target runs/width-0
    python -m jam_jax.train --config configs/paper/width_copy.py --init runs/width-0 --out runs/width

26.34B parameters; data, batches and steps as for JAM-Uniform.
"""

import dataclasses
from pathlib import Path

from jam_jax.config import Config, DecoderConfig, read_config
from jam_jax.fuse.width import widen


def get_config() -> Config:
    """Continued pretraining of a decoder of twice the parents' width."""
    base = read_config(Path(__file__).with_name("uniform.py"))
    assert isinstance(base.model, DecoderConfig)
    return dataclasses.replace(base, model=widen(base.model))
