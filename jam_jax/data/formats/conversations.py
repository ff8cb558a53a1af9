"""Conversations as instructions and interleaved documents: LIMA's lists of turns, and LLaVA's, which have pictures.

LIMA (arXiv 2305.11206): `{"conversations": [question, answer, …], "source": …}`, so that the odd turns are answers.
LLaVA (arXiv 2304.08485): `{"image": path or paths, "conversations": [{"from": "human" or "gpt", "value": text}, …]}`,
where every `<image>` in a text is the next picture of the record. `images` for `image`, `role` and `content` for
`from` and `value`, `user` and `assistant` for the speakers are understood too, and a `system` turn before the first.
"""

import functools
from collections.abc import Iterator
from typing import Any

from jam_jax.data.documents import Document, merged
from jam_jax.data.formats.files import Folder, text
from jam_jax.data.formats.table import Layout, Values
from jam_jax.data.settings import ReadSettings

MARK = "<image>"
ASKS, ANSWERS = ("human", "user"), ("gpt", "assistant")

Turn = list[str | bytes]  # what is said, with the pictures in it


def is_lima(values: Values) -> bool:
    """Whether a row has LIMA's conversations."""
    turns = values.get("conversations")
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], str)


def is_llava(values: Values) -> bool:
    """Whether a row has LLaVA's conversations."""
    turns = values.get("conversations")
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], dict)


def lima(settings: ReadSettings, rows: list[Values]) -> Layout:
    """LIMA's conversations. ValueError if no row has them."""
    _check(any(map(is_lima, rows)), 'LIMA\'s lists of turns, {"conversations": [question, answer, …]}')
    return Layout(
        "LIMA conversations",
        functools.partial(_lima, settings.turns),
        lambda values: values["conversations"][:1] if is_lima(values) else values,
        ("conversations",),
    )


def llava(settings: ReadSettings, rows: list[Values]) -> Layout:
    """LLaVA's conversations. ValueError if no row has them."""
    _check(any(map(is_llava, rows)), 'LLaVA\'s turns, {"conversations": [{"from": "human", "value": …}, …]}')
    return Layout(
        "LLaVA conversations",
        functools.partial(_llava, settings.turns),
        lambda values: values.get("image") or values.get("images") or values.get("conversations"),
        ("conversations", "image", "images"),
    )


def _check(found: bool, expected: str) -> None:
    if not found:
        raise ValueError(f"these are no conversations: expected {expected}")


def _lima(turns: str, values: Values, folder: Folder) -> list[Document]:
    said = values.get("conversations")
    if not isinstance(said, list):
        raise ValueError('a record is {"conversations": [question, answer, …]}')
    spoken: list[Turn] = [[text(turn)] for turn in said]
    return _instructions(spoken, turns)


def _llava(turns: str, values: Values, folder: Folder) -> list[Document]:
    """A picture in a question makes the whole conversation an interleaved document: a question here is text alone."""
    pictures = folder.pictures(_listed(values.get("image") or values.get("images")))
    said = [_turn(value) for value in _listed(values.get("conversations"))]
    marks = sum(words.count(MARK) for _, words in said)
    if pictures and marks != len(pictures):
        raise ValueError(f"the texts have {marks} times {MARK} for {len(pictures)} pictures")
    waiting: Iterator[bytes] = iter(pictures)
    spoken: list[Turn] = [_with_pictures(words, waiting) if pictures else [words] for _, words in said]
    roles = [role for role, _ in said]
    if roles[:1] == ["system"] and len(roles) > 1:
        roles, spoken = roles[1:], [[*spoken[0], *spoken[1]], *spoken[2:]]
    if roles != [ASKS[0], ANSWERS[0]] * (len(roles) // 2) or not roles:
        raise ValueError(f"the turns go human, gpt, human, gpt …, got {', '.join(roles) or 'none'}")
    if any(isinstance(part, bytes) for turn in spoken[::2] for part in turn):
        return [Document(merged(part for turn in spoken for part in turn))]
    return _instructions(spoken, turns)


def _turn(value: Any) -> tuple[str, str]:
    """Who speaks (human, gpt or system) and what."""
    if not isinstance(value, dict):
        raise ValueError(f'a turn is {{"from": …, "value": …}}, got {type(value).__name__}')
    role = value.get("from", value.get("role"))
    role = next((names[0] for names in (ASKS, ANSWERS, ("system",)) if role in names), None)
    if role is None:
        raise ValueError(f"a turn is from human, gpt or system, got {value.get('from', value.get('role'))!r}")
    return role, text(value.get("value", value.get("content")))


def _with_pictures(words: str, waiting: Iterator[bytes]) -> Turn:
    """A text with a picture in place of every `<image>`."""
    first, *others = words.split(MARK)
    return [first, *(part for run in others for part in (next(waiting), run))]


def _instructions(said: list[Turn], turns: str) -> list[Document]:
    """Questions and answers as documents, as `ReadSettings.turns` says; the questions have no pictures."""
    if not said or len(said) % 2:
        raise ValueError(f"a conversation of {len(said)} turns does not end with an answer")
    if turns == "single" and len(said) > 2:
        return []
    documents = []
    for end in range(2, len(said) + 1 if turns == "each" else 3, 2):
        # What was shown in an earlier answer cannot be in a question.
        before = [merged(part for part in turn if isinstance(part, str)) for turn in said[: end - 1]]
        if not all(before[::2]):
            raise ValueError("a question is empty")
        question = "\n\n".join(str(words) for turn in before for words in turn)
        documents.append(Document(merged(said[end - 1]), question))
    return documents


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
