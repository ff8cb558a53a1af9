"""Documents as HTML that stands alone: pictures are inlined as data URIs and every text is escaped."""

import base64
from collections.abc import Sequence
from html import escape

# Of documents, by the names of the page's colours; all pictures are as wide, whatever the image tokenizer's resolution.
DOCUMENT_STYLE = """
.document { border: 1px solid var(--line); border-radius: .6rem; background: var(--card); padding: .6rem 1.2rem;
  margin: 1rem 0; overflow-wrap: anywhere; }
.document p { white-space: pre-wrap; }
.document img { display: block; margin: .8rem 0; width: 16rem; max-width: 100%; border-radius: .3rem; }
.note, figcaption { color: var(--soft); font-size: .9rem; }
"""
# Of a whole page, readable in light and in dark.
STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fdfdfc; --line: #d9dadd; --soft: #66696f; --card: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e3; --paper: #17181a; --line: #36383d; --soft: #9b9ea5; --card: #1e2023; }
}
body { margin: 2.5rem auto; max-width: 60rem; padding: 0 1.25rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: 1rem 0; } caption { text-align: left; color: var(--soft); }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .8rem; text-align: left; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
"""


def document_html(parts: Sequence[str | bytes]) -> str:
    """A document as one `<div class="document">`: str is text (escaped), bytes an encoded PNG or JPEG (inlined)."""
    return f'<div class="document">{"".join(_part(p, i) for i, p in enumerate(parts))}</div>'


def _part(part: str | bytes, index: int) -> str:
    if isinstance(part, str):
        return f"<p>{escape(part.strip())}</p>" if part.strip() else ""
    return f'<img src="{data_uri(part)}" alt="picture, part {index + 1} of the document">'


def data_uri(picture: bytes) -> str:
    """An encoded picture as a `data:` URI; ValueError unless it is a PNG or a JPEG."""
    kinds = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
    kind = next((kind for magic, kind in kinds.items() if picture.startswith(magic)), None)
    if kind is None:
        raise ValueError(f"a picture must be PNG or JPEG bytes, got {bytes(picture[:8])!r}…")
    return f"data:{kind};base64,{base64.b64encode(picture).decode()}"


def table_html(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A `<table>` whose columns but the first are numbers; all cells are text and get escaped."""
    head = "".join(f'<th class="{"number" if i else ""}">{escape(h)}</th>' for i, h in enumerate(header))
    cells = (
        "".join(f'<td class="{"number" if i else ""}">{escape(c)}</td>' for i, c in enumerate(row)) for row in rows
    )
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def page(title: str, body: str) -> str:
    """A whole HTML page; `title` is text and gets escaped, `body` is HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{DOCUMENT_STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )
