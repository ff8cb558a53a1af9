"""A tiny random model directory, whole: text of bytes, pictures of 16 codes, one layer."""

from pathlib import Path

from jam_jax import checkpoint
from jam_jax.config import DecoderConfig
from jam_jax.data.sentencepiece_text import train_text_tokenizer
from jam_jax.data.tokenizers import build_tokenizer, open_tokenizer
from jam_jax.models import model
from tests.banks import VQGAN, random_params


def make_model(root: Path) -> Path:
    """Write the model into a directory under `root`, and give its path."""
    train_text_tokenizer(["a red circle", "a blue square beside a red circle"] * 20, root / "text.model", vocab=280)
    checkpoint.save_model(root / "image", VQGAN, random_params(checkpoint.shapes(VQGAN), 0.3))
    build_tokenizer(root / "tokenizer", root / "text.model", root / "image", sentinels=4)
    space = open_tokenizer(root / "tokenizer").space
    config = DecoderConfig(
        vocab_size=space.vocab_size, layers=1, width=16, heads=2, head_size=8, ffn_width=16, max_positions=64
    )
    checkpoint.save_model(
        root / "model", config, random_params(model.shapes(config), 0.5), tokenizer=root / "tokenizer"
    )
    return root / "model"
