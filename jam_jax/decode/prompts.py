"""What a user asks, as the ids that go before an answer, and what the answer's ids say (arXiv 2309.15564, section 3).

Questions have metaseq's form of an instruction; captions and gaps are asked for with the CM3 objective's own marks.
"""

import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from PIL import Image

from jam_jax.data.documents import Document
from jam_jax.data.formats.pictures import on_white, png, read_picture
from jam_jax.data.tokenizers import Tokenizer
from jam_jax.decode import infill
from jam_jax.tokens import TokenSpace

# answer: a question, answered with text and pictures; picture: a caption, drawn; text: a text, gone on with; caption: a
# picture, described; fill: a document with gaps, filled.
Mode = Literal["answer", "picture", "text", "caption", "fill"]
GAP = "___"  # in a text to fill


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture in a prompt."""

    image: bytes | Image.Image  # an encoded file, or one that is open
    # In mode fill, what is drawn anew: left, top, right, bottom as shares of the sides, from 0 to 1. None: nothing.
    region: tuple[float, float, float, float] | None = None


Prompt = str | Image.Image | Picture | Sequence[str | Picture]
Parts = tuple[str | Image.Image, ...]


@dataclasses.dataclass(frozen=True)
class Asked:
    """A prompt in ids."""

    ids: tuple[int, ...]  # what goes before the answer
    gaps: tuple[infill.Gap, ...] = ()  # of `document`, to be filled by it
    spans: tuple[int, ...] = ()  # codes of every gap, 0 of text
    document: tuple[int, ...] = ()  # ids, from its start on


def ask(tokenizer: Tokenizer, prompt: Prompt, mode: Mode) -> Asked:
    """A prompt as ids; ValueError if it is not of the mode's kind, or the vocabulary has no way to say it."""
    space = tokenizer.space
    if mode not in get_args(Mode):
        raise ValueError(f"unknown mode {mode!r}: choose one of {', '.join(get_args(Mode))}")
    if mode == "caption":
        return _ask_caption(tokenizer, prompt)
    if mode == "fill":
        return _ask_fill(tokenizer, prompt)
    if not isinstance(prompt, str):
        raise ValueError(f"mode {mode} takes a text as its prompt, got {type(prompt).__name__}")
    text = tokenizer.encode_text(prompt)
    if mode == "answer":
        space.require_questions()
        return Asked((space.start, *text, *space.question_end))
    if mode == "picture":
        space.require_pictures()
        return Asked((space.start, *text, *space.picture_layout[:1]))
    return Asked((space.start, *text))


def shown(prompt: Prompt) -> str:
    """A prompt as a line of text."""
    if isinstance(prompt, str):
        return prompt
    parts = [prompt] if isinstance(prompt, Image.Image | Picture) else prompt
    return " ".join(part if isinstance(part, str) else "[picture]" for part in parts)


def _ask_caption(tokenizer: Tokenizer, prompt: Prompt) -> Asked:
    """`<mask:0> <break> picture <break> <mask:0>`: the gap is the caption before the picture."""
    space = tokenizer.space
    space.require_pictures()
    space.require_infill()
    if not isinstance(prompt, Image.Image | Picture):
        raise ValueError(f"mode caption takes a picture as its prompt, got {type(prompt).__name__}")
    picture = prompt.image if isinstance(prompt, Picture) else prompt
    ids = _document(tokenizer, [_encoded(picture)])
    document = [*ids[:-1], space.picture_closers[0]] if ids[-2] not in space.picture_closers else ids[:-1]
    asked, spans = infill.ask(space, document, [(1, 1)])
    return Asked(tuple(asked), ((1, 1),), spans, tuple(document))


