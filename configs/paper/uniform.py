"""JAM-Uniform: continued pretraining of the parents' average (tables 1 and 2: JAM-Uniform 7B, COCO perplexity 177.5).

    python -m jam_jax.fuse uniform --llm LLM --img IMG --target runs/uniform-0
    python -m jam_jax.train --config configs/paper/uniform.py --init runs/uniform-0 --out runs/uniform

6.73B parameters. 50B tokens in batches of 8M: half text, half captions and pictures, with the CM3 objective; 5,960
steps, about a day on 256 A100-80GB in the paper.
"""

import dataclasses
from pathlib import Path

from jam_jax.config import Config, DataConfig, SourceConfig, read_config


def get_config() -> Config:
    """The paper's continued pretraining, which every fusion shares."""
    base = read_config(Path(__file__).with_name("parent_7b.py"))
    sources = (SourceConfig("stores/text", weight=0.5), SourceConfig("stores/captions", weight=0.5))
    return dataclasses.replace(base, data=DataConfig(sources=sources, block=4097))
