"""Continued pretraining of a fusion on the world: text, captions and pictures, a share of them CM3 blocks.

    python -m jam_jax.fuse cross --llm runs/quickstart/parents/llm --img runs/quickstart/parents/img \
        --target runs/quickstart/fused
    python -m jam_jax.train --config configs/world/cpt.py --init runs/quickstart/fused \
        --out runs/quickstart/pretrained

The paper's section 3.1 in miniature. About two minutes on two cores for JAM-Cross.
"""

from jam_jax.config import Config, DataConfig, OptimConfig, SourceConfig


def get_config() -> Config:
    """Documents one a row; whichever fusion `init` holds."""
    text = SourceConfig("runs/quickstart/stores/text-train", weight=0.25, cut="document", cm3=0.1)
    captions = SourceConfig(
        "runs/quickstart/stores/captions-train", weight=0.75, cut="document", cm3=0.1, mask_caption=0.15
    )
    return Config(
        out="runs/quickstart/pretrained",
        init="runs/quickstart/fused",
        data=DataConfig(sources=(text, captions), block=45),
        optim=OptimConfig(learning_rate=2e-3, warmup=100, weight_decay=0.01),
        steps=2500,
        batch=8,
        log_every=100,
    )
