"""Writing and drawing, beside `transformers` with a model of the same shape: tokens per second, and of what bandwidth.

Weights are random, which changes no time. Text is written by sampling at temperature 1 and top-p 0.9, so many tokens
whatever they are; a picture is drawn at the same, with guidance and without. Every time is of a whole call, its prompt
included. All take turns, a few rounds of them, the peer in a process of its own: a time is the median of the rounds,
and a ratio that of the rounds' own ratios. The peer's way is the best that it has: a cache that grows, a static one, or
a static one compiled.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from jam_jax import config, streaming, tokens
from jam_jax.bench import measure, turns
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
WRITE, DRAWS = "write", {"draw": 1.0, "draw guided": 3.5}  # what is timed; of drawing the strength of guidance
COMPARED = 8  # tokens at most that both sides write greedily


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
    sides = {"jam_jax": turns.Side("jam_jax", ours, options)}
    if options.peer != "none":
        sides["transformers"] = turns.Side("transformers", theirs, options)
    try:
        _report(options, *_measured(options, sides))
    finally:
        for side in sides.values():
            side.close()


def ours(options: Options) -> turns.Calls:
    """What we can do, each to its end: the facts, the first tokens greedily, and whatever is timed, by its name."""
    import jax

    from jam_jax.decode import weights
    from jam_jax.models import few_rows

    keep_freed_memory()
    space, shape = space_of(options), model_of(options)
    held: dict[bool, Any] = {}
    for batch in options.batches:
        few = few_rows.few(batch)
        if few not in held:
            held[few] = weights.prepare_leaves(shape, random_leaves(shape), options.precision, rows=batch)
    decoding = {batch: held[few_rows.few(batch)] for batch in options.batches}
    jax.block_until_ready(held)
    calls: turns.Calls = {
        "facts": lambda: {
            "device": jax.devices()[0].device_kind,
            "bandwidth_gb": bandwidth() / 1e9,
            "weights_mb": read_bytes(decoding[options.batches[0]][1]) / 1e6,
            "read_bytes": {batch: read_bytes(params) for batch, (_, params) in decoding.items()},
            "position_bytes": {batch: cache_bytes(shape, batch) for batch in options.batches},
        },
        "greedy": functools.partial(greedy, decoding[options.batches[0]], space, options),
    }
    for batch in options.batches:
        of = (decoding[batch], space, options, batch)
        calls[f"{WRITE}, batch {batch}"] = functools.partial(write, *of)
        for kind, strength in DRAWS.items():
            calls[f"{kind}, batch {batch}"] = functools.partial(draw, *of, strength)
    return calls


def theirs(options: Options) -> turns.Calls:
    """What the peer can do: the first tokens greedily, and writing in each of its ways, `{way}, batch {batch}`."""
    import jax

    keep_freed_memory()  # the peer gains from it too
    jax.config.update("jax_platforms", "cpu")  # the accelerator is torch's here
    from jam_jax.bench.transformers_peer import Peer

    space, shape = space_of(options), model_of(options)
    peer = Peer(shape, space, random_leaves(shape) if options.shape in SMALL else None, options.precision)
    ways = peer.ways(compiled=options.peer == "best")
    calls: turns.Calls = {"ways": lambda: list(ways), "greedy": functools.partial(peer.greedy, space, options)}
    for batch in options.batches:
        asked = prompts(space, options.prompt, batch)
        for way, how in ways.items():
            calls[f"{way}, batch {batch}"] = functools.partial(peer.write, asked, options.tokens, how)
    return calls


def _timed(options: Options) -> list[str]:
    """Of our calls those that are timed: texts first, then pictures, each of every batch."""
    draws = [f"{kind}, batch {batch}" for batch in options.batches for kind in DRAWS]
    return [f"{WRITE}, batch {batch}" for batch in options.batches] + draws


def _measured(
    options: Options, sides: dict[str, turns.Side]
) -> tuple[dict[str, Any], dict[str, dict[str, float]], list[dict[str, float]]]:
    """The facts, the seconds of each of the peer's ways, by `transformers, batch {batch}`, and those of every round."""
    facts = sides["jam_jax"].ask("facts").value
    calls = {name: (sides["jam_jax"], name) for name in _timed(options)}
    ways: dict[str, dict[str, float]] = {}
    if "transformers" in sides:
        peer = sides["transformers"]
        if options.shape in SMALL:  # with the same weights
            facts["the same greedy tokens"] = peer.ask("greedy").value == sides["jam_jax"].ask("greedy").value
        for batch in options.batches:
            attempts = {way: f"{way}, batch {batch}" for way in peer.ask("ways").value}
            for attempt in attempts.values():
                peer.ask(attempt)
            found = {way: peer.ask(attempt).seconds for way, attempt in attempts.items()}
            ways[f"transformers, batch {batch}"] = found
            calls[f"transformers, batch {batch}"] = peer, attempts[min(found, key=lambda way: found[way])]
    for side, call in calls.values():
        side.ask(call)
    return (
        facts,
        ways,
        [{name: side.ask(call).seconds for name, (side, call) in calls.items()} for _ in range(options.repeat)],
    )


