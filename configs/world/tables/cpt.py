"""Continued pretraining of every fusion of the tables in miniature: the same blocks, so equal tokens for all.

    python -m jam_jax.train --config configs/world/tables/cpt.py --seed 1 \
        --init runs/tables/1/cross_2-0 --out runs/tables/1/cross_2
"""

from jam_jax.config import Config, DataConfig, OptimConfig, SourceConfig


def get_config() -> Config:
    """Documents one a row, a share of them CM3 blocks; whichever fusion `init` holds."""
    text = SourceConfig("runs/tables/stores/text-train", weight=0.25, cut="document", cm3=0.1)
    captions = SourceConfig(
        "runs/tables/stores/captions-train", weight=0.75, cut="document", cm3=0.1, mask_caption=0.15
    )
    return Config(
        out="runs/tables/pretrained",
        init="runs/tables/fused",
        data=DataConfig(sources=(text, captions), block=45),
        optim=OptimConfig(learning_rate=2e-3, warmup=50, weight_decay=0.01),
        steps=800,
        batch=8,
        log_every=100,
    )
