"""Instruction tuning without caption data (the paper's table 5: COCO perplexity 190.2), in miniature.

    python -m jam_jax.train --config configs/world/tables/instruct.py --seed 1 \
        --init runs/tables/1/cross_2 --out runs/tables/1/instruct
"""

from jam_jax.config import Config, DataConfig, OptimConfig, SourceConfig


def get_config() -> Config:
    """Illustrated answers and texts, whole and causal."""
    illustrated = SourceConfig("runs/tables/stores/illustrated-train", weight=0.45, cut="packed", cm3=0.0)
    text = SourceConfig("runs/tables/stores/text-train", weight=0.15, cut="packed", cm3=0.0)
    return Config(
        out="runs/tables/instruct",
        init="runs/tables/cross_2",
        data=DataConfig(sources=(illustrated, text), block=145),
        optim=OptimConfig(learning_rate=1e-3, warmup=30, weight_decay=0.01),
        steps=400,
        batch=4,
        log_every=100,
    )
