"""Instruction tuning on LIMA and wikiHow alone (table 5: COCO perplexity 190.2).

    python -m jam_jax.train --config configs/instruct/instructions.py --init runs/cross --out runs/instruct

15 epochs of the mixture (1,000 LIMA answers and 3,000 wikiHow articles; the paper's best, chosen by eye, was the
ninth) in batches of 1M tokens; under two hours on 64 A100-80GB. The number of steps follows from the size of your
stores: give --steps.
"""

from jam_jax.config import Config, DataConfig, MeshConfig, OptimConfig, SourceConfig


def get_config() -> Config:
    """Whole documents, causal, with their own loss on the answer only."""
    lima = SourceConfig("stores/lima", weight=0.25, cut="document", cm3=0.0, prompt_loss=False)
    wikihow = SourceConfig("stores/wikihow", weight=0.75, cut="document", cm3=0.0, prompt_loss=False)
    return Config(
        data=DataConfig(sources=(lima, wikihow), block=4097),
        optim=OptimConfig(learning_rate=1e-5, warmup=300),
        mesh=MeshConfig(data=1, fsdp=-1),
        steps=600,
        batch=256,
        save_every=40,
        keep=15,
    )
