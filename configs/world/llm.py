"""The parent that writes: a small decoder of Llama's architecture, trained on the world's paragraphs alone.

Stands for `LLM-4k` in the paper's table 1, at a ten-thousandth of its size. Its positions are rotary, for the image
parent's sake: behind retrieved documents a pair begins anywhere, and with a learned table so small a model learns for
every place anew which of the captions is its own.

    python -m jam_jax.train --config configs/world/llm.py \
        --out runs/quickstart/llm --tokenizer runs/quickstart/tokenizer

About 40 s on two cores. Expect a held-out text perplexity that the report prints beside the fusion's.
"""

from jam_jax.config import Config, DataConfig, DecoderConfig, OptimConfig, SourceConfig


def get_config() -> Config:
    """Text documents, as many whole ones as a row has room for, causal."""
    return Config(
        out="runs/quickstart/llm",
        tokenizer="runs/quickstart/tokenizer",
        model=DecoderConfig(
            vocab_size=800,
            layers=2,
            width=128,
            heads=4,
            head_size=32,
            ffn_width=384,
            max_positions=192,
            norm="rmsnorm",
            positions="rope",
            rope_base=1e3,
            ffn="silu_gated",
            init_std=0.08,
        ),
        data=DataConfig(
            sources=(SourceConfig("runs/quickstart/stores/text-train", cut="packed", cm3=0.0),),
            block=193,
        ),
        optim=OptimConfig(learning_rate=2e-3, warmup=50, weight_decay=0.01),
        steps=1400,
        batch=2,
        log_every=100,
    )
