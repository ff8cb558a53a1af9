"""Continued pretraining of a fusion on the world: text, captions and pictures, a share of them CM3 blocks.

    python -m jam_jax.fuse cross --llm runs/quickstart/parents/llm --img runs/quickstart/parents/img \
        --target runs/quickstart/fused
    python -m jam_jax.train --config configs/world/cpt.py --init runs/quickstart/fused \
        --out runs/quickstart/pretrained

The paper's section 3.1 in miniature, with retrieval on captions as there. About two minutes on two cores for JAM-Cross.
"""

import dataclasses

from jam_jax.config import Config, DataConfig, OptimConfig, SourceConfig


def get_config() -> Config:
    """As many whole documents as a row has room for; whichever fusion `init` holds."""
    text = SourceConfig("runs/quickstart/stores/text-train", weight=0.25, cut="packed", cm3=0.1)
    alone = SourceConfig("runs/quickstart/stores/captions-train", weight=0.2, cut="packed", cm3=0.1, mask_caption=0.15)
    retrieving = dataclasses.replace(alone, weight=0.55, neighbours="runs/quickstart/neighbours/captions-train")
    return Config(
        out="runs/quickstart/pretrained",
        init="runs/quickstart/fused",
        data=DataConfig(sources=(text, alone, retrieving), block=105),
        optim=OptimConfig(learning_rate=2e-3, warmup=100, weight_decay=0.01),
        steps=1000,
        batch=4,
        log_every=100,
    )
