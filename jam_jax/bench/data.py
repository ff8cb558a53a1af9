"""From text to a token store, and from a store to CM3 blocks: how fast, and in how much memory.

Text and stores are made up. Speeds are tokens a second of processor time, so that other work on the machine does not
count; beside each step stands a peer: the tokenizer library alone, a flat file of tokens cut into blocks without
documents, masks or an order, the records of the store read one by one, and NumPy's shuffled table for the order.
"""

import dataclasses
import multiprocessing
import operator
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jam_jax import tokens
from jam_jax.bench import measure, tokenizing
from jam_jax.config import DataConfig, SourceConfig
from jam_jax.data import store as stores
from jam_jax.data.blocks import SourceBlocks
from jam_jax.data.order import Order
from jam_jax.data.sequences import Sequences
from jam_jax.data.stream import Stream

SPACE = tokens.jam(text=56320, codes=8192, codes_per_image=1024, reserved=1024, pad_to=8)
TEXT, TEXT_END = SPACE.text  # one run of ids
BLOCK = 4097


@dataclasses.dataclass(frozen=True)
class Options:
    """Tokenize made-up text, cut blocks of 4,097 tokens, and open a table of ten million documents."""

    tokens: float = 8.0  # millions, in each of the stores that blocks are cut from
    words: int = 400_000  # of made-up text, tokenized once as long documents and once as short ones
    blocks: int = 500  # cut for each figure
    documents: int = 10_000_000  # in the length table whose memory is measured
    repeat: int = 7  # turns in which everything is run
    folder: str = ""  # where to work; default: a temporary folder
    json: str = ""  # a file for the figures

    def __post_init__(self) -> None:
        if min(self.tokens, self.words, self.blocks, self.documents, self.repeat) <= 0:
            raise ValueError("tokens, words, blocks, documents and repeat must be positive")


def run(options: Options) -> None:
    """Measure all, print the table, write the figures."""
    with tempfile.TemporaryDirectory(dir=options.folder or None, prefix="jam-bench-") as name:
        folder = Path(name)
        figures = _tokenizing(folder, options)
        for kind, records in (("captions", _captions), ("short texts", _texts)):
            figures |= _cutting(folder / kind, options, kind, records)
        memory = {
            "the length table": _in_own_process(_open_table, folder, options.documents),
            "the order by NumPy": _in_own_process(_shuffle, folder, options.documents),
        }
    rows = [
        (name, f"{f['tokens_per_second'] / 1e6:.2f}M", f"{f['of_peer']:.2f}" if "of_peer" in f else "")
        for name, f in figures.items()
    ]
    rows += [
        (f"{name}, {options.documents:,} documents", f"{f['megabytes']:.0f} MB", f"{f['seconds']:.1f} s")
        for name, f in memory.items()
    ]
    measure.report(
        "tokens a second of processor time; memory of a process's own, and the processor time it takes to be ready",
        ("", "speed, memory", "of the peer, time"),
        rows,
        {"options": dataclasses.asdict(options), "figures": figures, "memory": memory},
        options.json,
    )


