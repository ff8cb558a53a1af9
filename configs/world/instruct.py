"""Instruction tuning on the world's illustrated how-tos, with captions and text mixed in so that they stay.

    python -m jam_jax.train --config configs/world/instruct.py --init runs/quickstart/pretrained \
        --out runs/quickstart/tuned

The paper's section 3.2 in miniature (its table 5 shows why captions are mixed in). Some three minutes on two cores.
"""

import dataclasses

from jam_jax.config import Config, DataConfig, OptimConfig, SourceConfig


def get_config() -> Config:
    """Questions and their illustrated answers, whole and causal."""
    illustrated = SourceConfig("runs/quickstart/stores/illustrated-train", weight=0.55, cut="packed", cm3=0.0)
    text = SourceConfig("runs/quickstart/stores/text-train", weight=0.12, cut="packed", cm3=0.0)
    alone = SourceConfig("runs/quickstart/stores/captions-train", weight=0.08, cut="packed", cm3=0.0, mask_caption=0.15)
    retrieving = dataclasses.replace(alone, weight=0.25, neighbours="runs/quickstart/neighbours/captions-train")
    return Config(
        out="runs/quickstart/tuned",
        init="runs/quickstart/pretrained",
        data=DataConfig(sources=(illustrated, text, alone, retrieving), block=145),
        optim=OptimConfig(learning_rate=1e-3, warmup=100, weight_decay=0.01),
        steps=1800,
        batch=4,
        log_every=100,
    )
