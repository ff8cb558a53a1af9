"""The parent that draws: the same small decoder, trained on the world's captions and pictures alone, with retrieval.

Stands for CM3leon in the paper's table 2, at a ten-thousandth of its size. As CM3leon it learns the CM3 objective, with
retrieved documents before most pairs; a share of the pairs has its whole caption masked, which is the unconditional
stream that guidance contrasts with.

    python -m jam_jax.train --config configs/world/img.py \
        --out runs/quickstart/img --tokenizer runs/quickstart/tokenizer

Some two minutes on two cores.
"""

import dataclasses
from pathlib import Path

from jam_jax.config import Config, DataConfig, SourceConfig, read_config


def get_config() -> Config:
    """Pairs of caption and picture, as many as a row has room for: alone, and behind the two most like them."""
    llm = read_config(Path(__file__).with_name("llm.py"))
    alone = SourceConfig("runs/quickstart/stores/captions-train", weight=0.3, cut="packed", cm3=0.1, mask_caption=0.15)
    retrieving = dataclasses.replace(alone, weight=0.7, neighbours="runs/quickstart/neighbours/captions-train")
    return dataclasses.replace(
        llm,
        out="runs/quickstart/img",
        data=DataConfig(sources=(alone, retrieving), block=105),
        steps=2300,
        batch=4,
    )
