"""Data: `python -m jam_jax.data world | train-text | assemble | tokenize | merge | show`, raw data to token stores."""

import dataclasses
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jam_jax import config
from jam_jax.data.settings import ReadSettings
from jam_jax.model_config import at_least

if TYPE_CHECKING:
    from jam_jax.data.documents import Document
    from jam_jax.data.store import Store


@dataclasses.dataclass(frozen=True)
class World:
    """Write the built-in world: TFDS datasets `text`, `captions`, `illustrated`; splits train, validation, test."""

    target: str  # directory to write the datasets into
    seed: int = 0
    share: float = 1.0  # of the full number of examples


@dataclasses.dataclass(frozen=True)
class TrainText(ReadSettings):
    """Train a SentencePiece text tokenizer on the texts of one or several sources."""

    sources: tuple[str, ...]  # directories, files, or names of TFDS datasets
    target: str  # file to write, e.g. text.model
    split: str = "train"
    vocab: int = 512  # pieces, 260 special and byte pieces included; fewer where the texts are too few


@dataclasses.dataclass(frozen=True)
class Assemble:
    """Put a text model and an image tokenizer together, or give an imported model's tokenizer its image tokenizer."""

    text: str  # SentencePiece model, or the tokenizer/ of an imported model
    image: str  # model directory of a VQGAN
    target: str = ""  # directory to write; empty: the imported model's own, which gets the image tokenizer
    sentinels: int = 514  # <mask:i> of the CM3 objective; an imported vocabulary has its own

    def __post_init__(self) -> None:
        at_least(self, 0, "sentinels")


@dataclasses.dataclass(frozen=True)
class Tokenize(ReadSettings):
    """Write the documents of a source as a token store. docs/data.md shows every format."""

    source: str  # directory, file, or name of a TFDS dataset
    tokenizer: str  # tokenizer directory
    target: str  # directory of the new store
    split: str = "train"
    limit: int = 0  # documents, the first ones; 0: all
    shard: str = ""  # I/N: only part I of the parts 0 to N - 1, for N processes; the last to end merges them
    captions_ask: bool = False  # make instructions of captioned pictures: the caption asks, caption and picture answer

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.source:
            raise ValueError("--source is empty: name a directory, a file or a TFDS dataset")
        at_least(self, 0, "limit")


@dataclasses.dataclass(frozen=True)
class Merge:
    """Put the shards of a token store together, if the process that wrote the last one did not."""

    store: str  # directory that `tokenize --shard` wrote into; may be given first, without --store


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

    if not options.share > 0:
        raise ValueError(f"--share must be more than 0, got {options.share}")
    counts = {split: scaled(count) for split, count in world.COUNTS.items()}
    total = sum(sum(dataclasses.asdict(count).values()) for count in counts.values())
    with progress.bar("world", total) as advance:
        world.write(options.target, options.seed, counts, progress=advance)
    print(f"{options.target}: {total} examples in {', '.join(world.FEATURES)}")


def train_text(options: TrainText) -> None:
    """The `train-text` command."""
    from jam_jax.data import formats
    from jam_jax.data.sentencepiece_text import train_text_tokenizer

    if Path(options.target).exists():
        raise ValueError(f"{options.target} exists already: name another --target, or remove it first")
    sources = [formats.open_source(source, options.split, options) for source in options.sources]
    for source in sources:
        print(f"{source.name}: taken for {source.taken_for}")
    documents = (document for source in sources for document in source.documents())
    texts = (text for document in documents for text in (document.question, *document.texts) if text)
    pieces = train_text_tokenizer(texts, options.target, options.vocab)
    print(f"{options.target}: {pieces} pieces")


def assemble(options: Assemble) -> None:
    """The `assemble` command."""
    from jam_jax import checkpoint, tokens
    from jam_jax.data import vocabulary
    from jam_jax.data.tokenizers import build_tokenizer, open_tokenizer

    text, target = Path(options.text), options.target or options.text
    if not vocabulary.is_another(text):
        if not options.target:
            raise ValueError(f"{text} is no imported model's tokenizer: give the new one a place with --target")
        build_tokenizer(target, text, options.image, options.sentinels)
    elif options.target:
        with checkpoint.new_directory(target) as aside:
            shutil.copytree(text, aside, dirs_exist_ok=True)
            vocabulary.add_image_tokenizer(aside, options.image)
    else:
        vocabulary.add_image_tokenizer(text, options.image)
    space = open_tokenizer(target).space
    print(
        f"{target}: {space.vocab_size} ids, of them {len(tokens.ids_of(space.text))} for text and "
        f"{len(space.image_ids)} for images; {space.codes_per_image} codes a picture; fingerprint {space.fingerprint}"
    )


