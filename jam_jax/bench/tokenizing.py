"""Text to a finished token store, beside the tokenizer library alone: SentencePiece, and Hugging Face's tokenizers."""

import dataclasses
import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jam_jax import tokens
from jam_jax.data import vocabulary
from jam_jax.data.documents import Document
from jam_jax.data.sentencepiece_text import train_text_tokenizer
from jam_jax.data.store import write_store
from jam_jax.data.tokenizers import Tokenizer

PIECES = 8000
LENGTHS = {"long": 500, "short": 20}  # words of a text
ENDS = ["<|begin_of_text|>", "<|end_of_text|>"]  # of documents, as Llama 3 names them


@dataclasses.dataclass(frozen=True)
class Case:
    """One kind of texts and one library."""

    name: str
    count: int  # tokens
    library: Callable[[], Any]  # all texts, by the library alone
    ours: Callable[[], Any]  # all texts, into a new store


def cases(folder: Path, words: int) -> Iterator[Case]:
    """Both kinds of texts with both libraries, all warm: tokenizers are trained, libraries opened."""
    rng = random.Random(0)
    known = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(20_000)]
    often = [1 / (i + 1) for i in range(len(known))]
    texts = {
        kind: [" ".join(rng.choices(known, often, k=length)) for _ in range(max(words // length, 1))]
        for kind, length in LENGTHS.items()
    }
    for library, make in (("SentencePiece", _sentencepiece), ("Hugging Face", _hugging_face)):
        tokenizer, encode = make(folder / library.replace(" ", "-"), texts["long"])
        for kind, held in texts.items():
            count = sum(len(encode(text)) for text in held)
            yield Case(f"{library}, {kind} texts", count, _library(encode, held), _ours(folder, tokenizer, held))


def _library(encode: Callable[[str], list[int]], texts: list[str]) -> Callable[[], Any]:
    return lambda: [encode(text) for text in texts]


def _ours(folder: Path, tokenizer: Tokenizer, texts: list[str]) -> Callable[[], Any]:
    documents, numbers = [Document((text,)) for text in texts], itertools.count()
    name = f"{tokenizer.directory.name}-{len(texts)}"
    write_store(folder / f"{name}-first", documents[:1], tokenizer)  # opens what it needs
    return lambda: write_store(folder / f"{name}-{next(numbers)}", documents, tokenizer)


def _sentencepiece(directory: Path, texts: list[str]) -> tuple[Tokenizer, Callable[[str], list[int]]]:
    import sentencepiece

    directory.mkdir()
    pieces = train_text_tokenizer(texts, directory / "text.model", PIECES)
    (directory / "tokens.json").write_text(tokens.jam(text=pieces, codes=16, codes_per_image=4).to_json())
    return Tokenizer(directory), sentencepiece.SentencePieceProcessor(model_file=str(directory / "text.model")).encode


def _hugging_face(directory: Path, texts: list[str]) -> tuple[Tokenizer, Callable[[str], list[int]]]:
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers, trainers

    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    library.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=PIECES, initial_alphabet=alphabet, special_tokens=ENDS, show_progress=False),
    )
    path = directory.with_suffix(".json")
    path.write_text(json.dumps(json.loads(library.to_str())), encoding="utf-8")
    directory.mkdir()
    vocabulary.build(directory, {"tokenizer.json": path}, library.get_vocab_size(), "llama3")
    return Tokenizer(directory), lambda text: library.encode(text, add_special_tokens=False).ids
