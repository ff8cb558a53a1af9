"""The parent that draws, on a user's own pictures with captions: one pair a row, with the CM3 objective.

    python -m jam_jax.train --config configs/own/img.py --out runs/own/img --tokenizer runs/own/tokenizer

A few hundred pictures are learnt by heart when it trains long enough; a few thousand want hours.
"""

import dataclasses
from pathlib import Path

from jam_jax.config import Config, DataConfig, SourceConfig, read_config


def get_config() -> Config:
    """The same architecture as the parent that writes."""
    llm = read_config(Path(__file__).with_name("llm.py"))
    captions = SourceConfig("runs/own/stores/captions-train", cut="document", cm3=0.1, mask_caption=0.1)
    data = DataConfig(sources=(captions,), block=97)
    return dataclasses.replace(llm, out="runs/own/img", data=data, steps=2500)
