"""Searching a bank, beside plain FAISS in memory: how fast, how many of the right ones, how much memory.

The vectors are made up with the clusters of real embeddings: drawn around many centres, of length 1. A query is drawn
as a document is. Recall is the share of the ten most similar documents that a search finds.
"""

import dataclasses
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jam_jax.bench import measure
from jam_jax.retrieval.index import Kind

if TYPE_CHECKING:
    from jam_jax.retrieval.bank import Bank
    from jam_jax.retrieval.vectors import Embeddings

AT_ONCE = 1 << 15  # vectors that are drawn at once
FOUND = 10  # documents a query asks for


@dataclasses.dataclass(frozen=True)
class Options:
    """Build banks of made-up vectors, search them, and compare with plain FAISS."""

    documents: int = 1_000_000
    width: int = 512  # of a vector; ViT-B/32's
    centres: int = 20_000
    spread: float = (
        0.6  # how far documents are from their centre, for one of length 1: two of a centre score 1/(1 + s²)
    )
    queries: int = 1000
    kinds: tuple[Kind, ...] = ("exact", "ivfpq")
    repeat: int = 5  # times every search is run, in turns; the median is reported
    folder: str = ""  # where to work; about four times the vectors' float16 size is needed. Default: a temporary folder
    json: str = ""  # a file for the figures

    def __post_init__(self) -> None:
        if min(self.documents, self.width, self.centres, self.queries, self.repeat) < 1:
            raise ValueError("documents, width, centres, queries and repeat must be at least 1")


def drawn(options: Options, count: int, seed: int) -> Iterator[np.ndarray]:
    """Vectors around the centres, float32 [n, width] of length 1, in batches."""
    centres = np.random.default_rng(0).standard_normal((options.centres, options.width), np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    rng = np.random.default_rng((1, seed))
    for start in range(0, count, AT_ONCE):
        size = min(AT_ONCE, count - start)
        noise = rng.standard_normal((size, options.width), np.float32)
        found = centres[rng.integers(0, options.centres, size)] + noise * (options.spread / options.width**0.5)
        yield found / np.linalg.norm(found, axis=1, keepdims=True)


def embeddings(options: Options, target: Path) -> "Embeddings":
    """Made-up embeddings as `embed` would write them."""
    from jam_jax.data.parts import Part
    from jam_jax.retrieval import pieces, vectors

    shape, last = (options.documents, options.width), [np.zeros(options.documents, bool)]
    told: dict[str, Any] = {"what": "embeddings", "width": options.width, "documents": options.documents}
    told |= {
        name: {"path": "nowhere", key: "made up"} for name, key in (("encoder", "fingerprint"), ("store", "identity"))
    }

    def fill(aside: Path) -> dict:
        vectors.write_part(aside, drawn(options, options.documents, 0), last, "<f2", shape)
        return {}

    pieces.write(target, Part(0, 1), told, fill)
    return vectors.merge(target)


def run(options: Options) -> None:
    """Make the vectors and the banks, then measure."""
    from jam_jax.retrieval import bank

    with tempfile.TemporaryDirectory(dir=options.folder or None, prefix="jam-bench-") as name:
        folder = Path(name)
        made = embeddings(options, folder / "embeddings")
        queries = np.concatenate(list(drawn(options, options.queries, 1)))
        figures: dict[str, dict[str, float]] = {}
        for kind in options.kinds:
            start = time.monotonic()
            bank.build(folder / kind, made, kind)
            bank.merge(folder / kind)
            figures[kind] = {"build_seconds": time.monotonic() - start}
        np.save(folder / "queries.npy", queries)
        for kind in options.kinds:
            figures[kind] |= weighed(folder / kind, folder / "queries.npy")
        _search(options, folder, made, queries, figures)
    rows = [
        (
            *(name, _shown(f, "build_seconds", "{:.0f} s"), _shown(f, "open_seconds", "{:.3f} s")),
            *(f"{f['queries_per_second']:,.0f}", f"{f['of_plain']:.2f}", f"{f['recall']:.3f}"),
            *(_shown(f, "memory_mb", "{:,.0f} MB"), _shown(f, "mapped_mb", "{:,.0f} MB")),
        )
        for name, f in figures.items()
    ]
    measure.report(
        f"{options.documents:,} vectors of {options.width}, {options.centres:,} centres, {FOUND} documents a query",
        ("", "built in", "opened in", "queries/s", "of plain FAISS", f"recall@{FOUND}", "memory", "mapped files read"),
        rows,
        {"options": dataclasses.asdict(options), "figures": figures},
        options.json,
    )


def _shown(figures: dict[str, float], name: str, form: str) -> str:
    return form.format(figures[name]) if name in figures else "–"


def _search(
    options: Options, folder: Path, made: "Embeddings", queries: np.ndarray, figures: dict[str, dict[str, float]]
) -> None:
    """Time plain FAISS and every bank in turns, and count what they find."""
    import faiss

    from jam_jax.retrieval.bank import Bank

    plain = faiss.IndexFlatIP(options.width)
    for start in range(0, options.documents, AT_ONCE):
        plain.add(made.vectors.rows(start, min(start + AT_ONCE, options.documents)))
    searches: dict[str, Callable[[], np.ndarray]] = {"plain FAISS": lambda: plain.search(queries, FOUND)[1]}
    for kind in options.kinds:
        searches[kind] = functools.partial(_numbers, Bank(folder / kind), queries)
    seconds: dict[str, list[float]] = {name: [] for name in searches}
    found = {name: search() for name, search in searches.items()}  # and the files are read
    for _ in range(options.repeat):
        for name, search in searches.items():
            start_time = time.monotonic()
            search()
            seconds[name].append(time.monotonic() - start_time)
    fastest = statistics.median(seconds["plain FAISS"])
    for name in searches:
        taken = statistics.median(seconds[name])
        right = [len(set(a) & set(b)) for a, b in zip(found["plain FAISS"].tolist(), found[name].tolist(), strict=True)]
        measured = {"queries_per_second": len(queries) / taken, "of_plain": fastest / taken}
        figures.setdefault(name, {}).update(measured, recall=sum(right) / (FOUND * len(queries)))


def _numbers(bank: "Bank", queries: np.ndarray) -> np.ndarray:
    return bank.search(queries, FOUND)[0]


def weighed(directory: Path, queries: Path) -> dict[str, float]:
    """How long a bank takes to open, and what it holds after a search, in a process of its own.

    Memory of its own, and pages of mapped files that were read, which the system takes back when it needs them.
    """
    code = f"from jam_jax.bench.retrieval import weigh; weigh({str(directory)!r}, {str(queries)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"a bank could not be weighed:\n{done.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def weigh(directory: str, queries: str) -> None:
    """Print what `weighed` gives; the libraries are loaded before."""
    import faiss  # noqa: F401

    from jam_jax.retrieval.bank import Bank

    asked, before = np.load(queries), _memory()
    start = time.monotonic()
    bank = Bank(directory)
    seconds = time.monotonic() - start
    bank.search(asked, FOUND)
    after = _memory()
    print(json.dumps({"open_seconds": seconds} | {name: after[name] - before[name] for name in after}))


def _memory() -> dict[str, float]:
    """Megabytes of this process, from Linux; nothing elsewhere."""
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    held = {line.split(":")[0]: int(line.split()[1]) / 1000 for line in lines if line.startswith("Rss")}
    return {"memory_mb": held["RssAnon"], "mapped_mb": held["RssFile"]} if held else {}
