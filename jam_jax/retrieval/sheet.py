"""What was found, for people: a table, and a page with the pictures (a contact sheet)."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from jam_jax.data.formats.pictures import png
from jam_jax.data.store import Store
from jam_jax.data.tokenizers import Tokenizer, open_tokenizer
from jam_jax.html import data_uri, page

STYLE = """
.sheet { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); }
.sheet figure { margin: 0; border: 1px solid var(--line); border-radius: .5rem; background: var(--card);
  padding: .6rem; }
.sheet img { width: 100%; image-rendering: pixelated; border-radius: .3rem; display: block; margin-bottom: .4rem; }
.sheet b { font-variant-numeric: tabular-nums; }
"""


@dataclasses.dataclass(frozen=True)
class Hit:
    """A document of a bank that was found."""

    number: int
    score: float
    text: str
    pictures: tuple[bytes, ...]  # PNG, as the tokenizer decodes them


def tokenizer_of(store: Store, directory: str = "") -> Tokenizer:
    """The tokenizer that a store was made with, or the one of `directory`; ValueError if it is gone or another."""
    tokenizer = open_tokenizer(directory or store.manifest.get("tokenizer", ""))
    store.check(tokenizer.space)
    return tokenizer


def read_hits(tokenizer: Tokenizer, found: Iterable[tuple[int, float, Sequence[int] | np.ndarray]]) -> list[Hit]:
    """(number, score, ids) of documents → what they say and show; all pictures are decoded together."""
    found = list(found)
    readings = [tokenizer.read_document(ids) for _, _, ids in found]
    codes = [picture for reading in readings for picture in reading.pictures]
    drawn = map(png, tokenizer.decode_codes(np.stack(codes)) if codes else ())
    hits = []
    for (number, score, _), reading in zip(found, readings, strict=True):
        text = " ".join(part for part in (reading.question, *reading.runs) if isinstance(part, str) and part)
        hits.append(Hit(number, score, text.strip(), tuple(itertools.islice(drawn, len(reading.pictures)))))
    return hits


def show(hits: Sequence[Hit], title: str) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", "document", "score", "pictures", "text", title=title)
    for rank, hit in enumerate(hits, 1):
        shown = hit.text if len(hit.text) <= 200 else hit.text[:199] + "…"
        table.add_row(str(rank), str(hit.number), f"{hit.score:.3f}", str(len(hit.pictures)), _plain(shown))
    Console().print(table)


def sheet(hits: Sequence[Hit]) -> str:
    """The documents side by side, as HTML."""
    return f'<div class="sheet">{"".join(map(_figure, hits))}</div>'


def contact_sheet(hits: Sequence[Hit], title: str, note: str) -> str:
    """The whole page."""
    return page(title, f'<style>{STYLE}</style><p class="note">{escape(note)}</p>{sheet(hits)}')


def _figure(hit: Hit) -> str:
    pictures = "".join(f'<img src="{data_uri(p)}" alt="picture of document {hit.number}">' for p in hit.pictures)
    about = f"<b>{hit.score:.3f}</b> document {hit.number}"
    return f"<figure>{pictures}<figcaption>{about}<br>{escape(hit.text)}</figcaption></figure>"


def _plain(text: str) -> Any:
    """A text whose brackets are no markup."""
    from rich.text import Text

    return Text(text)