def _ask_fill(tokenizer: Tokenizer, prompt: Prompt) -> Asked:
    """A document with the gaps that its texts and its pictures' regions mark."""
    space = tokenizer.space
    parts: list[str | Picture] = []
    for part in [prompt] if isinstance(prompt, str | Picture | Image.Image) else prompt:
        parts.append(Picture(part) if isinstance(part, Image.Image) else part)
    ids: list[int] = [space.start]
    gaps: list[infill.Gap] = []
    for part in parts:
        if isinstance(part, Picture):
            space.require_pictures()
            opening = len(ids)
            ids += _document(tokenizer, [_encoded(part.image)])[1 : 1 + len(space.picture_layout)]
            if part.region is not None:
                gaps += infill.region(space, opening, _box(space, part.region))
            ids += space.picture_closers[:1]
            continue
        for i, piece in enumerate(re.split(f"{GAP}+", part)):
            if i:
                gaps.append((len(ids), len(ids)))
            ids += tokenizer.encode_text(piece.strip()) if piece.strip() else []
    if not gaps:
        raise ValueError(f"there is nothing to fill: mark a gap in the text with {GAP}, or a region of a picture")
    document = ids if ids[-1] == space.end_of_document else [*ids, space.end_of_document]
    asked, spans = infill.ask(space, document, gaps)
    return Asked(tuple(asked), tuple(gaps), spans, tuple(document))


def _document(tokenizer: Tokenizer, parts: Sequence[str | bytes]) -> list[int]:
    """A document's ids with its start and its end."""
    return [*tokenizer.space.before_record, *tokenizer.encode_document(Document(tuple(parts)))]


def _encoded(picture: bytes | Image.Image) -> bytes:
    if isinstance(picture, Image.Image):
        return png(np.asarray(on_white(picture), np.uint8))
    read_picture(picture, 1)  # a ValueError says what is wrong with it
    return picture


def _box(space: TokenSpace, region: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
    """Shares of the sides → (top, left, bottom, right) in codes, every code that the region touches."""
    left, top, right, bottom = region
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(f"a region is left, top, right, bottom from 0 to 1, got {region}")
    side = round(space.codes_per_image**0.5)
    low, high = (lambda x: int(x * side + 1e-6)), (lambda x: int(np.ceil(x * side - 1e-6)))
    return low(top), low(left), max(high(bottom), low(top) + 1), max(high(right), low(left) + 1)


def read(tokenizer: Tokenizer, mode: Mode, asked: Asked, ids: Sequence[int]) -> tuple[Parts, str]:
    """What the ids after a prompt say: texts and pictures in their order, and what is wrong with them ("" if nothing).

    In mode text the first part begins with the prompt, in mode fill it is the whole document, in mode caption the text
    alone and in mode picture the picture.
    """
    space = tokenizer.space
    if mode == "caption":
        written = [i for i in ids if i != space.end_of_infill]
        return (tokenizer.decode_text(written),) if written else (), "" if written else "the caption is empty"
    whole = [*asked.ids, *ids]
    if asked.gaps:
        whole = infill.put(space, asked.document, asked.gaps, ids)
    reading = tokenizer.read_document(whole)
    codes = [run for run in reading.runs if not isinstance(run, str)]
    drawn = iter(tokenizer.decode_codes(np.stack(codes)) if codes else ())
    parts: list[str | Image.Image] = []
    for run in reading.runs:
        parts.append(run if isinstance(run, str) else Image.fromarray(next(drawn)))
    if mode == "picture":
        parts = [part for part in parts if not isinstance(part, str)]  # without the caption
    return tuple(parts), reading.fault


def unfinished(tokenizer: Tokenizer, asked: Asked, ids: Sequence[int]) -> Image.Image | None:
    """The picture that breaks off at the end of the ids, its missing codes as its last one; None if there is none."""
    space = tokenizer.space
    whole = [*asked.ids, *ids]
    behind = list(itertools.takewhile(lambda i: i != space.start_of_image, reversed(whole)))
    if asked.gaps or len(behind) == len(whole) or len(behind) >= len(space.picture_layout) - 1:
        return None
    codes = [int(space.code_of_id[i]) for i in reversed(behind) if space.code_of_id[i] >= 0]
    if not codes or space.end_of_document in behind:
        return None
    full = codes + codes[-1:] * (space.codes_per_image - len(codes))
    return Image.fromarray(tokenizer.decode_codes(np.array([full]))[0])
