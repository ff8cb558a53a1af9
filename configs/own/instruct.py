"""Instruction tuning where a user's captions stand for questions: asked for a thing, the model names and draws it.

python -m jam_jax.train --config configs/own/instruct.py --init runs/own/pretrained --out runs/own/tuned
"""

from jam_jax.config import Config, DataConfig, OptimConfig, SourceConfig


def get_config() -> Config:
    """Whole answers, with text and pairs mixed in so that they stay."""
    illustrated = SourceConfig("runs/own/stores/illustrated-train", weight=0.4, cut="packed", cm3=0.0)
    text = SourceConfig("runs/own/stores/text-train", weight=0.2, cm3=0.0)
    captions = SourceConfig("runs/own/stores/captions-train", weight=0.4, cut="packed", cm3=0.0, mask_caption=0.1)
    return Config(
        out="runs/own/tuned",
        init="runs/own/pretrained",
        data=DataConfig(sources=(illustrated, text, captions), block=113),
        optim=OptimConfig(learning_rate=1e-3, warmup=20, weight_decay=0.01),
        steps=800,
        batch=4,
        log_every=100,
    )
