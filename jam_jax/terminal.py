"""Answers on a terminal while they are written: text as it comes, a picture drawn again with each of its rows."""

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from PIL import Image

    from jam_jax.api import Answer, Model
    from jam_jax.decode.settings import Settings
    from jam_jax.retrieval.prompts import Find

WIDTH = 48  # characters that a picture is wide; two of its rows stand in one line


def converse(model: "Model", settings: "Settings", seed: int, find: "Find | None" = None) -> "list[Answer]":
    """Questions from the terminal until an empty one or the end of the input; of a mistake it tells, and goes on.

    Ctrl-C stops the answer that is being written, which is dropped, or between answers the talk.
    """
    answers: list[Answer] = []
    said: list[str] = []
    while question := _question():
        try:
            prompt = remembered(model, said, question, settings)
            retrieved = find([question]) if find else None
            turns = model.stream([prompt], "answer", settings, seed + len(answers), retrieved=retrieved)
            found = watch(turns)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            continue
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
            continue
        answers.append(found)
        said += [question, *(part for part in found.parts if isinstance(part, str))]
    return answers


def _question() -> str:
    try:
        return input("> ").strip()
    except (EOFError, KeyboardInterrupt):
        return ""


def watch(turns: "Iterator[dict[int, Answer]]", out: TextIO | None = None) -> "Answer":
    """Show one streamed answer on the terminal, or wherever `out` writes, and give it when it is whole."""
    out = out or sys.stdout
    answer: Answer | None = None
    shown: list[str | int] = []  # of every part: the text so far, or the lines that its picture takes
    for found in turns:
        answer = found[0]
        for i, part in enumerate(answer.parts):
            if i == len(shown):
                shown.append("" if isinstance(part, str) else 0)
            before = shown[i]
            if isinstance(part, str) and isinstance(before, str):
                whole = part.rstrip("\ufffd")  # half a character, which the next token completes
                if whole.startswith(before):
                    out.write(whole[len(before) :])
                    shown[i] = whole
            elif not isinstance(part, str) and i == len(answer.parts) - 1:
                shown[i] = _draw(part, before, out)
        out.flush()
    assert answer is not None
    out.write("\n")
    return answer


def _draw(picture: "Image.Image", before: str | int, out: TextIO) -> int:
    """Draw a picture over its earlier self; gives the lines that it takes."""
    lines = blocks(picture)
    up = f"\x1b[{before}A" if before else "\n"
    out.write(up + "".join(f"{line}\n" for line in lines))
    return len(lines)


def blocks(picture: "Image.Image") -> list[str]:
    """A picture in lines of half blocks, each of which has the colours of two pixels."""
    import numpy as np

    height = max(2, round(WIDTH * picture.height / picture.width) // 2 * 2)
    pixels = np.asarray(picture.convert("RGB").resize((WIDTH, height)))
    lines = []
    for top, bottom in zip(pixels[::2], pixels[1::2], strict=True):
        cells = (
            f"\x1b[38;2;{a[0]};{a[1]};{a[2]};48;2;{b[0]};{b[1]};{b[2]}m▀"
            for a, b in zip(top.tolist(), bottom.tolist(), strict=True)
        )
        lines.append("".join(cells) + "\x1b[0m")
    return lines


def remembered(model: "Model", said: Sequence[str], question: str, settings: "Settings") -> str:
    """A question behind what was said before it, an empty line between the turns; the oldest are left out.

    As much is kept as leaves half of the model's positions for the answer, or what `max_new_tokens` says.
    """
    most = settings.max_new_tokens or model.config.max_positions // 2
    for first in range(len(said) + 1):
        prompt = "\n\n".join([*said[first:], question])
        if len(model.encode_prompt(prompt, "answer")) + most <= model.config.max_positions:
            return prompt
    return question
