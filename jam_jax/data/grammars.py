"""How documents of published vocabularies are written: a row of data for each, in the names of its tokens.

What is not text is found by name, so a vocabulary may number its tokens as it likes. Sources, all of them code of the
projects: facebookresearch/chameleon (`inference/{vocab,chameleon}.py`), Alpha-VLLM/Lumina-mGPT (`data/
item_processor.py`, `inference_solver.py`), baaivision/Emu3 (`mllm/{processing,tokenization}_emu3.py`),
FoundationVision/Liquid (training and `inference_t2i.py`), wdrink/SimpleAR (`train/train.py`, `train/preprocess.py`).
Which tokens nobody uses, and so may stand for `<mask:i>` and the end of an infill, is our choice.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Sequence

from jam_jax.tokens import CODE, TokenSpace, runs

# Names that are no text in any vocabulary, even where its file takes them for words.
RESERVED = re.compile(
    r"<\|.*\|>|</?s>|<(pad|unk|bos|eos|mask|image|break|eoss|racm3:break|2mass|boi|eoi|unconditional)>|\[@BOS@\]"
    r"|<(unused|reserved|sentinel:|mask:)\d+>|<(start|end)_of_turn>|IMGIMG[A-J]+Z|madeupword\d+"
)


@dataclasses.dataclass(frozen=True)
class Codes:
    """How a vocabulary names the codes of its pictures: a number between two strings."""

    before: str
    after: str
    digits: str = "0123456789"
    width: int = 1  # digits at least

    def name(self, code: int) -> str:
        """The token of a code."""
        return f"{self.before}{''.join(self.digits[int(d)] for d in str(code).zfill(self.width))}{self.after}"

    def code(self, name: str) -> int | None:
        """Inverse of `name`; None for a token that is no code."""
        number = name.removeprefix(self.before).removesuffix(self.after)
        if not number or set(number) - set(self.digits):
            return None
        value = int("".join(str(self.digits.index(d)) for d in number))
        return value if self.name(value) == name else None


@dataclasses.dataclass(frozen=True)
class Spelt:
    """A part of a picture that is written as text."""

    text: str


@dataclasses.dataclass(frozen=True)
class Grammar:
    """One row. In `opening`, `{n}` is the picture's size: `size[0]` plus a unit for every `size[1]` codes of a side."""

    marks: tuple[str, ...]  # tokens by which it is recognised, which no vocabulary before it in the table has
    end: str  # of a document
    pad: str
    settings: tuple[str, ...] = ()  # attributes, one of which config.json holds, where the tokens alone do not tell
    start: str = ""  # of a document; "": the end of the one before it
    question_end: tuple[str, ...] = ()  # between question and answer; (): <mask:0> and the end of a document
    sentinels: tuple[str, ...] = ()  # those of them that exist are <mask:0>, <mask:1>, …
    end_of_infill: str = ""
    codes: Codes | None = None  # names of the codes
    appended: int = 0  # codes without names, whose ids follow the last token's
    opening: tuple[str | Spelt, ...] = ()  # of a picture, up to its first code
    size: tuple[int, int] = (0, 1)
    row_end: str = ""  # closes every row of codes
    closing: tuple[str, ...] = ()  # forced after the last row
    end_of_image: str = ""
    end_closes: bool = False  # whether the end of a document may close a picture too
    unconditional: tuple[str, ...] = ()  # before the opening of a picture of which nothing is said


def _numbered(name: str, first: int, past: int) -> tuple[str, ...]:
    return tuple(name.format(i) for i in range(first, past))


