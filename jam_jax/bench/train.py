"""Training steps beside PyTorch's: the same model, batch and precision, in turns, in one run.

The model is CM3leon's architecture, which transformers' OPT without biases and norm scales is too. Both sides start
from the same weights and see the same tokens. The peer is `transformers`, eager on a CPU and compiled on a GPU, with
PyTorch's own attention and fused AdamW; it has a process of its own. A ratio is the median of the turns' own ratios.
What a product of two large matrices reaches on either side is measured in the same run: no training can be faster.
"""

import dataclasses
import functools
import statistics
import time
from typing import Literal

from jam_jax.bench import measure, turns
from jam_jax.config import Config, CrossConfig, DataConfig, DecoderConfig, LossConfig, OptimConfig
from jam_jax.machine import keep_freed_memory


@dataclasses.dataclass(frozen=True)
class Options:
    """Time training steps of one model here and in PyTorch."""

    width: int = 512
    layers: int = 8
    heads: int = 8
    vocab: int = 8192
    batch: int = 4
    length: int = 512  # tokens of a row
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation, on float32 parameters
    remat: Literal["none", "full", "dots", "weights", "attention"] = "none"  # ours; the peer recomputes nothing
    cross: bool = False  # also JAM-Cross of two towers of half the layers each, a cross block in every second
    steps: int = 5  # of a turn
    turns: int = 6  # each side takes; the median of its turns is reported, the first left out
    json: str = ""  # a file for the figures

    def __post_init__(self) -> None:
        if self.turns < 2 or self.steps < 1:
            raise ValueError(f"turns must be at least 2 and steps at least 1, got {self.turns} and {self.steps}")


def model_of(options: Options) -> DecoderConfig:
    """The model that both sides train."""
    return DecoderConfig(
        vocab_size=options.vocab,
        layers=options.layers,
        width=options.width,
        heads=options.heads,
        head_size=options.width // options.heads,
        ffn_width=4 * options.width,
        max_positions=options.length,
        dtype=options.dtype,
        remat=options.remat,
        init_std=0.02,
    )


class Ours:
    """Our training step on made-up tokens."""

    def __init__(self, options: Options, model_config: DecoderConfig | CrossConfig) -> None:
        import jax
        import numpy as np

        from jam_jax import flops, sharding, train_step

        config = Config(
            data=DataConfig(block=options.length + 1),
            optim=OptimConfig(learning_rate=1e-4, warmup=1, schedule="constant"),
            loss=LossConfig(chunk=options.batch * options.length),
            batch=options.batch,
        )
        self._mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
        modality = np.zeros(options.vocab, np.int8)
        self._run = train_step.prepare(config, model_config, modality, self._mesh)
        shape = (options.batch, options.length)
        self.tokens = np.random.default_rng(0).integers(0, options.vocab, (options.batch, options.length + 1), np.int32)
        with jax.set_mesh(self._mesh):
            self.params = self._run.init(jax.random.key(0))
            self._state = self._run.init_state(self.params)
            self._batch = {
                "tokens": jax.numpy.asarray(self.tokens),
                "positions": jax.numpy.broadcast_to(jax.numpy.arange(options.length), shape),
                "weights": jax.numpy.ones(shape),
            }
        self.operations = options.batch * options.length * flops.per_token(model_config, options.length)

    def steps(self, count: int) -> float:
        """Run some steps; the last one's loss."""
        import jax

        with jax.set_mesh(self._mesh):
            for _ in range(count):
                self.params, self._state, found = self._run.step(self.params, self._state, self._batch)
        return float(found["loss"] / found["tokens"])


