"""The parent that draws: the same small decoder, trained on the world's captions and pictures alone.

Stands for CM3leon in the paper's table 2, at a ten-thousandth of its size. As CM3leon it learns the CM3 objective; a
share of the pairs has its whole caption masked, which is the unconditional stream that guidance contrasts with.

    python -m jam_jax.train --config configs/world/img.py \
        --out runs/quickstart/img --tokenizer runs/quickstart/tokenizer

About a minute on two cores.
"""

import dataclasses
from pathlib import Path

from jam_jax.config import Config, DataConfig, SourceConfig, read_config


def get_config() -> Config:
    """Pairs of caption and picture, one a row; the same architecture as the parent that writes."""
    llm = read_config(Path(__file__).with_name("llm.py"))
    captions = SourceConfig("runs/quickstart/stores/captions-train", cut="document", cm3=0.1, mask_caption=0.15)
    return dataclasses.replace(
        llm,
        out="runs/quickstart/img",
        data=DataConfig(sources=(captions,), block=41),
        steps=3500,
    )
