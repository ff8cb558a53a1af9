"""The parent that writes in the paper's tables in miniature: CM3leon's architecture, four layers of width 64.

Four layers, so that cross blocks after every one, every second and every fourth layer are three different models.

    python -m jam_jax.train --config configs/world/tables/llm.py --seed 1 \
        --out runs/tables/1/llm --tokenizer runs/tables/tokenizer
"""

from jam_jax.config import Config, DataConfig, DecoderConfig, OptimConfig, SourceConfig


def get_config() -> Config:
    """Text documents, one a row, causal; each seed has its own order of them and its own first weights."""
    return Config(
        out="runs/tables/llm",
        tokenizer="runs/tables/tokenizer",
        model=DecoderConfig(
            vocab_size=800,
            layers=4,
            width=64,
            heads=4,
            head_size=16,
            ffn_width=256,
            max_positions=192,
            init_std=0.08,
            position_init_std=0.08,
        ),
        data=DataConfig(sources=(SourceConfig("runs/tables/stores/text-train", cut="document", cm3=0.0),), block=45),
        optim=OptimConfig(learning_rate=2e-3, warmup=50, weight_decay=0.01),
        steps=1500,
        batch=8,
        log_every=100,
    )
