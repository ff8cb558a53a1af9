"""Settings of every test: exact matrix products, and programs that are compiled fast, and once.

Many tests compile the same small programs; the cache beside pytest's own is keyed by their text. With OPTIMISED in the
environment they are compiled as users' programs are (test_optimised.py).
"""

import os
from pathlib import Path

import jax

jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_disable_most_optimizations", "OPTIMISED" not in os.environ)
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".pytest_cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
