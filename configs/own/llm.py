"""The parent that writes, on a user's own text: documents one after another, cut into blocks.

python -m jam_jax.train --config configs/own/llm.py --out runs/own/llm --tokenizer runs/own/tokenizer
"""

from jam_jax.config import Config, DataConfig, DecoderConfig, OptimConfig, SourceConfig


def get_config() -> Config:
    """The world's small decoder with room for pictures of 64 codes."""
    return Config(
        out="runs/own/llm",
        tokenizer="runs/own/tokenizer",
        model=DecoderConfig(
            vocab_size=1056,
            layers=2,
            width=192,
            heads=6,
            head_size=32,
            ffn_width=768,
            max_positions=160,
            init_std=0.08,
            position_init_std=0.08,
        ),
        data=DataConfig(sources=(SourceConfig("runs/own/stores/text-train", cm3=0.0),), block=129),
        optim=OptimConfig(learning_rate=2e-3, warmup=50, weight_decay=0.01),
        steps=500,
        batch=8,
        log_every=100,
    )
