"""The desk behind the page of `python -m jam_jax.demo`: a visitor's wishes within its limits, answered and packed."""

import dataclasses
import itertools
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jam_jax import config
from jam_jax.decode.settings import Sampling, Settings, check_bank
from jam_jax.html import document_html

if TYPE_CHECKING:
    from jam_jax.api import Answer, Model
    from jam_jax.decode.prompts import Mode
    from jam_jax.retrieval.prompts import Find

MODES: dict[str, "Mode"] = {"Answer a question": "answer", "Draw a caption": "picture", "Go on with a text": "text"}
NAMES = {  # of the numbers that a visitor sets
    "seed": "Seed",
    "temperature": "Temperature of text",
    "text_top_p": "Top-p of text",
    "image_top_p": "Top-p of pictures",
    "guidance": "Guidance of pictures",
    "pictures": "Pictures at most",
}
KEPT = 50  # downloads that are kept; older ones are removed


@dataclasses.dataclass(frozen=True)
class Options:
    """Serve a page that answers questions with text and pictures."""

    model: str  # model directory
    host: str = "127.0.0.1"  # address to listen at; 0.0.0.0 lets other machines in
    port: int = 7860
    queue: int = 32  # requests that may wait; more are turned away
    most_characters: int = 2000  # of a question
    most_tokens: int = 2048  # of an answer
    most_pictures: int = 3  # of an answer
    precision: Literal["model", "float32", "bfloat16", "int8"] = "model"  # of the weights; model: as its config says
    retrieve: int = 0  # documents of the bank that go before each question, at most; they are shown as its sources
    bank: str = ""  # directory of the memory bank that they are from
    clip: str = ""  # the CLIP that made the bank, if it has moved

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise ValueError(f"port must be from 0 (any that is free) to 65535, got {self.port}")
        if min(self.queue, self.most_characters, self.most_tokens) < 1 or self.most_pictures < 0:
            raise ValueError("queue, most-characters and most-tokens must be 1 or more, most-pictures 0 or more")
        check_bank(self.retrieve, self.bank)


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a visitor filled in, as it comes from the page."""

    question: str
    mode: str
    seed: float
    temperature: float
    text_top_p: float
    image_top_p: float
    guidance: float
    pictures: float


class Desk:
    """Answers visitors; the page's queue lets one in at a time."""

    def __init__(self, model: "Model", options: Options, downloads: Path, find: "Find | None" = None) -> None:
        self.model, self.options, self.downloads, self._find = model, options, downloads, find
        self._numbers = itertools.count(1)
        self.pictures = options.most_pictures if model.space.draws else 0  # of an answer
        self.modes = [name for name, mode in MODES.items() if self.pictures or mode != "picture"]

    def settings(self, asked: Asked) -> Settings:
        """The visitor's wishes within the page's limits; ValueError says which limit they pass."""
        most = self.options
        if not asked.question.strip():
            raise ValueError("There is no question: write one.")
        if len(asked.question) > most.most_characters:
            raise ValueError(
                f"The question has {len(asked.question)} characters, {most.most_characters} are allowed: shorten it."
            )
        if asked.mode not in self.modes:
            raise ValueError(f"Choose one of: {', '.join(self.modes)}.")
        for name, shown in NAMES.items():
            if not isinstance(value := getattr(asked, name), int | float) or not math.isfinite(value):
                raise ValueError(f"{shown} must be a number, got {value!r}: fill it in.")
        if not (0 <= asked.pictures <= self.pictures and asked.pictures == int(asked.pictures)):
            raise ValueError(f"An answer may have 0 to {self.pictures} pictures, not {asked.pictures:g}.")
        if MODES[asked.mode] == "picture" and not asked.pictures:
            raise ValueError(f"{asked.mode!r} draws one picture, but 0 pictures are allowed: allow 1 or more.")
        config.check_seed(int(asked.seed))
        positions = self.model.config.max_positions
        return Settings(
            text=Sampling(asked.temperature, top_p=asked.text_top_p),
            image=Sampling(top_p=asked.image_top_p),
            guidance=asked.guidance,
            max_images=int(asked.pictures),
            max_new_tokens=None if positions <= most.most_tokens else most.most_tokens,
        )

    def answer(self, asked: Asked) -> Iterator[tuple[str, str, str, str | None]]:
        """The answer so far and its sources as HTML, a line about it, and when it is whole the path of its download.

        ValueError in one line for what cannot be answered.
        """
        from jam_jax.generate import sources
        from jam_jax.retrieval.sheet import sheet

        settings = self.settings(asked)
        retrieved = self._find([asked.question]) if self._find else None
        answer: Answer | None = None
        stood = ""
        for found in self.model.stream(
            [asked.question], MODES[asked.mode], settings, int(asked.seed), retrieved=retrieved
        ):
            if answer is None and found[0].retrieved:
                stood = f'<p class="note">Retrieved for it:</p>{sheet(sources(self.model, found[0]))}'
            answer = found[0]
            yield document_html(_shown(answer)), stood, f"{len(answer.ids)} tokens …", None
        assert answer is not None
        about = {"model": self.options.model, "mode": MODES[asked.mode], "seed": int(asked.seed)}
        about |= {"precision": self.options.precision, "settings": dataclasses.asdict(settings)}
        drawn = len(answer.pictures)
        note = f"{len(answer.ids)} tokens, {drawn} picture{'s' * (drawn != 1)}, seed {int(asked.seed)}"
        note += f". It is not well formed: {answer.fault}" if answer.fault else ""
        about |= {"bank": self.options.bank, "retrieve": self.options.retrieve} if self._find else {}
        yield document_html(_shown(answer)), stood, note, str(self.pack(answer, about))

    def pack(self, answer: "Answer", about: dict[str, Any]) -> Path:
        """The page, Markdown, JSON and pictures of an answer in a zip file; the oldest goes when there are many."""
        from jam_jax import generate

        number = next(self._numbers)
        folder = self.downloads / f"answer-{number}"
        folder.mkdir()
        generate.write(folder, [answer], about, [generate.sources(self.model, answer)])
        path = Path(shutil.make_archive(str(folder), "zip", folder))
        shutil.rmtree(folder)
        (self.downloads / f"answer-{number - KEPT}.zip").unlink(missing_ok=True)
        return path


def _shown(answer: "Answer") -> list[str | bytes]:
    from jam_jax.generate import png

    return [part if isinstance(part, str) else png(part) for part in answer.parts]
