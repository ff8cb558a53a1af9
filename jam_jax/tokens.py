"""What an id means: the one place that knows the vocabulary's layout and the grammar of a document.

JAM's vocabulary (metaseq's released tokenizer, arXiv 2309.15564 section 2) has one `<break>` that both opens and
closes a picture; Chameleon has two tokens for it; Emu3 and Lumina close every row of codes. All of them are rows of
data here: code that masks, switches or counts modalities asks the TokenSpace and never compares with a literal id.
"""

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

CODE = -1  # in a picture layout: a position at which a code of the picture stands

TEXT, IMAGE, SPECIAL = 0, 1, 2  # modalities, as `TokenSpace.modality` gives them


@dataclasses.dataclass(frozen=True)
class TokenSpace:
    """The ranges and special ids of one vocabulary.

    A document is runs of text and pictures. A picture is `picture_layout` token by token: the first id opens it (the
    model chooses it in text), the rest are codes (`CODE`) or forced ids, and one of `picture_closers` ends it.
    """

    vocab_size: int  # rows of the embedding, padded ones included
    text: tuple[int, int]  # first text id and one past the last
    image_ids: tuple[int, ...]  # image_ids[code] is the id of that code of the image tokenizer
    start_of_image: int
    end_of_image: int  # equals start_of_image in JAM: both are <break>
    end_of_document: int
    end_of_infill: int
    sentinels: tuple[int, int]  # <mask:0> and one past the last sentinel
    pad: int
    picture_layout: tuple[int, ...]  # the opening id, then CODE or a forced id per position
    picture_closers: tuple[int, ...]  # ids that may follow the last position of the layout
    contents: str = ""  # hash of the text pieces and the image tokenizer: equal layouts may mean other words

    def __post_init__(self) -> None:
        ids = [self.start_of_image, self.end_of_image, self.end_of_document, self.end_of_infill, self.pad]
        ids += [*self.image_ids, *self.picture_closers, *(i for i in self.picture_layout if i != CODE)]
        ids += [self.text[1] - 1, self.sentinels[1] - 1]
        if not all(0 <= i < self.vocab_size for i in ids):
            raise ValueError(f"token space: an id lies outside the vocabulary of {self.vocab_size} rows")
        if len(set(self.image_ids)) != len(self.image_ids):
            raise ValueError("token space: two image codes share one id")
        if not self.picture_layout or self.picture_layout[0] != self.start_of_image:
            raise ValueError("token space: a picture's layout must begin with the start of image")

    @property
    def codes_per_image(self) -> int:
        """How many codes the image tokenizer gives for one picture."""
        return sum(i == CODE for i in self.picture_layout)

    @property
    def picture_tokens(self) -> int:
        """Tokens that one picture takes, from the opening id to the closing one."""
        return len(self.picture_layout) + 1

    def sentinel(self, i: int) -> int:
        """The id of `<mask:i>`; ValueError past the last."""
        if not 0 <= i < self.sentinels[1] - self.sentinels[0]:
            raise ValueError(f"<mask:{i}> does not exist: there are {self.sentinels[1] - self.sentinels[0]} sentinels")
        return self.sentinels[0] + i

    @functools.cached_property
    def modality(self) -> np.ndarray:
        """int8 [vocab_size]: TEXT, IMAGE or SPECIAL for every id; padded rows are SPECIAL."""
        table = np.full(self.vocab_size, SPECIAL, np.int8)
        table[self.text[0] : self.text[1]] = TEXT
        table[list(self.image_ids)] = IMAGE
        for i in (self.start_of_image, self.end_of_image, self.end_of_document, self.end_of_infill, self.pad):
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
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> "TokenSpace":
        """Inverse of `to_json`; ValueError names a field that is missing or unknown."""
        values: dict[str, Any] = json.loads(text)
        fields = {f.name for f in dataclasses.fields(TokenSpace)}
        if set(values) != fields:
            raise ValueError(f"token space: fields {sorted(set(values) ^ fields)} are missing or unknown")
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return TokenSpace(**plain)

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change whenever any id changes its meaning."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


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
