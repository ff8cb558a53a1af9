"""The `choices` command: accuracy on the built-in world's multiple choice, as zero-shot tasks are marked.

Right is what has the highest log-likelihood after the text: `acc` as it is, `acc_norm` divided by the answer's length
in characters. Contexts and answers are told apart as in the harness: ids of the whole, less those of the text alone.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from jam_jax import config, progress
from jam_jax.config import MeshConfig

if TYPE_CHECKING:
    from jam_jax.data.tokenizers import Tokenizer
    from jam_jax.evaluate.batched import Batched
    from jam_jax.evaluate.task_files import Choice


@dataclasses.dataclass(frozen=True)
class Choices:
    """Accuracy on the built-in world's multiple choice: how its texts about held-out scenes go on."""

    model: str  # model directory, with its tokenizer
    out: str = ""  # JSON file to write; empty: print only
    split: Literal["train", "validation", "test"] = "test"  # of the scenes
    count: int = 500  # texts
    seed: int = 0  # of the texts
    batch_tokens: int = 8192  # of a batch, padded, on each device that has rows of its own
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self) -> None:
        config.at_least(self, 1, "count", "batch_tokens")
        config.check_seed(self.seed)


def run(options: Choices) -> None:
    """The command."""
    from jam_jax import checkpoint, tokens
    from jam_jax.data.tokenizers import open_tokenizer
    from jam_jax.evaluate import batched, world_choices
    from jam_jax.models.model import require_language

    model_config = require_language(checkpoint.read_model_config(options.model), options.model)
    directory = checkpoint.tokenizer_dir(options.model)
    tokenizer, space = open_tokenizer(directory), tokens.load(directory)
    model = batched.load(options.model, model_config, space, options.mesh, options.batch_tokens)
    kinds, items = zip(*world_choices.items(options.split, options.count, options.seed), strict=True)
    values: dict[str, Any] = {"model": options.model, "split": options.split, "seed": options.seed}
    values |= figures(kinds, items, likelihoods(model, tokenizer, items))
    print(
        f"{options.model}: {100 * values['acc_norm']:.1f}% ± {100 * values['acc_norm_stderr']:.1f} of {len(items)} "
        f"choices are right by length-normalised likelihood ({100 * values['chance']:.1f}% at random)",
        flush=True,
    )
    if options.out:
        path = Path(options.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        config.write_whole(path, json.dumps(values, indent=1) + "\n")


def likelihoods(model: "Batched", tokenizer: "Tokenizer", items: "Sequence[Choice]") -> list[list[float]]:
    """log p of every answer of every item after its text, in nats; ValueError as `Batched.likelihoods`.

    ValueError too for an answer and its text that are longer than the model's positions.
    """
    rows, targets = [], []
    for item in items:
        context = len(tokenizer.encode_text(item.text))
        for answer in item.answers:
            ids = [model.space.start, *tokenizer.encode_text(f"{item.text} {answer}")]
            if len(ids) > model.config.max_positions + 1:
                raise ValueError(
                    f"a choice of {len(ids)} tokens does not fit the model's {model.config.max_positions} positions: "
                    f"{item.text!r:.80}"
                )
            rows.append(ids)
            targets.append(len(ids) - 1 - context)
    with progress.bar("score", len(rows)) as advance:
        found = iter(model.likelihoods(rows, targets, advance))
    return [[next(found)[0] for _ in item.answers] for item in items]


def figures(kinds: Sequence[str], items: "Sequence[Choice]", likely: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Shares of items whose right answer is the likeliest, from 0 to 1, with standard errors over the items."""
    plain = [max(range(len(ps)), key=ps.__getitem__) == i.right for i, ps in zip(items, likely, strict=True)]
    normed = []
    for item, ps in zip(items, likely, strict=True):
        shares = [p / len(answer) for p, answer in zip(ps, item.answers, strict=True)]
        normed.append(max(range(len(shares)), key=shares.__getitem__) == item.right)
    values: dict[str, Any] = {"items": len(items)}
    for name, right in (("acc", plain), ("acc_norm", normed)):
        mean = fmean(right)
        # As the harness: the standard deviation of marks 0 and 1 with n - 1, over the root of n.
        values |= {name: mean, f"{name}_stderr": math.sqrt(mean * (1 - mean) / max(len(right) - 1, 1))}
    values["chance"] = fmean(1 / len(item.answers) for item in items)
    values["by_kind"] = {
        kind: fmean(right for k, right in zip(kinds, normed, strict=True) if k == kind) for kind in dict.fromkeys(kinds)
    }
    return values
