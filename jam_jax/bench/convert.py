"""Converting and fusing, beside copying the same files: how fast, and how much memory at most.

The checkpoint is made up: a Llama with random weights, in shards of safetensors. All take turns, a few rounds of them,
since what a copy costs depends on what the system keeps in memory: a time is the median of the rounds, and a ratio that
of the rounds' own ratios. The bounds that streaming keeps are printed with the figures: 600 MB and three times the
largest tensor, and half the speed of copying.
"""

import dataclasses
import math
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import ml_dtypes
import numpy as np

from jam_jax import config, tokens
from jam_jax.bench import measure
from jam_jax.bench.measure import Run

KINDS = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
SHARD_BYTES = 10**9
COPY = "copy the files"
SPACE = tokens.jam(text=270, codes=31_214, codes_per_image=1024)  # 32,000 ids, of which JAM-Cross asks what they are


@dataclasses.dataclass(frozen=True)
class Options:
    """Import, export and fuse a made-up checkpoint, beside copying its files."""

    gigabytes: float = 3.2  # size of the checkpoint
    dtype: Literal["bfloat16", "float32"] = "bfloat16"  # in which it is stored
    repeat: int = 3  # rounds in which everything is run once
    folder: str = ""  # where to work; about nine times the checkpoint's size is needed. Default: a temporary folder
    json: str = ""  # a file for the figures

    def __post_init__(self) -> None:
        if self.repeat < 1 or self.gigabytes <= 0:
            raise ValueError(f"repeat and gigabytes must be positive, got {self.repeat} and {self.gigabytes}")


