"""Perplexity beside the forward pass of a training step: the same model, batch and precision, in turns, in one run.

The training step's forward pass has its batch on the device and gives the sums of the loss. Perplexity reads documents
that fill the rows of the same batches, moves them, scores them by both softmaxes, and sums per document on the host.
Documents of mixed lengths beside them show what padding costs; of these too only targets are counted.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, Literal

from jam_jax.bench import measure
from jam_jax.config import DecoderConfig
from jam_jax.machine import keep_freed_memory


@dataclasses.dataclass(frozen=True)
class Options:
    """Time perplexity beside the forward pass of a training step."""

    width: int = 512
    layers: int = 8
    heads: int = 8
    vocab: int = 8192
    batch: int = 4
    length: int = 512  # tokens of a row
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation, on float32 parameters
    batches: int = 5  # of a turn
    turns: int = 7  # each side takes; the median over turns is reported
    json: str = ""  # a file for the figures

    def __post_init__(self) -> None:
        if self.turns < 1 or self.batches < 1:
            raise ValueError(f"turns and batches must be at least 1, got {self.turns} and {self.batches}")
        if self.vocab < 64:
            raise ValueError(f"vocab must be at least 64, got {self.vocab}")


class Bench:
    """One model, and what its sides compute."""

    def __init__(self, options: Options) -> None:
        import jax
        import numpy as np

        from jam_jax import sharding, tokens
        from jam_jax.config import MeshConfig
        from jam_jax.models import model

        self._options, half = options, options.vocab // 2
        self._space = tokens.jam(text=half, codes=half - 20, codes_per_image=16, sentinels=18)
        self.config = DecoderConfig(
            vocab_size=self._space.vocab_size,
            layers=options.layers,
            width=options.width,
            heads=options.heads,
            head_size=options.width // options.heads,
            ffn_width=4 * options.width,
            max_positions=options.length,
            dtype=options.dtype,
            init_std=0.02,
        )
        self._mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
        rng = np.random.default_rng(0)
        rows = options.batch * options.batches
        self._full = [rng.integers(4, 2 * half - 20, options.length, np.int32) for _ in range(rows)]
        # As many targets in documents of half a row in the middle, and up to a whole one.
        lengths = np.clip(rng.lognormal(np.log(options.length / 2), 0.6, 4 * rows), 8, options.length).astype(int)
        lengths = lengths[: int(np.searchsorted(lengths.cumsum(), rows * options.length)) + 1]
        self._mixed = [rng.integers(4, 2 * half - 20, n, np.int32) for n in lengths]
        with jax.set_mesh(self._mesh):
            self._params = model.init(self.config, jax.random.key(0))
            self._batch = jax.numpy.asarray(
                rng.integers(4, 2 * half - 20, (options.batch, options.length + 1), np.int32)
            )
            self._forward = jax.jit(functools.partial(self._loss, jax.numpy.asarray(self._space.modality)))

    def _loss(self, modality: Any, params: dict, tokens: Any) -> Any:
        """What the training step computes before it differentiates."""
        import jax.numpy as jnp

        from jam_jax import losses
        from jam_jax.evaluate.scoring import CHUNK
        from jam_jax.models import model

        states, table = model.states(self.config, params, tokens[:, :-1])
        nll, _ = losses.next_token(states, table, tokens[:, 1:], CHUNK)
        return losses.sums(nll, tokens[:, 1:], jnp.ones(nll.shape), modality)

    def forward(self) -> int:
        """Forward passes of a training step; how many targets they had."""
        import jax

        with jax.set_mesh(self._mesh):
            for _ in range(self._options.batches):
                found = self._forward(self._params, self._batch)
            jax.block_until_ready(found)
        return self._batch.shape[0] * (self._batch.shape[1] - 1) * self._options.batches

    def perplexity(self, mixed: bool = False) -> int:
        """Perplexity over documents; how many targets they had."""
        from jam_jax.evaluate.perplexity import Reading, perplexity

        reading = Reading(batch_tokens=self._options.batch * self._options.length)
        documents = self._mixed if mixed else self._full
        found = perplexity(self.config, self._params, self._space, documents, reading=reading, mesh=self._mesh)
        return sum(found.count)


def run(options: Options) -> None:
    """All sides in turns."""
    keep_freed_memory()
    bench = Bench(options)
    sides: dict[str, Callable[[], int]] = {
        "a training step's forward pass": bench.forward,
        "perplexity, full rows": bench.perplexity,
        "perplexity, mixed lengths": functools.partial(bench.perplexity, mixed=True),
    }
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(options.turns + 1):
        for name, side in sides.items():
            start = time.monotonic()
            targets = side()
            if turn:  # the first compiles
                speeds[name].append(targets / (time.monotonic() - start))
    peer, *ours = speeds
    figures: dict[str, dict[str, float]] = {peer: {"tokens_per_second": statistics.median(speeds[peer])}}
    for name in ours:
        ratios = [own / other for own, other in zip(speeds[name], speeds[peer], strict=True)]
        figures[name] = {
            "tokens_per_second": statistics.median(speeds[name]),
            "of_forward": statistics.median(ratios),
            "least_of_forward": min(ratios),
            "most_of_forward": max(ratios),
        }
    rows = [
        (
            name,
            f"{figure['tokens_per_second']:,.0f}",
            f"{figure['of_forward']:.3f}" if "of_forward" in figure else "",
            f"{figure['least_of_forward']:.3f} to {figure['most_of_forward']:.3f}" if "of_forward" in figure else "",
        )
        for name, figure in figures.items()
    ]
    measure.report(
        f"{options.layers} layers of width {options.width}, {options.batch} x {options.length} tokens, {options.dtype}",
        ("", "tokens/s", "of the forward pass, median of turns", "least to most"),
        rows,
        {"options": dataclasses.asdict(options), "figures": figures},
        options.json,
    )
