"""JAM in JAX: two decoders, one that writes and one that draws, fused into one that answers with both.

`jam_jax.load(DIR)` opens a model directory; everything else is a command (`python -m jam_jax.train --help`).
"""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`load`, imported when it is first used, so that `import jam_jax` and every `--help` are quick."""
    if name == "load":
        from jam_jax.api import load

        return load
    raise AttributeError(f"module 'jam_jax' has no attribute {name!r}")