def _figures(options: Options, count: float, steps: dict[str, Callable[[], object]]) -> dict[str, dict[str, Any]]:
    """Tokens a second of each step, and beside the first one, the peer.

    Steps take turns, so that what else the machine does meets them alike: a speed is that of a step's quickest run, and
    a share the median over the turns.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.repeat):
        for name, step in steps.items():
            start = time.process_time()
            step()
            times[name].append(time.process_time() - start)
    peer, *_ = times.values()
    return {
        name: {"tokens_per_second": count / min(taken)}
        | ({"of_peer": statistics.median(map(operator.truediv, peer, taken))} if i else {})
        for i, (name, taken) in enumerate(times.items())
    }


def _tokenizing(folder: Path, options: Options) -> dict[str, dict[str, Any]]:
    """The tokenizer library alone, and text to a finished store."""
    figures: dict[str, dict[str, Any]] = {}
    for case in tokenizing.cases(folder, options.words):
        steps = {f"{case.name}: the library alone": case.library, f"{case.name}: to a store": case.ours}
        figures |= _figures(options, case.count, steps)
    return figures


def _texts(count: int) -> Iterator[tuple[np.ndarray, int]]:
    """Texts of 20 to 200 tokens."""
    rng = np.random.default_rng(0)
    while count > 0:
        ids = np.append(rng.integers(TEXT, TEXT_END, rng.integers(20, 201)), SPACE.end_of_document)
        count -= len(ids)
        yield ids, 0


def _captions(count: int) -> Iterator[tuple[np.ndarray, int]]:
    """Captions of 10 to 60 tokens and their pictures."""
    rng = np.random.default_rng(0)
    while count > 0:
        caption = rng.integers(TEXT, TEXT_END, rng.integers(10, 61))
        picture = rng.integers(SPACE.image_ids[0], SPACE.image_ids[-1] + 1, SPACE.codes_per_image)
        ids = np.concatenate([caption, [SPACE.start_of_image], picture, [SPACE.end_of_document]])
        count -= len(ids)
        yield ids, 0


def _cutting(
    directory: Path, options: Options, kind: str, records: Callable[[int], Iterator[tuple[np.ndarray, int]]]
) -> dict[str, dict[str, Any]]:
    """A flat file cut into blocks, the records one by one, and blocks of every kind."""
    small, stores.SMALL = stores.SMALL, 0  # as a large store is read: from its file, not from memory
    try:
        store = stores.write_ids(directory, records(int(options.tokens * 1e6)), SPACE)
        order = Order((0,), len(store))(np.arange(len(store)))
        flat = np.concatenate([store[i] for i in order]).astype("<u4")
        flat.tofile(directory / "flat")
        mapped = np.memmap(directory / "flat", "<u4", "r")
        last = len(mapped) // BLOCK
        whole = round(options.blocks * BLOCK / store.lengths[:, 0].mean())  # as many records as the blocks hold

        def cut(**how: Any) -> SourceBlocks:
            return SourceBlocks(SourceConfig(str(directory), **how), store, DataConfig(block=BLOCK), SPACE, (0, 0))

        def make(blocks: SourceBlocks) -> Callable[[], object]:
            return lambda: [blocks[n] for n in range(options.blocks)]

        steps: dict[str, Callable[[], object]] = {
            "records alone": lambda: [store[i] for i in np.resize(order, whole).tolist()],
            "a flat file": lambda: [mapped[n % last * BLOCK :][:BLOCK].astype(np.int32) for n in range(options.blocks)],
            "blocks": make(cut(cm3=0.0)),
            "CM3 blocks": make(cut()),
            "CM3 blocks, none inside a picture": make(cut(cut="picture")),
            "packed documents": make(cut(cut="packed", cm3=0.0)),
        }
        return _figures(options, options.blocks * (BLOCK - 1), {f"{kind}: {name}": s for name, s in steps.items()})
    finally:
        stores.SMALL = small


class _Table:
    """As much of a store as an order of its documents needs: a length table."""

    def __init__(self, path: Path) -> None:
        self.lengths = np.asarray(np.load(path, mmap_mode="r"))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, document: int) -> np.ndarray:
        return np.full(int(self.lengths[document, 0]), SPACE.pad, np.int32)


def _open_table(folder: Path, documents: int) -> None:
    """Find blocks in two epochs of a length table."""
    from jam_jax.data.order import Orders

    store: Any = _Table(folder / "lengths.npy")
    stream = Stream(Sequences(SourceConfig(""), store, SPACE, ()), Orders((0,), documents))
    for start in (0, stream.period // 2, stream.period - BLOCK // 2):
        assert sum(len(piece.ids) for piece in stream.read(start, start + BLOCK)) == BLOCK


def _shuffle(folder: Path, documents: int) -> None:
    """What an order is without a bijection: a table of the documents and one of where they end, both in memory."""
    lengths = np.load(folder / "lengths.npy", mmap_mode="r")
    order = np.random.default_rng(0).permutation(documents)
    kept = order, np.cumsum(lengths[order, 0], dtype=np.int64)
    assert len(kept[1]) == documents


def _in_own_process(step: Callable[[Path, int], None], folder: Path, documents: int) -> dict[str, float]:
    """Seconds, and the megabytes by which the process's own memory grew at most; mapped files are shared."""
    path = folder / "lengths.npy"
    if not path.exists():
        table = np.zeros((documents, 2), np.uint32)
        table[:, 0] = np.random.default_rng(0).integers(20, 200, documents)
        np.save(path, table)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_weigh, (step, folder, documents))


def _weigh(step: Callable[[Path, int], None], folder: Path, documents: int) -> dict[str, float]:
    import threading

    before, most, done = _own_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.002):
            most = max(most, _own_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.process_time()
    step(folder, documents)
    seconds = time.process_time() - start
    done.set()
    watcher.join()
    return {"megabytes": max(most, _own_bytes()) / 1e6 - before / 1e6, "seconds": seconds}


def _own_bytes() -> int:
    """Bytes of memory that belong to this process alone; on Linux pages of mapped files are told apart."""
    import psutil

    memory = psutil.Process().memory_info()
    return memory.rss - getattr(memory, "shared", 0)