CHAMELEON_CODES = Codes("IMGIMG", "Z", "ABCDEFGHIJ")  # and those of the paper's tokenizer
CHAMELEON = Grammar(
    marks=("<racm3:break>",),
    start="<s>",
    end="</s>",
    pad="<pad>",
    question_end=("<reserved08706>",),  # the end of a turn
    sentinels=_numbered("<sentinel:{}>", 0, 512),
    end_of_infill="<reserved08708>",
    codes=CHAMELEON_CODES,
    opening=("<racm3:break>",),
    end_of_image="<eoss>",
    unconditional=("<s>",),
)
QWEN_SENTINELS = tuple(f"<|{name}|>" for name in ("object_ref_start", "object_ref_end", "box_start", "box_end"))
# The first whose marks a vocabulary has is its own. Anole is Chameleon.
GRAMMARS = {
    # Its vocabulary is Chameleon's, its turns alone say where a document ends.
    "lumina": dataclasses.replace(
        CHAMELEON,
        settings=("z_loss_weight", "mask_image_logits"),
        end="<reserved08706>",
        opening=("<racm3:break>", "<reserved{n:05d}>", "<reserved{n:05d}>"),
        size=(8800, 2),
        row_end="<reserved08799>",
    ),
    "chameleon": CHAMELEON,
    "emu3": Grammar(
        marks=("<|visual token 000000|>",),
        start="<|extra_203|>",
        end="<|extra_204|>",
        pad="<|endoftext|>",
        sentinels=_numbered("<|extra_{}|>", 1, 100),  # transformers calls the first <image>
        end_of_infill="<|extra_199|>",
        codes=Codes("<|visual token ", "|>", width=6),
        opening=("<|image start|>", Spelt("{n}*{n}"), "<|image token|>"),
        row_end="<|extra_200|>",
        closing=("<|extra_201|>",),
        end_of_image="<|image end|>",
        unconditional=("<|extra_203|>",),
    ),
    "liquid": Grammar(
        marks=("<unconditional>",),
        start="<bos>",
        end="<eos>",
        pad="<pad>",
        sentinels=_numbered("<unused{}>", 3, 98),
        end_of_infill="<unused98>",
        appended=8192,
        opening=("<boi>",),
        end_of_image="<eoi>",
        unconditional=("<bos>", "<unconditional>"),
    ),
    # Its documents end with the picture; where one goes on, a token says so that Qwen keeps for pictures.
    "simplear": Grammar(
        marks=("<|t2i|>",),
        start="<|t2i|>",
        end="<|endoftext|>",
        pad="<|endoftext|>",
        sentinels=(*QWEN_SENTINELS, "<|quad_start|>"),
        end_of_infill="<|quad_end|>",
        appended=64000,
        opening=("<|soi|>",),
        end_of_image="<|vision_end|>",
        end_closes=True,
        unconditional=("<|t2i|>",),
    ),
    "gemma": Grammar(
        marks=("<unused0>", "<start_of_turn>"),
        start="<bos>",
        end="<eos>",
        pad="<pad>",
        sentinels=_numbered("<unused{}>", 3, 98),  # without those that Liquid uses
        end_of_infill="<unused98>",
    ),
    "qwen2": Grammar(
        marks=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        end="<|endoftext|>",
        pad="<|endoftext|>",
        sentinels=(*QWEN_SENTINELS, "<|quad_start|>"),
        end_of_infill="<|quad_end|>",
    ),
    "llama3": Grammar(
        marks=("<|begin_of_text|>", "<|end_of_text|>"),
        start="<|begin_of_text|>",
        end="<|end_of_text|>",
        pad="<|end_of_text|>",
        sentinels=_numbered("<|reserved_special_token_{}|>", 10, 200),
        end_of_infill="<|reserved_special_token_200|>",
    ),
    "llama": Grammar(marks=("<unk>", "<s>", "</s>", "▁"), start="<s>", end="</s>", pad="<unk>"),
    "opt": Grammar(marks=("<s>", "<pad>", "</s>", "Ġ"), end="</s>", pad="<pad>"),
}


def recognise(names: Sequence[str | None], settings: Collection[str]) -> str:
    """The first row whose marks are all among the tokens; `settings` are the attributes of the model's config.json.

    ValueError names the rows if it is none of them.
    """
    held = set(names)
    for name, row in GRAMMARS.items():
        if held.issuperset(row.marks) and (not row.settings or set(row.settings) & set(settings)):
            return name
    raise ValueError(
        f"this vocabulary is none that is known here ({', '.join(GRAMMARS)}): name the one whose documents it writes "
        "with --grammar"
    )


