"""Data: `python -m jam_jax.data world | train-text | assemble | tokenize | show`, from raw data to token stores."""

import dataclasses
import operator
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jam_jax import config

if TYPE_CHECKING:
    from jam_jax.data.documents import Document


@dataclasses.dataclass(frozen=True)
class World:
    """Write the built-in world: TFDS datasets `text`, `captions`, `illustrated`; splits train, validation, test."""

    target: str  # directory to write the datasets into
    seed: int = 0
    share: float = 1.0  # of the full number of examples


@dataclasses.dataclass(frozen=True)
class TrainText:
    """Train a SentencePiece text tokenizer on the texts of one or several sources."""

    sources: tuple[str, ...]  # TFDS datasets, image folders, folders of text files
    target: str  # file to write, e.g. text.model
    split: str = "train"
    vocab: int = 512  # pieces, 260 special and byte pieces included; fewer where the texts are too few


@dataclasses.dataclass(frozen=True)
class Assemble:
    """Put a text model and a trained image tokenizer together as one tokenizer directory."""

    text: str  # SentencePiece model
    image: str  # model directory of a VQGAN
    target: str  # directory to write
    sentinels: int = 514  # <mask:i> of the CM3 objective


@dataclasses.dataclass(frozen=True)
class Tokenize:
    """Write the documents of a source as a token store."""

    source: str  # TFDS dataset, image folder, or folder of text files
    tokenizer: str  # tokenizer directory
    target: str  # directory of the new store
    split: str = "train"
    limit: int = 0  # documents, the first ones; 0: all
    captions_ask: bool = False  # make instructions of captioned pictures: the caption asks, caption and picture answer


@dataclasses.dataclass(frozen=True)
class Show:
    """Print one document of a token store, and write it as a page if asked."""

    store: str  # token store; may be given first, without --store
    row: int = 0  # number of the document
    tokenizer: str = ""  # tokenizer directory; empty: the one the store was made with
    html: str = ""  # page to write, with the pictures as the tokenizer decodes them
    check: bool = False  # read the whole store first and compare its checksums


def write_world(options: World) -> None:
    """The `world` command."""
    from jam_jax import progress
    from jam_jax.data import world

    def scaled(counts: world.Counts) -> world.Counts:
        return world.Counts(**{k: max(1, round(v * options.share)) for k, v in dataclasses.asdict(counts).items()})

    if options.share <= 0:
        raise ValueError(f"--share must be more than 0, got {options.share}")
    counts = {split: scaled(count) for split, count in world.COUNTS.items()}
    total = sum(sum(dataclasses.asdict(count).values()) for count in counts.values())
    with progress.bar("world", total) as advance:
        world.write(options.target, options.seed, counts, progress=advance)
    print(f"{options.target}: {total} examples in {', '.join(world.FEATURES)}")


def train_text(options: TrainText) -> None:
    """The `train-text` command."""
    from jam_jax.data import formats
    from jam_jax.data.tokenizers import train_text_tokenizer

    if Path(options.target).exists():
        raise ValueError(f"{options.target} exists already: name another --target, or remove it first")
    documents = (document for source in options.sources for document in formats.read(source, options.split))
    texts = (text for document in documents for text in (document.question, *document.texts) if text)
    pieces = train_text_tokenizer(texts, options.target, options.vocab)
    print(f"{options.target}: {pieces} pieces")


def assemble(options: Assemble) -> None:
    """The `assemble` command."""
    from jam_jax.data.tokenizers import build_tokenizer, open_tokenizer

    build_tokenizer(options.target, options.text, options.image, options.sentinels)
    space = open_tokenizer(options.target).space
    print(
        f"{options.target}: {space.vocab_size} ids, of them {space.text[1] - space.text[0]} for text and "
        f"{len(space.image_ids)} for images; {space.codes_per_image} codes a picture; fingerprint {space.fingerprint}"
    )


def tokenize(options: Tokenize) -> None:
    """The `tokenize` command."""
    from itertools import islice

    from jam_jax.data import formats
    from jam_jax.data.store import write_store
    from jam_jax.data.tokenizers import open_tokenizer

    tokenizer = open_tokenizer(options.tokenizer)
    documents: Iterable[Document] = formats.read(options.source, options.split)
    total = operator.length_hint(documents, 0)
    if options.limit:
        documents, total = islice(documents, options.limit), min(total, options.limit)
    if options.captions_ask:
        documents = _captions_ask(documents)
    source = f"{options.source} ({options.split})"
    store = write_store(options.target, documents, tokenizer, total=total or None, source=source)
    counts = ", ".join(f"{count} {name}" for name, count in store.manifest["counts"].items())
    print(f"{options.target}: {len(store)} documents, {store.manifest['tokens']} tokens ({counts})")


def _captions_ask(documents: "Iterable[Document]") -> "Iterator[Document]":
    """A caption and its picture → an instruction that answers with both: the caption before the picture, as always."""
    for document in documents:
        asks = not document.question and document.texts and document.pictures
        yield dataclasses.replace(document, question=document.texts[0]) if asks else document


def show(options: Show) -> None:
    """The `show` command."""
    import numpy as np

    from jam_jax import html
    from jam_jax.data.formats.pictures import png
    from jam_jax.data.store import Store
    from jam_jax.data.tokenizers import open_tokenizer

    store = Store(options.store)
    if options.check:
        store.verify()
    if not 0 <= options.row < len(store):
        raise ValueError(
            f"{options.store} has {len(store)} documents, 0 to {len(store) - 1}; there is no {options.row}"
        )
    tokenizer = open_tokenizer(options.tokenizer or store.manifest.get("tokenizer", ""))
    store.check(tokenizer.space)
    ids = store[options.row]
    reading = tokenizer.read_document(ids)
    length, prompt = store.lengths[options.row].tolist()
    print(f"{options.store} row {options.row} of {len(store)}: {length} tokens, {prompt} of them prompt")
    if reading.question:
        print(f"question: {reading.question}")
    for run in reading.runs:
        print(f"text: {run}" if isinstance(run, str) else f"picture: {len(run)} codes {' '.join(map(str, run))}")
    if reading.fault:
        print(f"not well formed: {reading.fault}")
    if options.html:
        pictures = iter(tokenizer.decode_codes(np.stack(reading.pictures)) if reading.pictures else ())
        parts = [run if isinstance(run, str) else png(next(pictures)) for run in reading.runs]
        question = html.document_html([reading.question]) if reading.question else ""
        page = html.page(f"{options.store}, row {options.row}", question + html.document_html(parts))
        Path(options.html).write_text(page, encoding="utf-8")
        print(f"written: {options.html}")


def main(args: Sequence[str] | None = None) -> None:
    """The command."""
    args = list(sys.argv[1:] if args is None else args)
    if args[:1] == ["show"] and len(args) > 1 and not args[1].startswith("-"):
        args.insert(1, "--store")
    options = config.cli(
        World | TrainText | Assemble | Tokenize | Show,
        args,
        prog="python -m jam_jax.data",
        description=__doc__ or "",
    )
    commands: dict[type, Any] = {
        World: write_world,
        TrainText: train_text,
        Assemble: assemble,
        Tokenize: tokenize,
        Show: show,
    }
    commands[type(options)](options)


if __name__ == "__main__":
    config.run(main)
