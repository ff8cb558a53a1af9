"""What a terminal shows while an answer is written."""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from jam_jax import terminal
from jam_jax.api import Answer
from jam_jax.decode.settings import Settings

RED, BLUE = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))


def turns(*parts: tuple) -> Iterator[dict[int, Answer]]:
    for part in parts:
        yield {0: Answer("q", part, (2,), (), "")}


def test_text_is_written_once_and_a_picture_over_its_earlier_self() -> None:
    out = io.StringIO()
    last = terminal.watch(turns(("One",), ("One red", RED), ("One red", BLUE), ("One red", BLUE, " and more")), out)
    assert last.parts == ("One red", BLUE, " and more")
    shown = out.getvalue()
    assert shown.count("One") == 1 and shown.count(" red") == 1 and shown.endswith(" and more\n")
    lines = len(terminal.blocks(RED))
    assert shown.count(f"\x1b[{lines}A") == 1  # back up once, for the second state of the picture
    assert shown.index("255;0;0") < shown.index(f"\x1b[{lines}A") < shown.index("0;0;255")


def test_half_a_character_waits_for_its_other_half() -> None:
    out = io.StringIO()
    terminal.watch(turns(("a \ufffd",), ("a é",), ("a él",)), out)
    assert out.getvalue() == "a él\n"


def test_half_blocks_hold_two_pixels() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:2] = (0, 255, 0)
    lines = terminal.blocks(Image.fromarray(pixels))
    assert len(lines) == terminal.WIDTH // 2
    assert lines[0].count("▀") == terminal.WIDTH and lines[0].endswith("\x1b[0m")
    assert "38;2;0;255;0;48;2;0;255;0" in lines[0] and "38;2;0;0;0;48;2;0;0;0" in lines[-1]


class Spelling:
    """A model whose prompts have a token per character."""

    class config:
        max_positions = 40

    def encode_prompt(self, prompt: str, mode: str) -> list[int]:
        assert mode == "answer"
        return [2, *map(ord, prompt)]


def test_a_talk_forgets_its_oldest_turns() -> None:
    said = ["first", "answer", "second", "answer"]
    short = Settings(max_new_tokens=8)
    assert terminal.remembered(Spelling(), [], "third", short) == "third"  # type: ignore[arg-type]
    assert terminal.remembered(Spelling(), said, "third", short) == "answer\n\nsecond\n\nanswer\n\nthird"  # type: ignore[arg-type]
    assert terminal.remembered(Spelling(), said, "third", Settings()) == "answer\n\nthird"  # type: ignore[arg-type]
