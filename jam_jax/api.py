"""The Python interface: `jam_jax.load(DIR)` gives a model with logits and illustrated answers."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jam_jax import checkpoint, tokens
from jam_jax.data.tokenizers import Tokenizer, open_tokenizer
from jam_jax.decode import engine
from jam_jax.decode.settings import Settings
from jam_jax.decode.state import picture_room
from jam_jax.models import model
from jam_jax.models.model import LanguageConfig
from jam_jax.tokens import TokenSpace

# What a prompt is: a question to answer with text and pictures, a caption to draw, or a text to go on with.
Mode = Literal["answer", "picture", "text"]


@dataclasses.dataclass(frozen=True)
class Answer:
    """One generated document."""

    prompt: str
    parts: tuple[str | Image.Image, ...]  # runs of text and pictures; in mode "text" the first begins with the prompt
    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]  # what followed the prompt, its end included
    fault: str  # "" if well formed, else what is wrong with it (as a text that was cut short by its limit is not)

    @property
    def pictures(self) -> tuple[Image.Image, ...]:
        """The pictures alone."""
        return tuple(part for part in self.parts if not isinstance(part, str))


@dataclasses.dataclass(frozen=True)
class Model:
    """A model directory in memory; its tokenizer opens when it is first used."""

    directory: Path
    config: LanguageConfig
    params: dict  # nested dict of float32 arrays

    @functools.cached_property
    def space(self) -> TokenSpace:
        """What its ids mean; ValueError if the directory holds no tokenizer."""
        return tokens.load(checkpoint.tokenizer_dir(self.directory))

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer; ValueError if the directory holds none or a damaged one."""
        return open_tokenizer(checkpoint.tokenizer_dir(self.directory))

    def logits(self, tokens: np.ndarray | jax.Array) -> jax.Array:
        """Tokens [B, T] int → logits [B, T, V] float32; ValueError for another shape, type or id, or too long a row."""
        ids = np.asarray(tokens)
        if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"tokens must be integers [B, T], got {ids.dtype} {list(ids.shape)}")
        if ids.shape[1] > self.config.max_positions:
            raise ValueError(f"{ids.shape[1]} tokens do not fit the model's {self.config.max_positions} positions")
        if ids.size and not 0 <= ids.min() <= ids.max() < self.config.vocab_size:
            raise ValueError(f"ids go from 0 to {self.config.vocab_size - 1}, got {ids.min()} to {ids.max()}")
        return _logits(self.config, self.params, jnp.asarray(ids, jnp.int32))

    def generate(
        self,
        prompts: Sequence[str],
        mode: Mode = "answer",
        settings: Settings = Settings(),
        seed: int = 0,
        *,
        rows: int = 64,
        advance: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """Answer, draw or go on with every prompt; the same seed gives the same documents.

        At most `rows` prompts run at once; `advance(n)` hears of n finished ones. ValueError: a prompt too long for
        the model, an unknown mode, settings that contradict each other, or a model without a tokenizer.
        """
        if isinstance(prompts, str):
            raise ValueError("prompts must be a list of texts, got one text: put it into a list")
        ids = [self.encode_prompt(prompt, mode) for prompt in prompts]
        settings = for_mode(self.space, settings, mode)
        written = engine.generate(
            self.config, self.params, self.space, ids, settings, seed=seed, rows=rows, advance=advance
        )
        return [self._read(mode, *answer) for answer in zip(prompts, ids, written, strict=True)]

    def encode_prompt(self, prompt: str, mode: Mode) -> list[int]:
        """The ids that a mode puts before its answer (arXiv 2309.15564; the instruction's form is metaseq's).

        ValueError if the vocabulary cannot: no picture, or nothing that tells a question from its answer.
        """
        space, text = self.space, self.tokenizer.encode_text(prompt)
        if mode == "answer":
            space.require_questions()
            return [space.start, *text, *space.question_end]
        if mode == "picture":
            space.require_pictures()
            return [space.start, *text, *space.picture_layout[:1]]
        if mode == "text":
            return [space.start, *text]
        raise ValueError(f"unknown mode {mode!r}: choose one of {', '.join(get_args(Mode))}")

    def _read(self, mode: Mode, prompt: str, prompt_ids: list[int], ids: list[int]) -> Answer:
        reading = self.tokenizer.read_document([*prompt_ids, *ids])
        codes = [run for run in reading.runs if not isinstance(run, str)]
        drawn = self.tokenizer.decode_codes(np.stack(codes)) if codes else ()
        pictures = iter([Image.fromarray(picture) for picture in drawn])
        parts = [run if isinstance(run, str) else next(pictures) for run in reading.runs]
        if mode == "picture":
            parts = [part for part in parts if not isinstance(part, str)]  # without the caption
        return Answer(prompt, tuple(parts), tuple(prompt_ids), tuple(ids), reading.fault)


def load(directory: str | Path) -> Model:
    """Open a model directory; ValueError if it is missing, damaged, or holds no language model."""
    config = model.require_language(checkpoint.read_model_config(directory), str(directory))
    return Model(Path(directory), config, checkpoint.load_model(directory)[1])


def for_mode(space: TokenSpace, settings: Settings, mode: Mode) -> Settings:
    """The settings within a mode's bounds: exactly the one picture that the prompt opened, or text only."""
    if mode == "text":
        return dataclasses.replace(settings, max_images=0)
    if mode == "picture":
        room = picture_room(space) - 1
        most = room if settings.max_new_tokens is None else min(room, settings.max_new_tokens)
        return dataclasses.replace(settings, max_images=1, max_new_tokens=most)
    return settings


@functools.partial(jax.jit, static_argnums=0)
def _logits(config: LanguageConfig, params: dict, tokens: jax.Array) -> jax.Array:
    return model.forward(config, params, tokens)[0]
