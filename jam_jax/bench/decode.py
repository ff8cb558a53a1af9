"""Writing and drawing, beside `transformers` with a model of the same shape: tokens per second, and of what bandwidth.

Weights are random, which changes no time. Text is written by sampling at temperature 1 and top-p 0.9, so many tokens
whatever they are; a picture is drawn at the same, with guidance and without. Every time is of a whole call, its prompt
included. All take turns, a few rounds of them: a time is the median of the rounds, and a ratio that of the rounds' own
ratios. The peer's way is the best that it has: a cache that grows, a static one, or a static one compiled.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from jam_jax import config, tokens
from jam_jax.bench import measure
from jam_jax.decode.settings import Sampling, Settings
from jam_jax.machine import keep_freed_memory

# CM3leon's shapes, and small ones: layers, width, heads.
SHAPES = {
    "tiny": (2, 16, 2),
    "30m": (8, 512, 8),
    "760m": (24, 1536, 16),
    "7b": (32, 4096, 32),
    "cross-19b": (32, 4096, 32),
}
SMALL = ("tiny", "30m")  # with 8,192 rows of vocabulary, and the same weights for the peer
SAMPLING = Sampling(temperature=1.0, top_p=0.9)
GUIDANCE = 3.5


@dataclasses.dataclass(frozen=True)
class Options:
    """Tokens per second at some batch sizes, guided and unguided drawing, and the share of the memory's bandwidth."""

    shape: Literal["tiny", "30m", "760m", "7b", "cross-19b"] = "30m"
    precision: Literal["float32", "bfloat16", "int8"] = "float32"  # of our weights; the peer's are bfloat16 for int8
    batches: tuple[int, ...] = (1, 8)
    prompt: int = 32  # tokens of every prompt
    tokens: int = 256  # that are written
    codes: int = 1024  # of the picture that is drawn; a square number
    repeat: int = 5  # rounds in which everything is run once
    peer: Literal["best", "eager", "none"] = "best"  # eager: without torch.compile, which takes a minute
    json: str = ""  # a file for the figures

    def __post_init__(self) -> None:
        if min(self.repeat, self.prompt, self.tokens, *self.batches) < 1:
            raise ValueError("repeat, prompt, tokens and batches must be 1 or more")
        if round(self.codes**0.5) ** 2 != self.codes:
            raise ValueError(f"codes must be a square number, got {self.codes}")


def space_of(options: Options) -> tokens.TokenSpace:
    """The vocabulary: the paper's for the large shapes, 8,192 rows for the small one."""
    if options.shape in SMALL:
        return tokens.jam(text=4093, codes=4096, codes_per_image=options.codes, sentinels=1)
    return tokens.jam(text=56_320, codes=8192, codes_per_image=options.codes, reserved=1024, pad_to=8)


def model_of(options: Options) -> config.DecoderConfig | config.CrossConfig:
    """A decoder of CM3leon's architecture, or two with cross blocks after every second layer."""
    layers, width, heads = SHAPES[options.shape]
    needed = options.prompt + max(options.codes, options.tokens) + 2
    decoder = config.DecoderConfig(
        vocab_size=space_of(options).vocab_size,
        layers=layers,
        width=width,
        heads=heads,
        head_size=width // heads,
        ffn_width=4 * width,
        max_positions=needed if options.shape in SMALL else max(needed, 4096),
        dtype="bfloat16" if options.precision == "bfloat16" else "float32",
    )
    return config.CrossConfig(decoder, decoder) if options.shape == "cross-19b" else decoder


