"""The image tokenizer of the built-in world: a VQGAN that gives 16 of 256 codes for a picture of 32 x 32 pixels.

Stands for the tokenizer of JAM's image parent (1,024 of 8,192 codes for 256 x 256 pixels): as there, a code covers
8 x 8 pixels.

    python -m jam_jax.train --config configs/world/image_tokenizer.py \
        --out runs/quickstart/image_tokenizer
"""

from jam_jax.config import Config, DataConfig, OptimConfig, VqganConfig


def get_config() -> Config:
    """Half the steps without a codebook, half with it."""
    return Config(
        out="runs/quickstart/image_tokenizer",
        model=VqganConfig(
            resolution=32,
            channels=16,
            multipliers=(1, 1, 2, 2),
            res_blocks=1,
            attn_resolutions=(),
            groups=2,
            z_channels=64,
            codes=256,
            code_width=64,
        ),
        data=DataConfig(pictures=("runs/quickstart/world/captions", "runs/quickstart/world/illustrated")),
        optim=OptimConfig(learning_rate=2e-3, warmup=30, schedule="cosine", weight_decay=0.0),
        steps=800,
        batch=8,
    )