def _report(
    options: Options, facts: dict[str, Any], ways: dict[str, dict[str, float]], rounds: list[dict[str, float]]
) -> None:
    """A row for whatever was timed, and one for each ratio."""
    figures: dict[str, Any] = {
        name: facts[name] for name in ("bandwidth_gb", "weights_mb", "the same greedy tokens") if name in facts
    }
    rows: list[tuple[str, ...]] = []
    for name in rounds[0]:
        kind, _, number = name.partition(", batch ")
        batch = int(number)
        count = options.codes if kind in DRAWS else options.tokens
        seconds = statistics.median(times[name] for times in rounds)
        figure: dict[str, Any] = {"seconds": seconds, "tokens_per_second": batch * count / seconds}
        figures[name] = figure
        row = (f"{seconds:.2f} s", f"{figure['tokens_per_second']:,.0f}")
        if name in ways:
            figure["ways"] = ways[name]
            rows.append((f"{name} ({min(ways[name], key=lambda way: ways[name][way])})", *row, "", ""))
            continue
        # The prompt and half of what comes after it, on average, are read as cache for every token.
        cache = (1 + (DRAWS.get(kind, 1.0) != 1.0)) * facts["position_bytes"][batch] * (options.prompt + count / 2)
        figure["gb_per_second"] = (facts["read_bytes"][batch] + cache) * count / seconds / 1e9
        figure["of_bandwidth"] = figure["gb_per_second"] / facts["bandwidth_gb"]
        rows.append((name, *row, f"{figure['gb_per_second']:.1f}", f"{figure['of_bandwidth']:.0%}"))
    for batch in options.batches:
        pairs = {f"guided / unguided, batch {batch}": (f"draw guided, batch {batch}", f"draw, batch {batch}")}
        if ways:
            pairs[f"times transformers, batch {batch}"] = (f"transformers, batch {batch}", f"write, batch {batch}")
        for name, (slow, fast) in pairs.items():
            figures[name] = statistics.median(times[slow] / times[fast] for times in rounds)
            rows.append((name, f"{figures[name]:.2f}", "", "", ""))
    measure.report(
        f"{options.shape} in {options.precision}: {facts['weights_mb']:,.0f} MB of weights are read for a token; "
        f"memory at {facts['bandwidth_gb']:.0f} GB/s on {facts['device']}",
        ("", "time", "tokens/s", "GB/s read", "of bandwidth"),
        rows,
        {"options": dataclasses.asdict(options), "figures": figures},
        options.json,
    )


def random_leaves(shape: config.DecoderConfig | config.CrossConfig) -> dict:
    """Random float32 parameters, the same in every process, made as they are read."""
    import jax

    from jam_jax.models import model

    def leaf(number: int, like: jax.ShapeDtypeStruct) -> streaming.Leaf:
        def row(i: int) -> np.ndarray:
            values = np.random.Generator(np.random.SFC64((number, i))).random(like.shape[1:], np.float32)
            values -= np.float32(0.5)
            values *= np.float32(0.07)  # of deviation 0.02
            return values

        def read(index: streaming.Index) -> np.ndarray:
            return np.stack([row(i)[index[1:]] for i in range(index[0].start, index[0].stop)])

        dtype = np.dtype(np.float32)
        return streaming.Leaf(like.shape, dtype, read, (1, *like.shape[1:]))

    structure: Any
    leaves, structure = jax.tree.flatten(model.shapes(shape))
    return structure.unflatten([leaf(number, like) for number, like in enumerate(leaves)])


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


def greedy(
    decoding: tuple[config.DecoderConfig | config.CrossConfig, dict], space: tokens.TokenSpace, options: Options
) -> list[int]:
    """The first tokens of text, the likeliest ones."""
    from jam_jax.decode import engine

    n = min(COMPARED, options.tokens)
    settings = Settings(text=Sampling(temperature=0.0), max_images=0, min_text=n, max_text=n)
    return engine.generate(*decoding, space, prompts(space, options.prompt, 1), settings)[0][:n]


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
