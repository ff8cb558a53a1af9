"""The parent that draws in the paper's tables in miniature: the text parent's architecture, on captions and pictures.

    python -m jam_jax.train --config configs/world/tables/img.py --seed 1001 \
        --out runs/tables/1/img --tokenizer runs/tables/tokenizer
"""

import dataclasses
from pathlib import Path

from jam_jax.config import Config, DataConfig, SourceConfig, read_config


def get_config() -> Config:
    """Pairs of caption and picture, one a row, with the CM3 objective; a share of the captions is masked whole."""
    llm = read_config(Path(__file__).with_name("llm.py"))
    captions = SourceConfig("runs/tables/stores/captions-train", cut="document", cm3=0.1, mask_caption=0.15)
    return dataclasses.replace(llm, out="runs/tables/img", data=DataConfig(sources=(captions,), block=41), steps=2000)
