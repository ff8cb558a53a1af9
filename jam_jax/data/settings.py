"""How a user's data is read: the options that `tokenize` and `train-text` share (docs/data.md explains each)."""

import dataclasses
from typing import Literal, get_args

Format = Literal[
    "auto",
    "tfds",
    "jsonl",
    "parquet",
    "coco",
    "lima",
    "wikihow",
    "llava",
    "obelics",
    "image_folder",
    "text_folder",
]
FORMATS: tuple[Format, ...] = get_args(Format)


@dataclasses.dataclass(frozen=True)
class Columns:
    """What the columns of a table hold; a dotted name goes into nested ones (`captions.text`, `messages.0.content`).

    With none named, those with well-known names are taken.
    """

    text: str = ""  # a text, or a list of texts; before the picture
    picture: str = ""  # a picture, or a list: bytes, a path, or {bytes, path} as Hugging Face datasets writes it
    question: str = ""  # what is asked, of an instruction
    answer: str = ""  # the text of the answer; a picture follows it
    key: str = ""  # rows that agree in it are in one split; by default those with one picture, or with one text

    def __post_init__(self) -> None:
        if bool(self.question) != bool(self.answer):
            raise ValueError("--columns.question and --columns.answer go together: name both, or use --columns.text")
        if self.answer and self.text:
            raise ValueError("--columns.text is the text of a document without a question: leave it out, or the answer")
        if self.key and not self.named:
            raise ValueError("--columns.key alone makes no document: name the columns of the text or the picture too")

    @property
    def named(self) -> bool:
        """Whether a column is named that makes a document."""
        return bool(self.text or self.picture or self.question)


@dataclasses.dataclass(frozen=True)
class Wikihow:
    """Which articles of a wikiHow crawl are taken, and how they answer (arXiv 2309.15564)."""

    rating: float = 90.0  # per cent; articles rated above it. 0: all of them, rated or not
    articles: int = 3000  # of a split; 0: all
    balanced: bool = True  # the same number of every top category, as far as it has that many
    pictures: int = 3  # of an article at most
    # What becomes of an article with more: it is left out, or its first pictures are kept and the others left out.
    more: Literal["leave_out", "cut"] = "leave_out"
    asks: bool = True  # the title is the question; otherwise it opens the text
    this_article: str = "The following answer"  # in place of "This article"; empty: as it stands

    def __post_init__(self) -> None:
        if not 0 <= self.rating < 100:
            raise ValueError(f"--wikihow.rating is a percentage from 0 to below 100, got {self.rating}")
        if self.articles < 0 or self.pictures < 0:
            raise ValueError("--wikihow.articles and --wikihow.pictures must not be negative")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadSettings:
    """How a source is read: what it is, what of it becomes a document, what is held out and what may be damaged."""

    format: Format = "auto"  # auto: by the files and their keys
    columns: Columns = Columns()  # of tables, TFDS datasets and image folders
    images: str = ""  # directory that paths of pictures start from and must not leave; empty: that of the data
    captions: Literal["each", "first", "joined"] = "each"  # of a picture: a document each, one of the first, one of all
    # Of a conversation with several answers: it is left out (so that LIMA is its 1,000 pairs), its first pair is taken,
    # or every answer is a document whose question is all that was said before.
    turns: Literal["single", "first", "each"] = "single"
    wikihow: Wikihow = Wikihow()  # of wikiHow articles
    held_out: float = 0.05  # share of the documents in the split `test`, by a hash, where a source has no splits itself
    damaged: float = 0.01  # share of the records that may be damaged: they are skipped and told; more stop the run

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise ValueError(f"--held-out is a share from 0 to below 1, got {self.held_out}")
        if not 0 <= self.damaged <= 1:
            raise ValueError(f"--damaged is a share from 0 to 1, got {self.damaged}")