def token_space(grammar: str, names: Sequence[str | None], text: Collection[int], rows: int) -> TokenSpace:
    """What the ids of a vocabulary mean under a row of the table; pictures have no layout yet (`draw_with`).

    `names` of all tokens, `text` the ids that its file takes for text, `rows` of the embedding: those past the tokens
    are special. ValueError names a token that is missing, or that the embedding has no row for.
    """
    row = _row(grammar)
    for i, name in enumerate(names):
        if i >= rows and name is not None:
            raise ValueError(f"the token {name!r} has the id {i}, but the embedding has {rows} rows")
    find, held = _finder(grammar, names), set(names)
    sentinels = [find(name) for name in row.sentinels if name in held]
    infill = find(row.end_of_infill) if row.end_of_infill in held else None
    used = [row.start, row.end, row.pad, row.row_end, row.end_of_image]
    used += [*row.question_end, *row.unconditional, *row.closing]
    used += [part for part in row.opening if isinstance(part, str) and "{" not in part]
    named = {find(name) for name in used if name}
    codes = _codes(grammar, row, names, rows)
    taken = {*codes, *sentinels, infill, *named}
    plain = [i for i in sorted(text) if i not in taken and not RESERVED.fullmatch(names[i] or "")]
    return TokenSpace(
        vocab_size=rows,
        text=runs(plain),
        image_ids=codes,
        start_of_image=find(str(row.opening[0])) if row.opening else None,
        end_of_image=find(row.end_of_image) if row.end_of_image else None,
        end_of_document=find(row.end),
        end_of_infill=infill,
        sentinels=runs(sentinels),
        pad=find(row.pad),
        picture_layout=(),
        picture_closers=(),
        start_of_document=find(row.start) if row.start else None,
        end_of_question=tuple(find(n) for n in row.question_end) or None,
        unconditional=tuple(find(n) for n in row.unconditional) or None,
    )


def draw_with(
    space: TokenSpace, grammar: str, names: Sequence[str | None], spell: Callable[[str], list[int]], side: int
) -> TokenSpace:
    """The space with the layout of pictures of `side` x `side` codes; `spell` gives the ids of a text.

    ValueError if the vocabulary has no pictures, or none of that size.
    """
    row, find = _row(grammar), _finder(grammar, names)
    if not space.image_ids:
        raise ValueError(f"the vocabulary of {grammar} has no image codes, so it has no use for an image tokenizer")
    base, unit = row.size
    if side % unit:
        raise ValueError(f"pictures of {grammar} have sides of a multiple of {unit} codes, not {side}")
    layout: list[int] = []
    for part in row.opening:
        said = {"n": base + side // unit}
        layout += spell(part.text.format(**said)) if isinstance(part, Spelt) else [find(part.format(**said))]
    for _ in range(side):
        layout += [CODE] * side + ([find(row.row_end)] if row.row_end else [])
    layout += [find(n) for n in row.closing]
    closers = (find(row.end_of_image), *((space.end_of_document,) if row.end_closes else ()))
    return dataclasses.replace(space, picture_layout=tuple(layout), picture_closers=closers)


def _row(grammar: str) -> Grammar:
    if grammar not in GRAMMARS:
        raise ValueError(f"there is no grammar {grammar!r}: choose one of {', '.join(GRAMMARS)}")
    return GRAMMARS[grammar]


def _finder(grammar: str, names: Sequence[str | None]) -> Callable[[str], int]:
    """The id of a token by its name; ValueError if the vocabulary does not have it."""
    ids = {name: i for i, name in enumerate(names) if name is not None}

    def find(name: str) -> int:
        if name not in ids:
            raise ValueError(f"the vocabulary has no token {name!r}, which documents of {grammar} need")
        return ids[name]

    return find


def _codes(grammar: str, row: Grammar, names: Sequence[str | None], rows: int) -> tuple[int, ...]:
    """The id of every image code, in the order of the codes."""
    if row.appended:
        if len(names) + row.appended > rows:
            raise ValueError(
                f"{len(names)} tokens and {row.appended} image codes of {grammar} need {len(names) + row.appended} "
                f"rows, but the embedding has {rows}"
            )
        return tuple(range(len(names), len(names) + row.appended))
    if row.codes is None:
        return ()
    found = {code: i for i, name in enumerate(names) if name and (code := row.codes.code(name)) is not None}
    for code in range(max(found, default=0) + 1):
        if code not in found:
            raise ValueError(f"the vocabulary has no token {row.codes.name(code)!r}, an image code of {grammar}")
    return tuple(found[code] for code in sorted(found))