class Random:
    """Random weights of a decoder under a family's names, made when asked for."""

    def __init__(self, decoder: config.DecoderConfig, kind: np.dtype, seed: int) -> None:
        from jam_jax.convert import families, rules

        self.table = families.writer("llama").table(decoder)
        self.entries, self.kind, self.seed = rules.entries(self.table), np.dtype(kind), seed

    def names(self) -> list[str]:
        """All names of the family's table."""
        return list(self.entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """By the table."""
        from jam_jax.convert import rules

        return rules.expected_shape(self.table, self.entries[name].rule)

    def dtype(self, name: str) -> np.dtype:
        """The same for all."""
        return self.kind

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Normal numbers of the size that trained weights have."""
        seed = (self.seed, self.names().index(name))
        values = np.random.default_rng(seed).standard_normal(self.shape(name), np.float32)
        values *= 0.02
        return values.astype(self.kind)[start:stop]


def sized(gigabytes: float, kind: np.dtype) -> config.DecoderConfig:
    """A Llama of about that size, with as many layers as it takes; a narrow one where it is small."""
    heads = 16 if gigabytes >= 1 else 2
    decoder = config.DecoderConfig(
        vocab_size=SPACE.vocab_size,
        layers=1,
        width=128 * heads,
        heads=heads,
        head_size=128,
        ffn_width=352 * heads,
        max_positions=4096,
        norm="rmsnorm",
        positions="rope",
        ffn="silu_gated",
        tied=False,
    )
    weights = Random(decoder, kind, 0)
    sizes = {name: math.prod(weights.shape(name)) * np.dtype(kind).itemsize for name in weights.names()}
    layer = sum(size for name, size in sizes.items() if ".layers.0." in name)
    layers = max(1, math.ceil((gigabytes * 1e9 - sum(sizes.values())) / layer) + 1)
    return dataclasses.replace(decoder, layers=layers)


def copy(source: Path, target: Path) -> Run:
    """The files of a folder copied, until they are on the disk, as they are after an import."""
    start = time.monotonic()
    target.mkdir()
    for path in sorted(source.glob("*.*")):
        shutil.copyfile(path, target / path.name)
        with (target / path.name).open("rb+") as file:
            os.fsync(file.fileno())
    return Run(time.monotonic() - start, 0)


def run(options: Options) -> None:
    """Make two checkpoints, then measure."""
    from jam_jax.convert import families, writers
    from jam_jax.data.sentencepiece_text import train_text_tokenizer

    kind = np.dtype(KINDS[options.dtype])
    decoder = sized(options.gigabytes, kind)
    with tempfile.TemporaryDirectory(dir=options.folder or None, prefix="jam-bench-") as name:
        folder = Path(name)
        theirs = families.writer("llama").write_config(decoder, None)
        (folder / "ids").mkdir()
        (folder / "ids" / "tokens.json").write_text(SPACE.to_json())
        train_text_tokenizer(["a red circle above a blue square"], folder / "ids" / "text.model", SPACE.text[1])
        for seed, parent in enumerate(("llm", "img")):
            writers.write_hugging_face(
                folder / parent, theirs, Random(decoder, kind, seed), shard_bytes=SHARD_BYTES, tokenizer=folder / "ids"
            )
        weights = Random(decoder, kind, 0)
        largest = max(math.prod(weights.shape(n)) for n in weights.names()) * kind.itemsize
        size = sum(path.stat().st_size for path in (folder / "llm").glob("*.safetensors"))
        _measure(options, folder, size, largest)


def _measure(options: Options, folder: Path, size: int, largest: int) -> None:
    at = {name: str(folder / name) for name in ("llm", "img", "llm-ours", "img-ours")}
    for parent in ("llm", "img"):
        measure.command("jam_jax.convert", "import", "--source", at[parent], "--target", at[parent + "-ours"])
    parents = ("--llm", at["llm-ours"], "--img", at["img-ours"])

    def convert(*args: str) -> Callable[[Path], Run]:
        return lambda target: measure.command("jam_jax.convert", *args, "--target", str(target))

    def fuse(method: str) -> Callable[[Path], Run]:
        return lambda target: measure.command("jam_jax.fuse", method, *parents, "--target", str(target))

    steps: dict[str, tuple[int, Callable[[Path], Run]]] = {
        COPY: (size, lambda target: copy(folder / "llm", target)),
        "import": (size, convert("import", "--source", at["llm"])),
        "export": (size, convert("export", "--family", "llama", "--source", at["img-ours"])),
        **{f"fuse {method}": (2 * size, fuse(method)) for method in ("uniform", "width", "cross")},
    }
    written: dict[str, int] = {}
    rounds: list[dict[str, Run]] = []
    for _ in range(options.repeat):
        rounds.append({})
        for name, (_, step) in steps.items():
            target = folder / "out"
            rounds[-1][name] = step(target)
            written[name] = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
            shutil.rmtree(target)
    figures: dict[str, dict[str, float]] = {}
    for name, (read, _) in steps.items():
        figures[name] = {
            "seconds": statistics.median(runs[name].seconds for runs in rounds),
            "read_gb": read / 1e9,
            "written_gb": written[name] / 1e9,
            "peak_mb": max(runs[name].peak_bytes for runs in rounds) / 1e6,
        }
        for of, ours, copied in (("read", read, size), ("moved", read + written[name], size + written[COPY])):
            shares = [ours / runs[name].seconds / (copied / runs[COPY].seconds) for runs in rounds]
            figures[name][f"{of}_of_copying"] = statistics.median(shares)
    rows = [
        (
            *(name, f"{f['seconds']:.1f} s", f"{f['read_gb']:.1f} GB", f"{f['written_gb']:.1f} GB"),
            *(f"{f['read_of_copying']:.2f}", f"{f['moved_of_copying']:.2f}", f"{f['peak_mb']:,.0f} MB"),
        )
        for name, f in figures.items()
    ]
    bound = 600 + 3 * largest / 1e6
    measure.report(
        f"a checkpoint of {size / 1e9:.1f} GB in {options.dtype}; largest tensor {largest / 1e6:.0f} MB, "
        f"so at most {bound:,.0f} MB",
        ("", "time", "read", "written", "read a second, of copying", "read and written, of copying", "most memory"),
        rows,
        {"options": dataclasses.asdict(options), "bound_mb": bound, "figures": figures},
        options.json,
    )
