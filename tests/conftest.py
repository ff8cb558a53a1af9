"""Settings of every test: exact matrix products, and programs that are compiled fast, and once.

Many tests compile the same small programs; the cache beside pytest's own is keyed by their text. With OPTIMISED in the
environment they are compiled as users' programs are (test_optimised.py).
"""

import os
from pathlib import Path

import jax

SETTINGS = {
    "jax_default_matmul_precision": "highest",
    "jax_disable_most_optimizations": "OPTIMISED" not in os.environ,
    "jax_compilation_cache_dir": str(Path(__file__).parent.parent / ".pytest_cache" / "jax"),
    "jax_persistent_cache_min_compile_time_secs": 0.1,
}
# XLA's older way with fusions compiles in half the time; a jaxlib that has it no more passes over the option.
OLDER = "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"

for name, value in SETTINGS.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)  # for the processes that tests start
if "OPTIMISED" not in os.environ and OLDER not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {OLDER}".strip()