def run(options: Options) -> None:
    """Measure and report."""
    import jax

    from jam_jax.decode import weights
    from jam_jax.models import few_rows

    keep_freed_memory()
    space, shape = space_of(options), model_of(options)
    stored = random_params(shape)
    held: dict[bool, Any] = {}
    for batch in options.batches:
        if few_rows.suit(batch) not in held:
            held[few_rows.suit(batch)] = weights.prepare(shape, stored, options.precision, rows=batch)
    decoding = {batch: held[few_rows.suit(batch)] for batch in options.batches}
    jax.block_until_ready(held)
    first = decoding[options.batches[0]]
    figures: dict[str, Any] = {"weights_mb": read_bytes(first[1]) / 1e6, "bandwidth_gb": bandwidth() / 1e9}
    calls: dict[str, Callable[[], Any]] = {}
    for batch in options.batches:
        calls[f"write, batch {batch}"] = functools.partial(write, decoding[batch], space, options, batch)
    for batch in options.batches:
        calls[f"draw, batch {batch}"] = functools.partial(draw, decoding[batch], space, options, batch, 1.0)
        calls[f"draw guided, batch {batch}"] = functools.partial(draw, decoding[batch], space, options, batch, GUIDANCE)
    ways: dict[str, dict[str, float]] = {}
    if options.peer != "none":
        from jam_jax.bench.transformers_peer import Peer

        peer = Peer(shape, space, stored if options.shape in SMALL else None, options.precision)
        figures["the same greedy tokens"] = peer.agrees(first, space, options.prompt, min(8, options.tokens))
        for batch in options.batches:
            asked, name = prompts(space, options.prompt, batch), f"transformers, batch {batch}"
            known = {
                way: functools.partial(peer.write, asked, options.tokens, how)
                for way, how in peer.ways(compiled=options.peer == "best").items()
            }
            for attempt in known.values():
                attempt()
            ways[name] = {way: timed(call) for way, call in known.items()}
            calls[name] = known[min(ways[name], key=lambda way: ways[name][way])]
    del stored
    for call in calls.values():
        call()
    rounds = [{name: timed(call) for name, call in calls.items()} for _ in range(options.repeat)]

    rows: list[tuple[str, ...]] = []
    for name in calls:
        kind, _, number = name.partition(", batch ")
        batch = int(number)
        count = options.codes if kind.startswith("draw") else options.tokens
        seconds = statistics.median(times[name] for times in rounds)
        figure: dict[str, Any] = {"seconds": seconds, "tokens_per_second": batch * count / seconds}
        figures[name] = figure
        row = (f"{seconds:.2f} s", f"{figure['tokens_per_second']:,.0f}")
        if name in ways:
            figure["ways"] = ways[name]
            rows.append((f"{name} ({min(ways[name], key=lambda way: ways[name][way])})", *row, "", ""))
            continue
        # The prompt and half of what comes after it, on average, are read as cache for every token.
        cache = (1 + ("guided" in kind)) * cache_bytes(shape, batch) * (options.prompt + count / 2)
        figure["gb_per_second"] = (read_bytes(decoding[batch][1]) + cache) * count / seconds / 1e9
        figure["of_bandwidth"] = figure["gb_per_second"] / figures["bandwidth_gb"]
        rows.append((name, *row, f"{figure['gb_per_second']:.1f}", f"{figure['of_bandwidth']:.0%}"))
    for batch in options.batches:
        pairs = {f"guided / unguided, batch {batch}": (f"draw guided, batch {batch}", f"draw, batch {batch}")}
        if ways:
            pairs[f"times transformers, batch {batch}"] = (f"transformers, batch {batch}", f"write, batch {batch}")
        for name, (slow, fast) in pairs.items():
            figures[name] = statistics.median(times[slow] / times[fast] for times in rounds)
            rows.append((name, f"{figures[name]:.2f}", "", "", ""))
    measure.report(
        f"{options.shape} in {options.precision}: {figures['weights_mb']:,.0f} MB of weights are read for a token; "
        f"memory at {figures['bandwidth_gb']:.0f} GB/s on {jax.devices()[0].device_kind}",
        ("", "time", "tokens/s", "GB/s read", "of bandwidth"),
        rows,
        {"options": dataclasses.asdict(options), "figures": figures},
        options.json,
    )


def random_params(shape: config.DecoderConfig | config.CrossConfig) -> dict:
    """Random float32 parameters, made on the device."""
    import jax

    from jam_jax.models import model

    structure: Any
    shapes, structure = jax.tree.flatten(model.shapes(shape))
    draw = jax.jit(lambda key, shape: 0.02 * jax.random.normal(key, shape), static_argnums=1)
    return structure.unflatten([draw(jax.random.key(i), leaf.shape) for i, leaf in enumerate(shapes)])


def write(
    decoding: tuple[config.DecoderConfig | config.CrossConfig, dict],
    space: tokens.TokenSpace,
    options: Options,
    batch: int,
) -> list[list[int]]:
    """So many tokens of text for every row."""
    from jam_jax.decode import engine

    n = options.tokens
    settings = Settings(text=SAMPLING, min_text=n, max_text=n, max_images=0, max_new_tokens=n + 1)
    return engine.generate(*decoding, space, prompts(space, options.prompt, batch), settings)


def draw(
    decoding: tuple[config.DecoderConfig | config.CrossConfig, dict],
    space: tokens.TokenSpace,
    options: Options,
    batch: int,
    strength: float,
) -> list[list[int]]:
    """One picture for every row."""
    from jam_jax.decode import engine

    settings = Settings(image=SAMPLING, guidance=strength, max_images=1, max_new_tokens=options.codes + 1)
    opened = [[*prompt[:-1], space.picture_layout[0]] for prompt in prompts(space, options.prompt, batch)]
    return engine.generate(*decoding, space, opened, settings)


def prompts(space: tokens.TokenSpace, length: int, batch: int) -> list[list[int]]:
    """Random text behind the start of a document."""
    text = np.flatnonzero(space.modality == tokens.TEXT)
    rng = np.random.default_rng(0)
    return [[space.start, *rng.choice(text, length - 1).tolist()] for _ in range(batch)]


def cache_bytes(shape: config.DecoderConfig | config.CrossConfig, batch: int) -> int:
    """Bytes of one position of a cache."""
    import jax

    from jam_jax.models import model

    leaves = jax.tree.leaves(jax.eval_shape(lambda: model.empty_cache(shape, batch, 1)))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def bandwidth(size: int = 2**30) -> float:
    """Bytes per second of a program that does nothing but read memory, or read and write: the faster of the two."""
    import jax
    import jax.numpy as jnp

    array = jnp.ones((size // 4,), jnp.float32)
    speeds = []
    for program, moved in ((jax.jit(jnp.sum), size), (jax.jit(lambda a: 2 * a), 2 * size)):
        jax.block_until_ready(program(array))
        speeds += [moved / timed(functools.partial(program, array)) for _ in range(5)]
    return max(speeds)


def timed(call: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    import jax

    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def read_bytes(params: dict) -> int:
    """Bytes of prepared parameters that every token reads; of a table that only gives its rows next to nothing."""
    import jax

    looked_up = {"positions"} | ({"tokens"} if {"head", "unembed"} & set(params) else set())
    held = params | {"embed": {name: leaf for name, leaf in params["embed"].items() if name not in looked_up}}
    return sum(leaf.nbytes for leaf in jax.tree.leaves(held))
