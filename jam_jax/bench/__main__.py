"""`python -m jam_jax.bench NAME`: how fast, beside a peer in the same run; a table and JSON."""

import importlib
import sys
from collections.abc import Sequence

from jam_jax import config

# Each is a file here with a dataclass `Options`, whose docstring is the help, and `run(options)`.
BENCHMARKS = ("convert", "data", "decode", "evaluate", "retrieval", "train")


def main(args: Sequence[str] | None = None) -> None:
    """The command."""
    name, *rest = list(sys.argv[1:] if args is None else args) or ["--help"]
    if name in ("-h", "--help"):
        print(f"usage: python -m jam_jax.bench {{{','.join(BENCHMARKS)}}} [OPTIONS]   (each has --help)")
        return
    if name not in BENCHMARKS:
        raise ValueError(f"there is no benchmark {name!r}: choose one of {', '.join(BENCHMARKS)}")
    module = importlib.import_module(f"jam_jax.bench.{name}")
    module.run(config.cli(module.Options, rest, prog=f"python -m jam_jax.bench {name}"))


if __name__ == "__main__":
    config.run(main)
