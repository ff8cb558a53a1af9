"""Figures of a model: `python -m jam_jax.evaluate perplexity|zero-shot|choices|pictures|draw|answer|tables …`."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jam_jax import config, hosts
from jam_jax.decode.settings import Settings, check_bank
from jam_jax.evaluate import choices, measure, picture_scores, zero_shot
from jam_jax.evaluate.choices import Choices
from jam_jax.evaluate.measure import Perplexity
from jam_jax.evaluate.picture_scores import Pictures
from jam_jax.evaluate.tables import command as tables
from jam_jax.evaluate.tables.command import Tables
from jam_jax.evaluate.zero_shot import ZeroShot
from jam_jax.machine import keep_freed_memory

if TYPE_CHECKING:
    from jam_jax.api import Answer as Answered
    from jam_jax.api import Model
    from jam_jax.evaluate.samples import Source


@dataclasses.dataclass(frozen=True)
class Draw:
    """Draw held-out captions; those of the built-in world are marked by its grader."""

    model: str  # model directory, with its tokenizer
    captions: str  # TFDS dataset or image folder
    out: str  # directory to write the drawings to
    split: str = "test"
    count: int = 100  # captions; of the built-in world's, those with one or two shapes
    seed: int = 0
    settings: Settings = Settings()
    retrieve: int = 0  # documents of the bank that go before each caption, at most
    bank: str = ""  # directory of the memory bank that they are from

    def __post_init__(self) -> None:
        _check_count(self.count)
        config.check_seed(self.seed)
        check_bank(self.retrieve, self.bank)


@dataclasses.dataclass(frozen=True)
class Answer:
    """Answer held-out questions, and count the answers that are well formed with the pictures asked for.

    In the built-in world the grader marks the last picture of every answer too.
    """

    model: str  # model directory, with its tokenizer
    questions: str  # TFDS dataset of instructions, or an image folder, whose captions ask
    out: str  # directory to write the answers to
    split: str = "test"
    count: int = 100  # questions
    seed: int = 0
    settings: Settings = Settings()

    def __post_init__(self) -> None:
        _check_count(self.count)
        config.check_seed(self.seed)


def _check_count(count: int) -> None:
    if count < 1:
        raise ValueError(f"--count must be at least 1, got {count}")


def draw(options: Draw) -> None:
    """The `draw` command."""
    from jam_jax import api, progress
    from jam_jax.decode import engine
    from jam_jax.evaluate import samples, world

    wanted = world.captions(options.captions, options.split, options.count)
    model = api.load(options.model, rows=engine.batch(len(wanted), api.ROWS))
    texts = [caption.text for caption in wanted]
    found = None
    if options.bank:
        from jam_jax.retrieval.prompts import finder

        found = finder(options.bank, "", model.space, options.retrieve)(texts)
    with progress.bar("draw", len(wanted)) as advance:
        answers = model.generate(texts, "picture", options.settings, options.seed, retrieved=found, advance=advance)
    before = _sources(model, answers)
    drawn = [
        dataclasses.replace(world.marked(caption, _parts(a.parts)), sources=sources)
        for caption, a, sources in zip(wanted, answers, before, strict=True)
    ]
    about = {name: getattr(options, name) for name in ("settings", "model", "split", "seed", "retrieve", "bank")}
    samples.save(drawn, options.out, **about)
    for kind in (samples.FEW, samples.THREE):
        if (mark := samples.percent_right(drawn, kind)) is not None:
            print(f"{options.model}: {mark:.1f}% of the drawings of {kind} are right")


def _sources(model: "Model", answers: "Sequence[Answered]") -> "list[tuple[Source, ...]]":
    """The documents that stood before each prompt."""
    from jam_jax.evaluate.samples import Source
    from jam_jax.retrieval.sheet import read_hits

    every = [(document.number, document.score, document.record) for a in answers for document in a.retrieved]
    hits = iter(read_hits(model.tokenizer, every) if every else ())
    read = (Source(hit.number, hit.score, hit.text, (*hit.pictures, b"")[0]) for hit in hits)
    return [tuple(itertools.islice(read, len(a.retrieved))) for a in answers]


def answer(options: Answer) -> None:
    """The `answer` command."""
    from jam_jax import api, progress
    from jam_jax.decode import engine
    from jam_jax.evaluate import samples, world

    wanted = world.questions(options.questions, options.split, options.count)
    model = api.load(options.model, rows=engine.batch(len(wanted), api.ROWS))
    texts = [question.text for question in wanted]
    with progress.bar("answer", len(wanted)) as advance:
        answers = model.generate(texts, "answer", options.settings, options.seed, advance=advance)
    kept = [world.answered(question, _parts(a.parts), a.fault) for question, a in zip(wanted, answers, strict=True)]
    about = {name: getattr(options, name) for name in ("settings", "model", "split", "seed")}
    samples.save(kept, options.out, **about)
    share, right = samples.percent_as_asked(kept), samples.percent_right(kept)
    print(f"{options.model}: {share:.1f}% of the answers are well formed with the number of pictures asked for")
    if right is not None:
        print(f"{options.model}: {right:.1f}% of the answers end with a picture of what was asked for")


def _parts(parts: Sequence[Any]) -> tuple[str | bytes, ...]:
    """Text as it is, pictures as PNG bytes."""
    import numpy as np

    from jam_jax.data.formats.pictures import png

    return tuple(part if isinstance(part, str) else png(np.asarray(part)) for part in parts)


def main(args: Sequence[str] | None = None, *, alone: bool = False) -> None:
    """The command; `alone`: this is all that the process does, so it joins the others that measure with it."""
    form = Perplexity | ZeroShot | Choices | Pictures | Draw | Answer | Tables
    options: Any = config.cli(form, args, prog="python -m jam_jax.evaluate", description=__doc__ or "")
    if alone and isinstance(options, Perplexity | ZeroShot | Pictures):
        hosts.start()
    keep_freed_memory()
    commands: dict[type, Any] = {Perplexity: measure.run, ZeroShot: zero_shot.measure, Draw: draw, Answer: answer}
    commands |= {Choices: choices.run, Pictures: picture_scores.run}
    commands[Tables] = lambda options: tables.measure(options, main)
    commands[type(options)](options)


if __name__ == "__main__":
    config.run(lambda: main(alone=True))
