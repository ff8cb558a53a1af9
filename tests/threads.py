"""The processes of a run as threads of this one: what they gather they have from each other."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import pytest

from jam_jax import hosts


def as_processes(count: int, function: Callable[[int], Any]) -> list[Any]:
    """What `function`, given its number, returns on each of so many processes; in its place what it raised."""
    barrier, own = threading.Barrier(count, timeout=60), threading.local()
    held: list[np.ndarray] = [np.empty(0)] * count

    def gathered(values: np.ndarray) -> np.ndarray:
        held[own.number] = np.asarray(values)
        barrier.wait()
        found = np.stack(held)
        barrier.wait()
        return found

    def one(number: int) -> Any:
        own.number = number
        try:
            return function(number)
        except Exception as error:
            return error

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(count) as pool:
        patch.setattr(hosts, "gathered", gathered)
        patch.setattr(hosts, "number", lambda: own.number)
        patch.setattr(jax, "process_count", lambda: count)
        return list(pool.map(one, range(count)))
