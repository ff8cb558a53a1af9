"""Text tokenizers of any origin behind one interface: whatever a text looks like, it makes no id that is no text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from jam_jax.data.json_text import JsonText, read
from jam_jax.data.sentencepiece_text import SentencePieceText


class TextTokenizer(Protocol):
    """What this project asks of a text tokenizer."""

    names: list[str | None]  # the token of every id; None where there is none
    text: list[int]  # the ids that a text can be made of; `encode` makes no other
    spells_all: bool  # whether any text can be spelt, by its bytes if need be; False: perhaps not

    def encode(self, text: str, /) -> list[int]:
        """Text (without lone surrogates) → ids; ValueError names what the vocabulary cannot spell."""

    def encode_all(self, texts: Sequence[str], /) -> list[list[int]]:
        """The same for many texts, which the libraries spread over the cores of the machine."""

    def decode(self, ids: Sequence[int], /) -> str:
        """Ids of `text` → text; broken UTF-8 becomes U+FFFD."""


def open_text(directory: Path, text: Sequence[int] | None = None) -> TextTokenizer:
    """The text tokenizer whose files lie in a directory, as transformers and others keep them.

    `text` are the ids that a text may make; without it, those that the files take for text themselves.
    ValueError if there is none, or it is damaged.
    """
    if (directory / "tokenizer.model").is_file() and not (directory / "tokenizer.json").is_file():
        return SentencePieceText(directory / "tokenizer.model", text)
    return JsonText(read(directory), directory, text)
