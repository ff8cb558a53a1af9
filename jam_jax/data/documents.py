"""A document: what every source of data gives and every tokenizer takes, runs of text and pictures in their order."""

import dataclasses
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Document:
    """Text runs (str) and encoded pictures (PNG or JPEG bytes), in reading order.

    A caption and its picture are two parts, plain text is one. An instruction has a `question`; its parts are then the
    answer. ValueError if there is nothing in it, if a part is neither str nor bytes or is empty, or if a text holds
    what no text file does: NUL, or half a surrogate pair.
    """

    parts: tuple[str | bytes, ...]
    question: str = ""  # what is asked, for instructions; "" otherwise

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a document needs at least one text or picture")
        for part in self.parts:
            if not isinstance(part, str | bytes) or not part:
                raise ValueError(f"a part of a document is text or a picture's bytes, got {part!r}")
        for text in (self.question, *self.texts):
            if "\0" in text:
                raise ValueError("a text holds a NUL byte: it is no text")
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"a text holds half a surrogate pair at character {error.start}") from error

    @property
    def texts(self) -> tuple[str, ...]:
        """The text runs, without the question."""
        return tuple(p for p in self.parts if isinstance(p, str))

    @property
    def pictures(self) -> tuple[bytes, ...]:
        """The encoded pictures."""
        return tuple(p for p in self.parts if isinstance(p, bytes))


def merged(parts: Iterable[str | bytes]) -> tuple[str | bytes, ...]:
    """Parts without the white space around texts and without empty ones; neighbouring texts become one, a line each."""
    found: list[str | bytes] = []
    for part in parts:
        part = part.strip() if isinstance(part, str) else part
        before = found[-1] if found else b""
        if isinstance(part, str) and isinstance(before, str) and part:
            found[-1] = f"{before}\n{part}"
        elif part:
            found.append(part)
    return tuple(found)
