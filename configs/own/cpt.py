"""Continued pretraining of a fusion on a user's own text and pictures, a share of them CM3 blocks.

python -m jam_jax.train --config configs/own/cpt.py --init runs/own/fused --out runs/own/pretrained
"""

from jam_jax.config import Config, DataConfig, OptimConfig, SourceConfig


def get_config() -> Config:
    """Text as a stream, pairs one a row; whichever fusion `init` holds."""
    text = SourceConfig("runs/own/stores/text-train", weight=0.3, cm3=0.1)
    captions = SourceConfig("runs/own/stores/captions-train", weight=0.7, cut="document", cm3=0.1, mask_caption=0.1)
    return Config(
        out="runs/own/pretrained",
        init="runs/own/fused",
        data=DataConfig(sources=(text, captions), block=97),
        optim=OptimConfig(learning_rate=2e-3, warmup=40, weight_decay=0.01),
        steps=800,
        batch=8,
        log_every=100,
    )
