"""What a sequence of ids says: runs of text and pictures, by the grammar of the token space.

One reader for the records of a store and for what a model generated, where the grammar may be broken: the share of
well-formed sequences is a figure of the report.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from jam_jax.tokens import CODE, TEXT, TokenSpace


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a sequence of ids says."""

    question: str  # of an instruction; "" without one
    runs: tuple[str | np.ndarray, ...]  # text, or the codes of a picture, int32 [codes_per_image]
    fault: str  # "" if the sequence is well formed, else the first thing that is wrong with it

    @property
    def well_formed(self) -> bool:
        """Whether the sequence is a whole document in the grammar of its token space."""
        return not self.fault

    @property
    def pictures(self) -> tuple[np.ndarray, ...]:
        """The codes of the pictures alone."""
        return tuple(run for run in self.runs if not isinstance(run, str))


def read(space: TokenSpace, decode: Callable[[list[int]], str], ids: Sequence[int] | np.ndarray) -> Reading:
    """Ids of a record, or of a generated sequence with its leading `</s>` and prompt → what they say.

    `decode` turns text ids into text. Never fails: what does not fit is left out and named in `fault`.
    """
    row = [int(i) for i in ids]
    if row[:1] == [space.start]:
        row = row[1:]
    question, faults = "", []
    if (end := _question_end(space, row)) >= 0:
        prompt, row = row[:end], row[end + len(space.question_end) :]
        question = decode([i for i in prompt if is_text(space, i)])
        if not all(is_text(space, i) for i in prompt):
            faults.append("the question holds an id that is no text")
    runs, fault = _runs(space, decode, row)
    return Reading(question, tuple(runs), [*faults, fault][0])


def _question_end(space: TokenSpace, row: list[int]) -> int:
    """Where the question of an instruction ends; -1 if the row asks nothing."""
    wanted, end = list(space.question_end), space.end_of_document
    first = row.index(end) if end in row else len(row)
    for at in range(first + 1 if wanted else 0):
        if row[at : at + len(wanted)] == wanted:
            # Where the end of a document also ends a question, only an answer behind it makes it one.
            return at if wanted != [end] or end in row[at + 1 :] else -1
    return -1


def _runs(space: TokenSpace, decode: Callable[[list[int]], str], row: list[int]) -> tuple[list[str | np.ndarray], str]:
    """The runs of a document up to its end, and the first fault."""
    runs: list[str | np.ndarray] = []
    faults: list[str] = []
    text: list[int] = []
    at, ended = 0, False

    def close_text() -> None:
        if text:
            runs.append(decode(text))
            text.clear()

    while at < len(row) and not ended:
        if space.draws and row[at] == space.start_of_image:
            close_text()
            picture = row[at : at + len(space.picture_layout)]
            fits = [_fits(space, i, wanted) for i, wanted in zip(picture, space.picture_layout, strict=False)]
            good = fits.index(False) if False in fits else len(fits)
            at += good
            if good < len(space.picture_layout):
                faults.append(f"a picture breaks off after {good - 1} of {len(space.picture_layout) - 1} tokens")
                continue
            runs.append(np.array([space.code_of_id[i] for i in picture if space.code_of_id[i] >= 0], np.int32))
            if at < len(row) and row[at] not in space.picture_closers:
                faults.append(f"a picture is not closed: id {row[at]} follows it")
            elif at < len(row) and row[at] != space.end_of_document:
                at += 1
            continue
        if row[at] == space.end_of_document:
            ended = True
        elif is_text(space, row[at]):
            text.append(row[at])
        else:
            faults.append(f"id {row[at]} stands where text should be")
        at += 1
    close_text()
    if not ended:
        faults.append("the document does not end")
    elif any(i != space.pad for i in row[at:]):
        faults.append("something follows the end of the document")
    if not runs:
        faults.append("the document is empty")
    return runs, faults[0] if faults else ""


def is_text(space: TokenSpace, i: int) -> bool:
    """Whether an id, of any value, is one that text is made of."""
    return 0 <= i < space.vocab_size and int(space.modality[i]) == TEXT


def _fits(space: TokenSpace, i: int, wanted: int) -> bool:
    """Whether id i may stand at a position of a picture where the layout says `wanted`."""
    return bool(0 <= i < space.vocab_size and space.code_of_id[i] >= 0) if wanted == CODE else i == wanted
