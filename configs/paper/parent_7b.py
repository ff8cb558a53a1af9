"""The 7B parents' shape: CM3leon 7B and the LLM of the same architecture (tables 1 and 2: LLM-4k, CM3leon 7B).

    python -m jam_jax.train --config configs/paper/parent_7b.py --out runs/parent --tokenizer DIR \
        --data.sources.0.store DIR

6.73B parameters. Batches of 8M tokens as in the paper's continued pretraining; the parents' own schedules are in
arXiv 2309.02591, table 3, and are not repeated here.
"""

from jam_jax.config import Config, DataConfig, DecoderConfig, MeshConfig, OptimConfig, SourceConfig


def get_config() -> Config:
    """A parent from random parameters on one store."""
    return Config(
        model=DecoderConfig(
            vocab_size=66056,
            layers=32,
            width=4096,
            heads=32,
            head_size=128,
            ffn_width=16384,
            max_positions=4096,
            dtype="bfloat16",
            remat="full",
        ),
        data=DataConfig(sources=(SourceConfig("stores/text"),), block=4097),
        optim=OptimConfig(),
        mesh=MeshConfig(data=1, fsdp=-1),
        steps=5960,
        batch=2048,
        save_every=500,
        keep=2,
    )
