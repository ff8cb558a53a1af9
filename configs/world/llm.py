"""The parent that writes: a small decoder of CM3leon's architecture, trained on the world's paragraphs alone.

Stands for `LLM-4k` in the paper's table 1, at a ten-thousandth of its size.

    python -m jam_jax.train --config configs/world/llm.py \
        --out runs/quickstart/llm --tokenizer runs/quickstart/tokenizer

About 40 s on two cores. Expect a held-out text perplexity that the report prints beside the fusion's.
"""

from jam_jax.config import Config, DataConfig, DecoderConfig, OptimConfig, SourceConfig


def get_config() -> Config:
    """Text documents, one a row, causal."""
    return Config(
        out="runs/quickstart/llm",
        tokenizer="runs/quickstart/tokenizer",
        model=DecoderConfig(
            vocab_size=800,
            layers=2,
            width=128,
            heads=4,
            head_size=32,
            ffn_width=512,
            max_positions=192,
            init_std=0.08,
            position_init_std=0.08,
        ),
        data=DataConfig(
            sources=(SourceConfig("runs/quickstart/stores/text-train", cut="document", cm3=0.0),),
            block=45,
        ),
        optim=OptimConfig(learning_rate=2e-3, warmup=50, weight_decay=0.01),
        steps=2000,
        batch=8,
        log_every=100,
    )
