"""Instruction tuning with a share of the caption data (table 5: COCO perplexity 164.5).

    python -m jam_jax.train --config configs/instruct/instructions_and_captions.py --init runs/cross --out runs/instruct

As `instructions.py`, with captions and pictures mixed in so that drawing is not forgotten.
"""

import dataclasses
from pathlib import Path

from jam_jax.config import Config, DataConfig, SourceConfig, read_config


def get_config() -> Config:
    """The share of captions is not published; a fifth is ours."""
    base = read_config(Path(__file__).with_name("instructions.py"))
    captions = SourceConfig("stores/captions", weight=0.25, cut="document")
    return dataclasses.replace(base, data=DataConfig(sources=(*base.data.sources, captions), block=4097))
