"""The CLIP of the built-in world, for retrieval: captions and pictures become vectors of 64 numbers.

Stands for ViT-B/32, which has seen photographs and none of these shapes: the same code, a ten-thousandth of its size.

    python -m jam_jax.train --config configs/world/clip.py --out runs/quickstart/clip

Some twenty seconds on two cores, most of which it reads and compiles. Expect nine of ten held-out pictures to find
their own caption among 256.
"""

from jam_jax.config import ClipConfig, Config, DataConfig, OptimConfig
from jam_jax.model_config import TowerConfig


def get_config() -> Config:
    """Pairs of caption and picture, each other's only match in a batch."""
    return Config(
        out="runs/quickstart/clip",
        model=ClipConfig(
            text=TowerConfig(layers=2, width=64, heads=4, ffn_width=128),
            image=TowerConfig(layers=2, width=64, heads=4, ffn_width=128),
            vocab_size=700,
            context=40,
            resolution=32,
            patch=8,
            embed_width=64,
        ),
        data=DataConfig(pictures=("runs/quickstart/world/captions",)),
        optim=OptimConfig(learning_rate=2e-3, warmup=30, schedule="cosine", weight_decay=0.01),
        steps=300,
        batch=64,
        log_every=50,
    )
