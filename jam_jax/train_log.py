"""What a training run says of itself: the sums of its steps as figures, and the line that shows them."""

import contextlib
import math
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from jam_jax import flops
from jam_jax.config import Config
from jam_jax.hardware import by_kind
from jam_jax.losses import MODALITIES
from jam_jax.models.model import LanguageConfig


class Tally:
    """Collects what steps found, without waiting for them, and makes figures of it when asked."""

    def __init__(self, config: Config, model_config: LanguageConfig, frozen: int = 0) -> None:
        """`frozen`: weights in products of matrices that are not trained."""
        self._tokens = config.batch * (config.data.block - 1)
        self._operations = self._tokens * flops.per_token(model_config, config.data.block - 1, frozen)
        device = by_kind(jax.devices()[0].device_kind)
        self._peak = device.peak * jax.device_count() if device else None
        if device:
            print(f"MFU is of {device.peak / 1e12:.0f} TFLOP/s a device, {flops.CONVENTION}", flush=True)
        self._pending: list[dict[str, jax.Array]] = []
        self._since = time.monotonic()
        self.skipped = self._in_a_row = 0  # steps whose gradient was not finite: of this run, and the last ones
        self._longest = self._ago = 0  # the most of them in a row, and how many steps were done since

    def __len__(self) -> int:
        """Steps since figures were last asked for."""
        return len(self._pending)

    def add(self, found: dict[str, jax.Array]) -> None:
        """What one step found; it may still be running."""
        self._pending.append(found)

    def figures(self, waited: float) -> dict[str, float]:
        """Means since this was last asked, waiting for the last step. `waited`: seconds lost to waiting for data.

        Losses are over all targets of the steps that were not skipped, and not there if all were. `utilisation` is the
        share of the devices' peak, by the convention of `flops`; on devices whose peak is not known it is left out.
        """
        steps = [{k: float(v) for k, v in found.items()} for found in jax.device_get(self._pending)]
        seconds = time.monotonic() - self._since
        for found in steps:
            self._in_a_row = self._in_a_row + 1 if found["skipped"] else 0
            self.skipped += int(found["skipped"])
            self._ago += 1
            if self._in_a_row > self._longest:
                self._longest, self._ago = self._in_a_row, 0
        figures = summarise([found for found in steps if not found["skipped"]])
        figures |= {
            "tokens_per_second": len(steps) * self._tokens / seconds,
            "seconds_per_step": seconds / len(steps),
            "teraflops": len(steps) * self._operations / seconds / 1e12 / jax.device_count(),
        }
        if self._peak:
            figures["utilisation"] = len(steps) * self._operations / seconds / self._peak
        figures |= {
            "data_wait": waited / seconds,
            "memory_gib": memory_gib(),
            "learning_rate": steps[-1]["learning_rate"],
            "skipped": self.skipped,
        }
        self._pending = []
        return figures

    def restart(self) -> None:
        """Time begins now for the next figures: what was done since the last is not training."""
        self._since = time.monotonic()

    def require_progress(self, most: int, step: int) -> None:
        """ValueError if `most` steps in a row were skipped; `step` is the last one that there are figures of."""
        if self._longest >= most:
            raise ValueError(
                f"the gradient was not finite in {self._longest} steps in a row, up to step {step - self._ago}: lower "
                "--optim.learning-rate, and begin again or from an earlier checkpoint"
            )


# Share of the time that the devices may wait for data before a warning, which comes once.
PATIENCE = 0.05
SHORT = 1.0  # seconds that are too few to judge by
READERS = "raise --data.workers (reader processes), at most to the number of cores"


def complain(figures: dict[str, float], steps: int) -> None:
    """Warn if the devices waited long for data in some steps, the first ones of a run not among them."""
    if figures["data_wait"] > PATIENCE and steps * figures["seconds_per_step"] > SHORT:
        warnings.warn(f"the devices waited for data: {READERS}", stacklevel=1)


def summarise(steps: list[dict[str, float]]) -> dict[str, float]:
    """Sums of several steps → mean loss and perplexity, over all tokens and apart for text and images."""
    if not steps:
        return {}
    total = {k: sum(s[k] for s in steps) for k in steps[0]}
    result = {"loss": total["loss"] / max(total["tokens"], 1)}
    for name in MODALITIES:
        if total[f"{name}_tokens"] and name != "special":
            mean = total[f"{name}_loss"] / total[f"{name}_tokens"]
            result |= {f"{name}_loss": mean, f"{name}_perplexity": math.exp(min(mean, 700))}
    return result | {"gradient_norm": total["gradient_norm"] / len(steps)}


def memory_gib() -> float:
    """The most memory that a device of this process has held so far; of a CPU, the process."""
    stats: Any = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kibibytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def line(figures: dict[str, float]) -> str:
    """The note behind the progress."""
    parts = [f"loss {figures['loss']:.3f}"] if "loss" in figures else []
    parts += [f"{name} {figures[f'{name}_loss']:.3f}" for name in ("text", "image") if f"{name}_loss" in figures]
    parts.append(f"{figures['tokens_per_second']:,.0f} tokens/s")
    if "utilisation" in figures:
        parts.append(f"MFU {figures['utilisation']:.1%}")
    parts.append(f"data wait {figures['data_wait']:.0%}")
    parts.append(f"{figures['memory_gib']:.1f} GiB")
    if figures["skipped"]:
        parts.append(f"{figures['skipped']} steps skipped")
    return "  ".join(parts)


@contextlib.contextmanager
def profile(steps: str, out: Path) -> Iterator[Callable[[int, Any], None]]:
    """Give `before(step, state)`, which takes a profile of the steps FIRST:LAST into a directory; "" for none.

    `state` is what the step before it makes: the loop runs ahead of the devices, which are waited for at either end.
    """
    first, last = (int(part) for part in steps.split(":")) if steps else (0, 0)
    taking, wanted = False, bool(steps)

    def stop() -> None:
        nonlocal taking
        jax.profiler.stop_trace()
        taking = False
        print(f"profile of the steps {steps}: tensorboard --logdir {out}", flush=True)

    def before(step: int, state: Any) -> None:
        nonlocal taking, wanted
        if step == first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(out))
            taking, wanted = True, False
        elif taking and step > last:
            jax.block_until_ready(state)
            stop()

    try:
        yield before
    finally:
        if taking:
            stop()
        if wanted:
            print(f"no profile was taken: step {first} was not among those of this run", flush=True)
