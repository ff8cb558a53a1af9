"""The 760M parents' shape (table 2: CM3leon 760M).

    python -m jam_jax.train --config configs/paper/parent_760m.py --out runs/parent --tokenizer DIR \
        --data.sources.0.store DIR
"""

import dataclasses
from pathlib import Path

from jam_jax.config import Config, DecoderConfig, read_config


def get_config() -> Config:
    """As the 7B parent, with 24 layers of width 1536."""
    base = read_config(Path(__file__).with_name("parent_7b.py"))
    assert isinstance(base.model, DecoderConfig)
    model = dataclasses.replace(base.model, layers=24, width=1536, heads=16, head_size=96, ffn_width=6144)
    return dataclasses.replace(base, model=model)
