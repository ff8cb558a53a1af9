"""Figures of a model: `python -m jam_jax.evaluate perplexity|draw|answer …`, as a line and as files for the report."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jam_jax import config
from jam_jax.decode.settings import Settings, check_bank
from jam_jax.machine import keep_freed_memory

if TYPE_CHECKING:
    import numpy as np

    from jam_jax.data.store import Store
    from jam_jax.tokens import TokenSpace


@dataclasses.dataclass(frozen=True)
class Perplexity:
    """Perplexity on the documents of a token store: over text, over images, over all targets."""

    model: str  # model directory
    store: str  # token store
    out: str = ""  # JSON file to write; empty: print only
    limit: int = 0  # documents to read, the first ones; 0: all
    neighbours: str = ""  # neighbour table of the store, whose documents go before each one; empty: none do
    retrieved: int = 2  # of them, at most

    def __post_init__(self) -> None:
        if self.limit < 0:
            raise ValueError(f"--limit must be 0 (all documents) or more, got {self.limit}")
        if self.retrieved < 1:
            raise ValueError(f"--retrieved must be at least 1, got {self.retrieved}: for none leave --neighbours out")


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


def measure(options: Perplexity) -> None:
    """The `perplexity` command."""
    from jam_jax import checkpoint, tokens
    from jam_jax.data.store import Store
    from jam_jax.evaluate.perplexity import GROUPS, perplexity
    from jam_jax.models.model import require_language

    store = Store(options.store)
    found_config, params = checkpoint.load_model(options.model)
    model_config = require_language(found_config, options.model)
    space = tokens.load(checkpoint.tokenizer_dir(options.model))
    store.check(space)
    count = min(options.limit or len(store), len(store))
    contexts = None
    if options.neighbours:
        contexts = _contexts(options, store, space, model_config.max_positions, count)
    found = perplexity(model_config, params, space, (store[i] for i in range(count)), contexts=contexts)
    values: dict[str, Any] = {"model": options.model, "store": options.store, "documents": count}
    values |= {"neighbours": options.neighbours}
    values |= {"text": found.text, "image": found.image, "all": found.all}
    # JSON knows no nan: a store without pictures has no image perplexity.
    values = {k: None if v != v else v for k, v in values.items()}
    values |= {
        "nll": dict(zip(GROUPS, found.nll, strict=True)),
        "targets": dict(zip(GROUPS, found.count, strict=True)),
    }
    shown = (f"{name} {values[name]:.3f}" for name in ("text", "image", "all") if values[name] is not None)
    print(f"{options.model} on {options.store} ({count} documents): perplexity {', '.join(shown)}")
    if options.out:
        path = Path(options.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        config.write_whole(path, json.dumps(values, indent=1) + "\n")


def _contexts(
    options: Perplexity, store: "Store", space: "TokenSpace", positions: int, count: int
) -> "Iterator[np.ndarray]":
    """The ids of the documents that go before each of the first `count` of a store, as many as fit."""
    import numpy as np

    from jam_jax.data.neighbours import Neighbours
    from jam_jax.data.retrieved import before
    from jam_jax.retrieval.choose import LIMIT

    table = Neighbours(options.neighbours, store)
    table.bank.check(space)
    chosen = table.choose(np.arange(count), 0, options.retrieved, LIMIT)
    for i, numbers in enumerate(chosen.tolist()):
        room = positions - int(store.lengths[i, 0])
        yield before(space, (table.bank[n] for n in numbers if n >= 0), room)


def draw(options: Draw) -> None:
    """The `draw` command."""
    from jam_jax import api, progress
    from jam_jax.evaluate import samples, world

    model = api.load(options.model)
    wanted = world.captions(options.captions, options.split, options.count)
    texts = [caption.text for caption in wanted]
    found = None
    if options.bank:
        from jam_jax.retrieval.prompts import finder

        found = finder(options.bank, "", model.space, options.retrieve)(texts)
    with progress.bar("draw", len(wanted)) as advance:
        answers = model.generate(texts, "picture", options.settings, options.seed, retrieved=found, advance=advance)
    drawn = [world.marked(caption, _parts(a.parts)) for caption, a in zip(wanted, answers, strict=True)]
    samples.save(drawn, options.out, settings=options.settings, model=options.model, split=options.split)
    for kind in (samples.FEW, samples.THREE):
        if (mark := samples.percent_right(drawn, kind)) is not None:
            print(f"{options.model}: {mark:.1f}% of the drawings of {kind} are right")


def answer(options: Answer) -> None:
    """The `answer` command."""
    from jam_jax import api, progress
    from jam_jax.evaluate import samples, world

    model = api.load(options.model)
    wanted = world.questions(options.questions, options.split, options.count)
    texts = [question.text for question in wanted]
    with progress.bar("answer", len(wanted)) as advance:
        answers = model.generate(texts, "answer", options.settings, options.seed, advance=advance)
    kept = [world.answered(question, _parts(a.parts), a.fault) for question, a in zip(wanted, answers, strict=True)]
    samples.save(kept, options.out, settings=options.settings, model=options.model, split=options.split)
    share, right = samples.percent_as_asked(kept), samples.percent_right(kept)
    print(f"{options.model}: {share:.1f}% of the answers are well formed with the number of pictures asked for")
    if right is not None:
        print(f"{options.model}: {right:.1f}% of the answers end with a picture of what was asked for")


def _parts(parts: Sequence[Any]) -> tuple[str | bytes, ...]:
    """Text as it is, pictures as PNG bytes."""
    import numpy as np

    from jam_jax.data.formats.pictures import png

    return tuple(part if isinstance(part, str) else png(np.asarray(part)) for part in parts)


def main(args: Sequence[str] | None = None) -> None:
    """The command."""
    options = config.cli(Perplexity | Draw | Answer, args, prog="python -m jam_jax.evaluate", description=__doc__ or "")
    keep_freed_memory()
    commands: dict[type, Any] = {Perplexity: measure, Draw: draw, Answer: answer}
    commands[type(options)](options)


if __name__ == "__main__":
    config.run(main)
