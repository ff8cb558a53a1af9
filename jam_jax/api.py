"""The Python interface: `jam_jax.load(DIR)` gives a model with logits and illustrated answers."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jam_jax import checkpoint, tokens
from jam_jax.data.tokenizers import Tokenizer, open_tokenizer
from jam_jax.decode import engine, prompts, requests, score, weights
from jam_jax.decode.prompts import Asked, Mode, Prompt
from jam_jax.decode.settings import Settings
from jam_jax.decode.state import picture_room
from jam_jax.models import few_rows, model
from jam_jax.models.model import LanguageConfig
from jam_jax.retrieval.prompts import Retrieved
from jam_jax.tokens import TokenSpace

ROWS = 64  # answers that are written at once at most, unless it is said
Key = tuple[int, int]  # the two words of a random key


@dataclasses.dataclass(frozen=True)
class Answer:
    """One generated document."""

    prompt: str
    parts: tuple[str | Image.Image, ...]  # runs of text and pictures, as `prompts.read` has them
    prompt_ids: tuple[int, ...]  # without what was retrieved
    ids: tuple[int, ...]  # what followed the prompt, its end included
    fault: str  # "" if well formed, else what is wrong with it (as a text that was cut short by its limit is not)
    key: Key = (0, 0)  # with the prompt and the settings it makes the same answer again
    retrieved: tuple[Retrieved, ...] = ()  # the documents that stood before the prompt

    @property
    def pictures(self) -> tuple[Image.Image, ...]:
        """The pictures alone."""
        return tuple(part for part in self.parts if not isinstance(part, str))


@dataclasses.dataclass(frozen=True)
class Model:
    """A model directory in memory; its tokenizer opens when it is first used."""

    directory: Path
    config: LanguageConfig
    _params: dict | None = dataclasses.field(repr=False)  # None: opened to decode alone
    precision: weights.Precision = "model"  # of the weights that it decodes with
    # As few rows at once decode, or as many.
    _decoding: dict[bool, tuple[LanguageConfig, dict]] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def params(self) -> dict:
        """The parameters as they are stored, a nested dict of float32 arrays; ValueError if they were not kept."""
        if self._params is None:
            raise ValueError(f"{self.directory} was opened to decode alone: load it without rows for its parameters")
        return self._params

    @functools.cached_property
    def space(self) -> TokenSpace:
        """What its ids mean; ValueError if the directory holds no tokenizer."""
        return tokens.load(checkpoint.tokenizer_dir(self.directory))

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer; ValueError if the directory holds none or a damaged one."""
        return open_tokenizer(checkpoint.tokenizer_dir(self.directory))

    def decoding(self, rows: int) -> tuple[LanguageConfig, dict]:
        """Its config and parameters as so many rows at once decode; made when they are first asked for.

        A model that was opened to decode alone has those of the rows that it was opened for, whatever the number.
        """
        few = few_rows.few(rows)
        if self._params is None:
            (few,) = self._decoding
        if few not in self._decoding:
            self._decoding[few] = weights.prepare(self.config, self.params, self.precision, rows=rows)
        return self._decoding[few]

    def logits(self, tokens: np.ndarray | jax.Array) -> jax.Array:
        """Tokens [B, T] int → logits [B, T, V] float32.

        ValueError for another shape, type or id, too long a row, or a model that was opened to decode alone.
        """
        ids = np.asarray(tokens)
        if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"tokens must be integers [B, T], got {ids.dtype} {list(ids.shape)}")
        if ids.shape[1] > self.config.max_positions:
            raise ValueError(f"{ids.shape[1]} tokens do not fit the model's {self.config.max_positions} positions")
        if ids.size and not 0 <= ids.min() <= ids.max() < self.config.vocab_size:
            raise ValueError(f"ids go from 0 to {self.config.vocab_size - 1}, got {ids.min()} to {ids.max()}")
        return _logits(self.config, self.params, jnp.asarray(ids, jnp.int32))

    def nll(self, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        """-log p of every token of a document but the first, float32 [n - 1], read through the decoder's cache.

        ValueError for fewer than two tokens, more than the model has positions for, or an id it does not have.
        """
        return score.nll(*self.decoding(len(tokens)), tokens)

    def generate(
        self,
        prompts: Sequence[Prompt],
        mode: Mode = "answer",
        settings: Settings | Sequence[Settings] = Settings(),
        seed: int = 0,
        *,
        retrieved: Sequence[Sequence[Retrieved]] | None = None,
        samples: int = 1,
        keys: Sequence[Key] | None = None,
        rows: int = ROWS,
        advance: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """Answer, draw, describe, fill or go on with every prompt; the same seed gives the same documents.

        `samples` answers of each prompt, which is read once, stand beside each other. `settings` are of all prompts
        or one of each; `keys`, one for each answer, stand for the seed. `retrieved`, from
        `retrieval.prompts.for_prompts`, are the documents that go before each prompt; the least similar are left out
        where they would leave no room for the answer. At most `rows` answers are written at once; `advance(n)` hears
        of n finished ones. ValueError: a prompt that is too long or not of the mode's kind, an unknown mode, settings
        that contradict each other, or a model without a tokenizer.
        """
        asked = self._asked(prompts, mode, settings, seed, samples, keys, retrieved)
        written: dict[int, list[int]] = {}
        for found in self._parts(asked, rows, engine.TURN):
            written |= {row: part.ids for row, part in found.items()}
            ended = sum(part.ended for part in found.values())
            if advance is not None and ended:
                advance(ended)
        return [self._read(asked, row, written[row]) for row in range(len(asked.prompts))]

    def stream(
        self,
        prompts: Sequence[Prompt],
        mode: Mode = "answer",
        settings: Settings | Sequence[Settings] = Settings(),
        seed: int = 0,
        *,
        retrieved: Sequence[Sequence[Retrieved]] | None = None,
        samples: int = 1,
        keys: Sequence[Key] | None = None,
        rows: int = ROWS,
        every: int = 0,
    ) -> Iterator[dict[int, Answer]]:
        """`generate` while it goes on: after `every` so many tokens what the running answers have, by number.

        `every` 0 is a row of a picture. A picture of which codes are missing is there with its last code in their
        place. What has ended is given once more. ValueError as `generate`, before the first answer.
        """
        asked = self._asked(prompts, mode, settings, seed, samples, keys, retrieved)
        side = round(self.space.codes_per_image**0.5) if self.space.draws else 16
        parts = self._parts(asked, rows, every or max(side, 8))

        def answers() -> Iterator[dict[int, Answer]]:
            for found in parts:
                yield {row: self._read(asked, row, part.ids, part.ended) for row, part in found.items()}

        return answers()

    def encode_prompt(self, prompt: Prompt, mode: Mode) -> list[int]:
        """The ids that a mode puts before its answer (arXiv 2309.15564; the instruction's form is metaseq's).

        ValueError if the vocabulary cannot: no picture, or nothing that tells a question from its answer.
        """
        return list(prompts.ask(self.tokenizer, prompt, mode).ids)

    def _asked(
        self,
        given: Sequence[Prompt],
        mode: Mode,
        settings: Settings | Sequence[Settings],
        seed: int,
        samples: int,
        keys: Sequence[Key] | None,
        retrieved: Sequence[Sequence[Retrieved]] | None,
    ) -> "_Asked":
        if isinstance(given, str):
            raise ValueError("prompts must be a list of texts, got one text: put it into a list")
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        if keys is not None and len(keys) != len(given) * samples:
            raise ValueError(f"there are {len(given) * samples} answers to give, but {len(keys)} keys")
        every = [settings] * len(given) if isinstance(settings, Settings) else list(settings)
        for name, of in {"settings": every, "lists of retrieved documents": retrieved}.items():
            if of is not None and len(of) != len(given):
                raise ValueError(f"there are {len(given)} prompts, but {len(of)} {name}: give one for each")
        if retrieved is None and any(s.contrast == "retrieved" for s in every):
            raise ValueError("contrast is with the retrieved documents, but none are retrieved: set it to blank")
        read = [prompts.ask(self.tokenizer, prompt, mode) for prompt in given]
        bounded = [for_mode(self.space, s, mode) for s in every]
        before = [self._fitting(*each) for each in zip(retrieved or [()] * len(given), read, bounded, strict=True)]
        if keys is None:
            words = np.asarray(jax.random.key_data(engine.row_keys(seed, len(given) * samples)))
        else:
            words = np.array(keys, np.uint32).reshape(-1, 2)
        each = np.repeat(np.arange(len(given)), samples).tolist()
        return _Asked(
            mode,
            shown=[prompts.shown(given[i]) for i in each],
            prompts=[read[i] for i in each],
            settings=[bounded[i] for i in each],
            retrieved=[before[i] for i in each],
            keys=words,
        )

    def _fitting(self, documents: Sequence[Retrieved], asked: Asked, settings: Settings) -> tuple[Retrieved, ...]:
        """As many of the documents, from the first on, as leave room for a prompt and an answer with a picture."""
        least = picture_room(self.space) if self.space.draws else 1
        least = max(least, requests.owed(self.space, settings), requests.needed(asked.spans))
        ends = np.cumsum([len(document.ids) for document in documents])
        return tuple(documents[: int((ends <= self.config.max_positions - len(asked.ids) - least).sum())])

    def _parts(self, asked: "_Asked", rows: int, every: int) -> Iterator[dict[int, engine.Part]]:
        contexts = [tuple(i for document in of for i in document.ids) for of in asked.retrieved]
        return engine.stream(
            *self.decoding(engine.batch(len(asked.prompts), rows)),
            self.space,
            [(*a.ids[:1], *context, *a.ids[1:]) for a, context in zip(asked.prompts, contexts, strict=True)],
            asked.settings,
            keys=jax.random.wrap_key_data(jnp.asarray(asked.keys)),
            unconditional=[
                requests.second_prefix(self.space, *each) for each in zip(asked.settings, contexts, strict=True)
            ],
            spans=[a.spans for a in asked.prompts],
            rows=rows,
            every=every,
        )

    def _read(self, asked: "_Asked", row: int, ids: list[int], ended: bool = True) -> Answer:
        prompt = asked.prompts[row]
        parts, fault = prompts.read(self.tokenizer, asked.mode, prompt, ids)
        if not ended and (picture := prompts.unfinished(self.tokenizer, prompt, ids)) is not None:
            parts = (*parts, picture)
        first, second = asked.keys[row].tolist()
        return Answer(
            asked.shown[row], parts, prompt.ids, tuple(ids), fault, (first, second), tuple(asked.retrieved[row])
        )


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What a call asks for: of each list one entry for each answer."""

    mode: Mode
    shown: list[str]  # the prompts as text
    prompts: list[Asked]
    settings: list[Settings]
    retrieved: list[tuple[Retrieved, ...]]  # before the prompts
    keys: np.ndarray  # uint32 [answers, 2]


def load(directory: str | Path, precision: weights.Precision = "model", *, rows: int | None = None) -> Model:
    """Open a model directory, to decode with weights of a precision (`decode.weights`).

    With `rows` it is opened to decode alone, best so many rows at once: its parameters are read one by one and kept
    once, as they decode; otherwise they are kept as they are stored, and beside them as they decode.
    ValueError if it is missing, damaged, or holds no language model.
    """
    config = model.require_language(checkpoint.read_model_config(directory), str(directory))
    if rows is None:
        return Model(Path(directory), config, checkpoint.load_model(directory)[1], precision)
    ready = weights.prepare_leaves(config, checkpoint.open_leaves(directory)[1], precision, rows=rows)
    return Model(Path(directory), config, None, precision, {few_rows.few(rows): ready})


def for_mode(space: TokenSpace, settings: Settings, mode: Mode) -> Settings:
    """The settings within a mode's bounds: exactly the one picture that the prompt opened, or text only."""
    if mode in ("text", "caption", "fill"):
        return dataclasses.replace(settings, min_images=0, max_images=0)
    if mode == "picture":
        room = picture_room(space) - 1
        most = room if settings.max_new_tokens is None else min(room, settings.max_new_tokens)
        return dataclasses.replace(settings, min_text=0, min_images=0, max_images=1, max_new_tokens=most)
    return settings


@functools.partial(jax.jit, static_argnums=0)
def _logits(config: LanguageConfig, params: dict, tokens: jax.Array) -> jax.Array:
    return model.forward(config, params, tokens)[0]
