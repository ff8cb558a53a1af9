"""A document: what every source of data gives and every tokenizer takes, runs of text and pictures in their order."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Document:
    """Text runs (str) and encoded pictures (PNG or JPEG bytes), in reading order.

    A caption and its picture are two parts, plain text is one. An instruction has a `question`; its parts are then the
    answer. ValueError if there is nothing in it, or if a part is neither str nor bytes or is empty.
    """

    parts: tuple[str | bytes, ...]
    question: str = ""  # what is asked, for instructions; "" otherwise

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a document needs at least one text or picture")
        for part in self.parts:
            if not isinstance(part, str | bytes) or not part:
                raise ValueError(f"a part of a document is text or a picture's bytes, got {part!r}")

    @property
    def texts(self) -> tuple[str, ...]:
        """The text runs, without the question."""
        return tuple(p for p in self.parts if isinstance(p, str))

    @property
    def pictures(self) -> tuple[bytes, ...]:
        """The encoded pictures."""
        return tuple(p for p in self.parts if isinstance(p, bytes))
