"""A model of ours as EleutherAI's lm-evaluation-harness asks for it: the only door to that library.

Texts become ids as in training: what opens a document stands before every one (the harness' own backends leave that to
the tokenizer), and no text makes a special id. Contexts and continuations are told apart by the harness' own rule.
"""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from lm_eval import evaluator, utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.utils import normalize_gen_kwargs

from jam_jax import progress
from jam_jax.data.tokenizers import Tokenizer
from jam_jax.evaluate.batched import Batched
from jam_jax.evaluate.task_files import Choice, Item

logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it tells of every step; what matters is told here
SPLIT = "test"


class Adapter(TemplateLM):
    """The harness' interface: log-likelihoods of continuations and of whole texts, and greedy continuations.

    With several processes it is for the first alone; the others follow (`Batched.together`).
    """

    max_gen_toks = 256  # ids of a continuation where a task does not say

    def __init__(self, batched: Batched, tokenizer: Tokenizer, start: bool = True) -> None:
        """`start` False: what opens a document stands only where there would be no context at all."""
        super().__init__()
        self._batched, self._tokenizer, self._start = batched, tokenizer, start
        self.max_length = batched.config.max_positions

    @property
    def eot_token_id(self) -> int:
        """What ends a document."""
        return self._batched.space.end_of_document

    @property
    def prefix_token_id(self) -> int:
        """What opens a document."""
        return self._batched.space.start

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """A text's ids, with what opens a document unless `add_special_tokens` is False."""
        opened = self._start and add_special_tokens is not False
        return [self.prefix_token_id] * opened + self._tokenizer.encode_text(string)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """log p of each continuation after its context, in nats, and whether it is what would be written greedily."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """(what for, context, continuation) each; what is too long loses the front of its context."""
        rows, targets = [], []
        for asked, context, continuation in requests:
            if not 1 <= len(continuation) <= self.max_length:
                raise ValueError(
                    f"a continuation of {len(continuation)} tokens cannot be scored (1 to {self.max_length} can): "
                    f"{asked!r:.200}"
                )
            rows.append([*(context or [self.prefix_token_id]), *continuation][-(self.max_length + 1) :])
            targets.append(len(continuation))
        with progress.bar("score", len(rows)) as advance:
            found = self._batched.likelihoods(rows, targets, advance)
        for request, answer in zip(requests, found, strict=True):
            if request[0] is not None:
                self.cache_hook.add_partial("loglikelihood", request[0], answer)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """log p of whole texts, every token once: a long text in windows that have as much before them as they can."""
        windows: list[tuple[None, list[int], list[int]]] = []
        ends = []
        for request in requests:
            ids = self.tok_encode(request.args[0], add_special_tokens=False)
            found = utils.get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1)
            windows += [(None, *utils.make_disjoint_window(window)) for window in found]
            ends.append(len(windows))
        scored = [value for value, _ in self._loglikelihood_tokens(windows)]
        sums = [sum(scored[first:end]) for first, end in zip([0, *ends], ends, strict=False)]
        for request, value in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return sums

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Text that follows greedily, up to the first of the texts that it is to stop at."""
        alike: dict[int, list[int]] = {}  # by the ids that they may get
        asked = [normalize_gen_kwargs(request.args[1], self.max_gen_toks) for request in requests]
        for i, settings in enumerate(asked):
            if settings["do_sample"] or float(settings.get("temperature") or 0) > 0:
                raise ValueError(f"only greedy continuations are written here, got {requests[i].args[1]}")
            alike.setdefault(settings["max_gen_toks"], []).append(i)
        texts = [""] * len(requests)
        with progress.bar("write", len(requests)) as advance:
            for most, chosen in alike.items():
                if not 1 <= most < self.max_length:
                    raise ValueError(f"max_gen_toks must be from 1 to {self.max_length - 1}, got {most}")
                rows = [self.tok_encode(requests[i].args[0])[-(self.max_length - most) :] for i in chosen]
                rows = [row or [self.prefix_token_id] for row in rows]

                def cut(place: int, ids: list[int], chosen: list[int] = chosen) -> tuple[str, bool]:
                    """Text up to where it stops, and whether it does."""
                    text = whole = self._tokenizer.decode_text(ids)
                    for stop in filter(None, asked[chosen[place]]["until"]):
                        text = text.split(stop)[0]
                    return text, len(text) < len(whole)

                found = self._batched.continuations(rows, most, lambda place, ids: cut(place, ids)[1], advance)
                for place, i in enumerate(chosen):
                    texts[i] = cut(place, found[place])[0]
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts


def task(name: str, items: Sequence[Item]) -> ConfigurableTask:
    """A task of the harness over items, all of one kind; nothing is read and nothing downloaded."""
    if isinstance(items[0], Choice):
        fields = {"doc_to_text": "text", "doc_to_choice": "answers", "doc_to_target": "right"}
        metrics = ["acc", "acc_norm"]
    else:
        # An index in place of the text tells the harness that the choices are contexts.
        fields = {"doc_to_text": "right", "doc_to_choice": "texts", "doc_to_target": "rest"}
        metrics = ["acc"]
    data = {SPLIT: Dataset.from_list([dataclasses.asdict(item) for item in items])}
    return ConfigurableTask(
        config={
            "task": name,
            "custom_dataset": lambda **_: data,
            "test_split": SPLIT,
            "output_type": "multiple_choice",
            "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in metrics],
            "metadata": {"version": 1.0},
            **fields,
        }
    )


def measure(adapter: TemplateLM, name: str, items: Sequence[Item]) -> dict[str, float]:
    """Each metric of a task, a share from 0 to 1, and METRIC_stderr, its standard error over the items."""
    found = evaluator.evaluate(adapter, {"tasks": {name: task(name, items)}, "groups": {}}, log_samples=False)
    figures = {key.split(",")[0]: value for key, value in found["results"][name].items() if key.endswith(",none")}
    return {key: float(value) for key, value in figures.items() if isinstance(value, int | float)}
