"""Evaluation while a run trains: perplexity on held-out stores, the best so far, and documents to look at.

The paper chose its instruction-tuned model by eye among the epochs (section 3.2): what is drawn here is for that.
"""

import math
import time
from pathlib import Path

from jax.sharding import Mesh

from jam_jax import api, generate, hosts
from jam_jax.config import EvaluateConfig
from jam_jax.data.store import Store
from jam_jax.evaluate.documents import of_records
from jam_jax.evaluate.perplexity import perplexity
from jam_jax.metrics import values_of
from jam_jax.models.model import LanguageConfig
from jam_jax.tokens import TokenSpace

LOSS = "held_out/loss"  # mean nll in nats over the targets of all stores
TOOK = "evaluation_seconds"  # stands in the log beside every evaluation


class Evaluation:
    """The evaluations of a run; knows the step that was best so far."""

    def __init__(
        self, config: EvaluateConfig, out: Path, model_config: LanguageConfig, space: TokenSpace, mesh: Mesh, start: int
    ) -> None:
        """Open every store; of a run that goes on after step `start` the best so far is read from its log.

        ValueError if a store is missing, damaged or made with another tokenizer.
        """
        self._config, self._out, self._model, self._space, self._mesh = config, out, model_config, space, mesh
        self._stores = {Path(path).name: Store(path) for path in config.stores} if config.every else {}
        for store in self._stores.values():
            store.check(space)
        self.best, self._lowest, self._last = 0, math.inf, 0
        for logged in values_of(out / "metrics.jsonl"):
            if logged["step"] <= start and TOOK in logged:
                self._last = logged["step"]
                self._compare(self._last, logged.get(LOSS, math.inf))

    def due(self, step: int) -> bool:
        """Whether a step is followed by an evaluation."""
        return bool(self._config.every) and step % self._config.every == 0

    def missed(self, step: int) -> bool:
        """Whether a run that goes on after a step was ended when it had saved it and not yet evaluated it."""
        return self.due(step) and self._last != step

    def measure(self, params: dict, step: int) -> dict[str, float]:
        """Perplexities per store, over text, over images and over all targets; and documents, if there are prompts."""
        began = time.monotonic()
        figures: dict[str, float] = {}
        nll, count = 0.0, 0
        for name, store in self._stores.items():
            documents = of_records(store, count=self._config.documents)
            found = perplexity(self._model, params, self._space, documents, mesh=self._mesh)
            if found.lost:
                print(f"step {step}: {name}: {found.lost} of {found.documents} documents have no finite likelihood")
            nll, count = nll + sum(found.nll), count + sum(found.count)
            values = {"text": found.text, "image": found.image, "all": found.all}
            figures |= {f"held_out/{name}/{kind}": value for kind, value in values.items() if value == value}
        if count:
            figures[LOSS] = nll / count
            self._compare(step, nll / count)
        shown = "  ".join(f"{name.removeprefix('held_out/')} {value:.3f}" for name, value in figures.items())
        print(f"step {step} on held-out documents: {shown}{'  (best so far)' if self.best == step else ''}", flush=True)
        if self._config.prompts:
            self._draw(params, step)
        return figures | {TOOK: time.monotonic() - began}

    def _compare(self, step: int, loss: float) -> None:
        if loss < self._lowest:
            self.best, self._lowest = step, loss

    def _draw(self, params: dict, step: int) -> None:
        """Documents on the prompts, as a page: all processes decode, the first one writes."""
        model = api.Model(self._out, self._model, params)
        answers = model.generate(self._config.prompts, self._config.mode)
        page = self._out / "samples" / f"{step:08d}"
        with hosts.together():
            if hosts.first():
                page.mkdir(parents=True, exist_ok=True)
                generate.write(page, answers, {"model": str(self._out), "step": step})
        print(f"documents of step {step}: {page / 'index.html'}", flush=True)