def tokenize(options: Tokenize) -> None:
    """The `tokenize` command."""
    from collections import Counter
    from itertools import islice

    from jam_jax.data import formats, parts
    from jam_jax.data.store import write_store
    from jam_jax.data.tokenizers import open_tokenizer

    part = parts.Part.parse(options.shard) if options.shard else None
    if part and options.limit:
        raise ValueError("--limit counts the documents of a whole source: leave it out, or --shard")
    tokenizer = open_tokenizer(options.tokenizer)
    source = formats.open_source(options.source, options.split, options)
    print(f"{source.name}: taken for {source.taken_for}")
    total = source.documents_expected
    tally: Counter[str] = Counter(read=0, damaged=0, left_out=0)  # filled while the documents are read
    shard = (part.index, part.of) if part else (0, 1)
    documents: Iterable[Document] = source.documents(*shard, tally, tokenizer.check)
    if options.limit:
        documents, total = islice(documents, options.limit), min(total, options.limit)
    if options.captions_ask:
        documents = _captions_ask(documents)
    about: dict[str, Any] = {
        "source": f"{options.source} ({options.split})",
        "settings": _settings(options),
        "records": tally,
    }
    if part and parts.is_written(options.target, part, tokenizer, about):
        print(f"{options.target}: shard {part} is there already")
    elif part:
        _tell(parts.write_part(options.target, part, documents, tokenizer, total=total // part.of or None, **about))
    else:
        _tell(write_store(options.target, documents, tokenizer, total=total or None, **about))
    if part:
        _merge_if_whole(options.target)


def _settings(options: Tokenize) -> dict[str, Any]:
    """How the documents are made of the source: what the shards of a store have to agree in."""
    names = [field.name for field in dataclasses.fields(ReadSettings)]
    values = dataclasses.asdict(options)
    return {name: values[name] for name in (*names, "limit", "captions_ask")}


def _merge_if_whole(target: str) -> None:
    """Make a store of the shards, if this was the last one to be written."""
    from jam_jax.data import parts

    if absent := parts.missing(target):
        print(f"{target}: {len(absent)} of {absent[0].of} shards are not there yet")
    else:
        _tell(parts.merge(target))


def _tell(store: "Store") -> None:
    counts = ", ".join(f"{count} {name}" for name, count in store.manifest["counts"].items())
    print(f"{store.directory}: {len(store)} documents, {store.manifest['tokens']} tokens ({counts})")


def merge(options: Merge) -> None:
    """The `merge` command."""
    from jam_jax.data import parts

    _tell(parts.merge(options.store))


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
        print(f"question: {_printable(reading.question)}")
    for run in reading.runs:
        if isinstance(run, str):
            print(f"text: {_printable(run)}")
        else:
            print(f"picture: {len(run)} codes {' '.join(map(str, run))}")
    if reading.fault:
        print(f"not well formed: {reading.fault}")
    if options.html:
        pictures = iter(tokenizer.decode_codes(np.stack(reading.pictures)) if reading.pictures else ())
        parts = [run if isinstance(run, str) else png(next(pictures)) for run in reading.runs]
        question = html.document_html([reading.question]) if reading.question else ""
        page = html.page(f"{options.store}, row {options.row}", question + html.document_html(parts))
        Path(options.html).write_text(page, encoding="utf-8")
        print(f"written: {options.html}")


def _printable(text: str) -> str:
    """A text with its control characters written out, so that it does nothing to a terminal but stand there."""
    return re.sub(r"[\0-\x08\x0b-\x1f\x7f-\x9f]", lambda found: ascii(found[0])[1:-1], text)


def main(args: Sequence[str] | None = None) -> None:
    """The command."""
    args = list(sys.argv[1:] if args is None else args)
    if args[:1] in (["show"], ["merge"]) and len(args) > 1 and not args[1].startswith("-"):
        args.insert(1, "--store")
    options = config.cli(
        World | TrainText | Assemble | Tokenize | Merge | Show,
        args,
        prog="python -m jam_jax.data",
        description=__doc__ or "",
    )
    commands: dict[type, Any] = {
        World: write_world,
        TrainText: train_text,
        Assemble: assemble,
        Tokenize: tokenize,
        Merge: merge,
        Show: show,
    }
    commands[type(options)](options)


if __name__ == "__main__":
    config.run(main)
