"""What an id means: the one place that knows the vocabulary's layout and the grammar of a document.

JAM's vocabulary (metaseq's released tokenizer, arXiv 2309.15564 section 2) has one `<break>` that both opens and
closes a picture; Chameleon has two tokens for it; Emu3 and Lumina close every row of codes; a text parent has none.
All of them are data here: code that masks, switches or counts modalities asks the TokenSpace and never compares with a
literal id.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

CODE = -1  # in a picture layout: a position at which a code of the picture stands

TEXT, IMAGE, SPECIAL = 0, 1, 2  # modalities, as `TokenSpace.modality` gives them

# Ids in runs of consecutive ones, flat: the first of a run and one past its last, then the next run's.
Runs = tuple[int, ...]


def runs(ids: Iterable[int]) -> Runs:
    """Ids, in their order, as runs: 5, 6, 7, 2 are (5, 8, 2, 3)."""
    flat: list[int] = []
    for i in ids:
        if flat and flat[-1] == i:
            flat[-1] += 1
        else:
            flat += [i, i + 1]
    return tuple(flat)


def ids_of(flat: Runs) -> list[int]:
    """Inverse of `runs`."""
    return [i for first, past in zip(flat[::2], flat[1::2], strict=True) for i in range(first, past)]


@dataclasses.dataclass(frozen=True)
class TokenSpace:
    """The ids of one vocabulary, by what they are for; None, or nothing, for what it does not have.

    A document is runs of text and pictures. A picture is `picture_layout` token by token: the first id opens it (the
    model chooses it in text), the rest are codes (`CODE`) or forced ids, and one of `picture_closers` ends it. A
    vocabulary without a layout draws nothing: a text parent's, or one whose image tokenizer is not there yet.
    """

    vocab_size: int  # rows of the embedding, padded ones included
    text: Runs  # the ids that text is made of; in JAM one run
    image_ids: tuple[int, ...]  # image_ids[code] is the id of that code of the image tokenizer
    start_of_image: int | None
    end_of_image: int | None  # equals start_of_image in JAM: both are <break>
    end_of_document: int
    end_of_infill: int | None
    sentinels: Runs  # <mask:0>, <mask:1>, …
    pad: int
    picture_layout: tuple[int, ...]  # the opening id, then CODE or a forced id per position
    picture_closers: tuple[int, ...]  # ids that may follow the last position of the layout
    contents: str = ""  # hash of the text pieces and the image tokenizer: equal layouts may mean other words
    # What JAM does without, and leaves out of its JSON.
    start_of_document: int | None = None  # stands before every document; None: the end of the one before it does
    end_of_question: tuple[int, ...] | None = None  # between question and answer; None: <mask:0>, end of document
    unconditional: tuple[int, ...] | None = None  # before the opening id in guidance's second stream; None: see `blank`

    def __post_init__(self) -> None:
        named = (self.start_of_image, self.end_of_image, self.end_of_document, self.end_of_infill, self.pad)
        ids = [i for i in (*named, self.start_of_document) if i is not None]
        ids += [*self.image_ids, *self.picture_closers, *(i for i in self.picture_layout if i != CODE)]
        ids += [*(self.end_of_question or ()), *(self.unconditional or ())]
        for flat in (self.text, self.sentinels):
            if len(flat) % 2 or any(a > b for a, b in zip(flat[::2], flat[1::2], strict=True)):
                raise ValueError(f"token space: runs are pairs of a first id and one past the last, got {flat[:8]}")
            ids += [i for a, b in zip(flat[::2], flat[1::2], strict=True) if a < b for i in (a, b - 1)]
        if not all(0 <= i < self.vocab_size for i in ids):
            raise ValueError(f"token space: an id lies outside the vocabulary of {self.vocab_size} rows")
        if len(set(self.image_ids)) != len(self.image_ids):
            raise ValueError("token space: two image codes share one id")
        if not self.picture_layout:
            return
        if self.start_of_image is None or self.picture_layout[0] != self.start_of_image:
            raise ValueError("token space: a picture's layout must begin with the start of image")
        if not self.image_ids or not self.picture_closers:
            raise ValueError("token space: a picture needs image codes and a token that closes it")

    @property
    def draws(self) -> bool:
        """Whether documents of this vocabulary may hold pictures."""
        return bool(self.picture_layout)

    def require_pictures(self) -> None:
        """ValueError says what is missing where a picture is needed and the vocabulary draws none."""
        if not self.image_ids:
            raise ValueError("this vocabulary has no image codes: a picture needs a model that draws")
        if not self.draws:
            raise ValueError(
                "this vocabulary has image codes, but its tokenizer no image tokenizer yet: add one with "
                "python -m jam_jax.data assemble --text TOKENIZER --image DIR"
            )

    def require_infill(self) -> None:
        """ValueError if the CM3 objective is asked of a vocabulary that has no tokens for it."""
        if self.end_of_infill is None or not self.sentinel_ids:
            raise ValueError("this vocabulary has no <mask:i> and no end of infill, which the CM3 objective needs")

    @property
    def start(self) -> int:
        """The id that a document begins with; in JAM the end of the one before it."""
        return self.end_of_document if self.start_of_document is None else self.start_of_document

    @property
    def before_record(self) -> tuple[int, ...]:
        """What a record of a store lacks at its front: nothing where documents have a start of their own."""
        return (self.end_of_document,) if self.start_of_document is None else ()

    @property
    def question_end(self) -> tuple[int, ...]:
        """What stands between a question and its answer; empty if the vocabulary has nothing for it."""
        if self.end_of_question is not None:
            return self.end_of_question
        return (self.sentinel(0), self.end_of_document) if self.sentinel_ids else ()

    def require_questions(self) -> None:
        """ValueError if a question is to be told from its answer and the vocabulary has nothing for it."""
        if not self.question_end:
            raise ValueError("this vocabulary has no token that ends a question: give a text to go on with (mode text)")

    @property
    def blank(self) -> tuple[int, ...]:
        """What stands before the opening id where nothing is said of the picture (guidance's second stream).

        JAM's is `</s> <mask:0>`, as in metaseq's code; without sentinels it is the start of a document alone.
        """
        if self.unconditional is not None:
            return self.unconditional
        return (self.start, self.sentinel(0)) if self.sentinel_ids else (self.start,)

    @property
    def codes_per_image(self) -> int:
        """How many codes the image tokenizer gives for one picture."""
        return sum(i == CODE for i in self.picture_layout)

    @property
    def picture_tokens(self) -> int:
        """Tokens that one picture takes, from the opening id to the closing one."""
        return len(self.picture_layout) + 1

    @functools.cached_property
    def sentinel_ids(self) -> list[int]:
        """The ids of `<mask:0>`, `<mask:1>`, …"""
        return ids_of(self.sentinels)

    def sentinel(self, i: int) -> int:
        """The id of `<mask:i>`; ValueError past the last."""
        if not 0 <= i < len(self.sentinel_ids):
            raise ValueError(f"<mask:{i}> does not exist: there are {len(self.sentinel_ids)} sentinels")
        return self.sentinel_ids[i]

    @functools.cached_property
    def modality(self) -> np.ndarray:
        """int8 [vocab_size]: TEXT, IMAGE or SPECIAL for every id; padded rows are SPECIAL."""
        table = np.full(self.vocab_size, SPECIAL, np.int8)
        table[ids_of(self.text)] = TEXT
        table[list(self.image_ids)] = IMAGE
        for i in (self.start_of_image, self.end_of_image, self.end_of_document, self.end_of_infill, self.pad):
            if i is not None:
                table[i] = SPECIAL
        return table

    @functools.cached_property
    def code_of_id(self) -> np.ndarray:
        """int32 [vocab_size]: the image code of every id, -1 where the id is no image token."""
        table = np.full(self.vocab_size, -1, np.int32)
        table[list(self.image_ids)] = np.arange(len(self.image_ids))
        return table

    def to_json(self) -> str:
        """The token space as JSON text; `from_json` reads it back unchanged."""
        values = dataclasses.asdict(self)
        return json.dumps({k: v for k, v in values.items() if k not in _MAY_LACK or v is not None})

    @staticmethod
    def from_json(text: str) -> "TokenSpace":
        """Inverse of `to_json`; ValueError names a field that is missing or unknown."""
        values: dict[str, Any] = json.loads(text)
        fields = {f.name for f in dataclasses.fields(TokenSpace)}
        if odd := (set(values) ^ fields) - (_MAY_LACK - set(values)):
            raise ValueError(f"token space: fields {sorted(odd)} are missing or unknown")
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return TokenSpace(**plain)

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change whenever any id changes its meaning."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


_MAY_LACK = {"start_of_document", "end_of_question", "unconditional"}  # fields that JSON holds only where they say more


def jam(
    *, text: int, codes: int, codes_per_image: int, sentinels: int = 514, reserved: int = 0, pad_to: int = 1
) -> TokenSpace:
    """A TokenSpace in the order of the paper's tokenizer (metaseq): specials, text, codes, `<break>`, `<eoss>`, masks.

    Ids 0..3 are `<s>`, `<pad>`, `</s>`, `<unk>` and are part of the `text` count, as they are in SentencePiece and in
    the released vocabulary. `jam(text=56320, codes=8192, codes_per_image=1024, reserved=1024, pad_to=8)` has `<break>`
    at 65536 and 66,056 rows.
    """
    brk = text + codes + reserved
    rows = brk + 2 + sentinels
    return TokenSpace(
        vocab_size=-(-rows // pad_to) * pad_to,
        text=(4, text),
        image_ids=tuple(range(text, text + codes)),
        start_of_image=brk,
        end_of_image=brk,
        end_of_document=2,
        end_of_infill=brk + 1,
        sentinels=(brk + 2, rows),
        pad=1,
        picture_layout=(brk, *[CODE] * codes_per_image),
        # A picture at the end of a document is followed by </s>, without a second <break>.
        picture_closers=(brk, 2),
    )


def load(tokenizer_dir: str | Path) -> TokenSpace:
    """Read `tokens.json` of a tokenizer's directory; ValueError if there is none or it is damaged."""
    path = Path(tokenizer_dir) / "tokens.json"
    if not path.is_file():
        raise ValueError(f"{tokenizer_dir} is no tokenizer: it has no tokens.json")
    try:
        return TokenSpace.from_json(path.read_text())
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
