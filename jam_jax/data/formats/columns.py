"""Tables whose columns the user names: a text, a picture with its caption, or a question with its answer."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jam_jax.data.documents import Document
from jam_jax.data.formats.files import Folder, text
from jam_jax.data.formats.table import Layout, Values
from jam_jax.data.settings import Columns, ReadSettings

# Names by which a column is known where the user names none, the likeliest first.
TEXT_NAMES = ("caption", "captions", "text", "description", "title", "label")
PICTURE_NAMES = ("image", "picture", "img", "jpg", "png", "image_path", "file_name")
ASKING_NAMES = (("question", "answer"), ("instruction", "output"), ("prompt", "response"), ("prompt", "completion"))
ROLES = ("text", "picture", "question", "answer", "key")
_MISSING = object()


def layout(settings: ReadSettings, source: Path, rows: list[Values]) -> Layout:
    """The layout of the columns that the settings name, or of those with known names.

    ValueError if the first rows have no column of that name, or none that is known.
    """
    columns = settings.columns if settings.columns.named else guess(rows)
    if columns is None:
        raise ValueError(f"{source}: name the columns of the text or the picture (--columns.text); {_there_are(rows)}")
    roles = check(columns, source, rows)
    return Layout(
        described(roles),
        functools.partial(documents, columns, settings.captions),
        functools.partial(key, columns),
        tuple(".".join(words[:n]) for words in map(_words, roles.values()) for n in range(1, len(words) + 1)),
    )


def check(columns: Columns, source: Path, rows: list[Values]) -> dict[str, str]:
    """The names of the columns by what they hold; ValueError if none of the first rows has one of them."""
    roles = {role: name for role in ROLES if (name := getattr(columns, role))}
    for role, name in roles.items():
        if not any(at(row, name, _MISSING) is not _MISSING for row in rows):
            raise ValueError(f"{source} has no column {name!r} for --columns.{role}; {_there_are(rows)}")
    return roles


def described(roles: dict[str, str]) -> str:
    """Which column holds what, for people."""
    return ", ".join(f"{role} from {name!r}" for role, name in roles.items())


def guess(rows: list[Values]) -> Columns | None:
    """The columns with known names in which the first rows have texts and pictures; None if there are none."""
    picture = known(PICTURE_NAMES, rows, str, bytes, dict)
    for asks, answers in ASKING_NAMES:
        if known((asks,), rows, str) and known((answers,), rows, str):
            return Columns(picture=picture, question=asks, answer=answers)
    caption = known(TEXT_NAMES, rows, str, list)
    return Columns(text=caption, picture=picture) if caption or picture else None


def known(names: Sequence[str], rows: list[Values], *kinds: type) -> str:
    """The first of the names under which a row has something of these kinds; "" if there is none."""
    return next((name for name in names if any(isinstance(row.get(name), kinds) for row in rows)), "")


def documents(columns: Columns, captions: str, values: Values, folder: Folder) -> list[Document]:
    """The documents of a row: several if it has a list of texts and `captions` is "each".

    An empty text is none; a row with nothing but empty ones, or with an empty question, is damaged (ValueError).
    """
    texts = [found for value in _several(at(values, columns.answer or columns.text)) if (found := text(value))]
    pictures = folder.pictures(_several(at(values, columns.picture)))
    question = text(at(values, columns.question)) if columns.question else ""
    if columns.question and not question:
        raise ValueError("the question is empty")
    return captioned(texts, pictures, captions, question)


def captioned(texts: list[str], pictures: list[bytes], captions: str, question: str = "") -> list[Document]:
    """Pictures with one caption or several, each before the pictures, as `ReadSettings.captions` says."""
    if captions == "each" and len(texts) > 1:
        return [Document((caption, *pictures), question) for caption in texts]
    kept = texts[:1] if captions == "first" else ["\n".join(texts)] if texts else []
    return [Document((*kept, *pictures), question)]


def key(columns: Columns, values: Values) -> Any:
    """What decides a row's split: the column named for it, else its pictures (by path or bytes), else its texts."""
    if columns.key:
        return at(values, columns.key)
    pictures = [
        (value.get("bytes") or value.get("path")) if isinstance(value, dict) else value
        for value in _several(at(values, columns.picture))
    ]
    if any(pictures):
        return pictures
    return [at(values, name) for name in (columns.question, columns.answer or columns.text) if name]


def at(value: Any, path: str, missing: Any = None) -> Any:
    """What stands at a dotted path, `missing` if nothing does or the path is empty.

    A number goes into a list, a name into every entry of it; a column whose own name has dots is found by it.
    """
    if not path:
        return missing
    if isinstance(value, list):
        head, _, rest = path.partition(".")
        if head.isdecimal():
            found = value[int(head)] if int(head) < len(value) else missing
            return at(found, rest, missing) if rest and found is not missing else found
        entries = [at(entry, path, missing) for entry in value]
        return entries if any(entry is not missing for entry in entries) else missing
    if not isinstance(value, dict):
        return missing
    if path in value:
        return value[path]
    words = _words(path)
    for n in range(len(words) - 1, 0, -1):
        if (head := ".".join(words[:n])) in value:
            return at(value[head], ".".join(words[n:]), missing)
    return missing


def _words(path: str) -> list[str]:
    return path.split(".")


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _there_are(rows: list[Values]) -> str:
    return f"there are {', '.join(map(repr, sorted({name for row in rows for name in row})))}"