def run(options: Options) -> None:
    """All sides in turns, then what bounds them."""
    sides = {
        "jam_jax": turns.Side("jam_jax", ours, options, model_of(options)),
        "PyTorch": turns.Side("PyTorch", theirs, options),
    }
    if options.cross:
        tower = dataclasses.replace(model_of(options), layers=max(options.layers // 2, 1))
        crossed = CrossConfig(tower, tower, every=2)
        sides["jam_jax, JAM-Cross"] = turns.Side("jam_jax, JAM-Cross", ours, options, crossed)
    try:
        _report(options, sides)
    finally:
        for side in sides.values():
            side.close()


def ours(options: Options, model_config: DecoderConfig | CrossConfig) -> turns.Calls:
    """A turn of our steps, what they compute, and our ceiling."""
    keep_freed_memory()
    side = Ours(options, model_config)
    return {
        "turn": functools.partial(side.steps, options.steps),
        "operations": lambda: side.operations,
        "product": functools.partial(_product_ours, options),
    }


def theirs(options: Options) -> turns.Calls:
    """A turn of the peer's steps, from our weights, and its ceiling."""
    import jax

    keep_freed_memory()  # the peer gains from it too
    jax.config.update("jax_platforms", "cpu")  # the accelerator is torch's here
    from jam_jax.bench.train_torch import Theirs

    given = Ours(options, model_of(options))
    side = Theirs(model_of(options), given.params, given.tokens)
    return {
        "turn": functools.partial(side.steps, options.steps),
        "product": functools.partial(side.product, _side(options)),
    }


def _report(options: Options, sides: dict[str, turns.Side]) -> None:
    """Measure, and a row for each side and each ceiling."""
    rounds = [{name: side.ask("turn") for name, side in sides.items()} for _ in range(options.turns + 1)]
    ceilings = {name: sides[name].ask("product").value for name in ("jam_jax", "PyTorch")}
    figures = {}
    for name, side in sides.items():
        taken = statistics.median(answers[name].seconds for answers in rounds[1:]) / options.steps  # the first compiles
        operations = (side if name != "PyTorch" else sides["jam_jax"]).ask("operations").value
        figures[name] = {
            "seconds_per_step": taken,
            "tokens_per_second": options.batch * options.length / taken,
            "teraflops": operations / taken / 1e12,
            "loss": rounds[-1][name].value,
            "of_peer": statistics.median(answers["PyTorch"].seconds / answers[name].seconds for answers in rounds[1:]),
        }
    rows = [
        (
            *(name, f"{f['seconds_per_step'] * 1e3:,.0f} ms", f"{f['tokens_per_second']:,.0f}"),
            *(f"{f['teraflops']:.3f}", f"{f['of_peer']:.2f}", f"{f['loss']:.4f}"),
        )
        for name, f in figures.items()
    ]
    rows += [(f"a product of matrices, {name}", "", "", f"{found:.3f}", "", "") for name, found in ceilings.items()]
    measure.report(
        f"{options.layers} layers of width {options.width}, {options.batch} x {options.length} tokens, {options.dtype}",
        ("", "a step", "tokens/s", "TFLOP/s of the model", "of PyTorch", "loss"),
        rows,
        {"options": dataclasses.asdict(options), "figures": figures, "products_teraflops": ceilings},
        options.json,
    )


def _side(options: Options) -> tuple[int, int, int]:
    """Sizes of a product like those of the feed-forward layers."""
    return options.batch * options.length, options.width, 4 * options.width


def _product_ours(options: Options) -> float:
    """TFLOP/s of a product of matrices as large as the model's largest, in its compute dtype."""
    import jax
    import jax.numpy as jnp

    rows, inner, columns = _side(options)
    a, b = jnp.ones((rows, inner), options.dtype), jnp.ones((inner, columns), options.dtype)
    product = jax.jit(jnp.matmul)
    product(a, b).block_until_ready()
    start, times = time.monotonic(), 0
    while time.monotonic() - start < 1:
        for _ in range(10):
            out = product(a, b)
        out.block_until_ready()
        times += 10
    return 2 * rows * inner * columns * times / (time.monotonic() - start) / 1e12
