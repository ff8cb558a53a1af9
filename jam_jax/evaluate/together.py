"""One process of a run asks, and all of them compute: the others need not know what for."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jam_jax import hosts

END = -1


class Together:
    """Functions of an int32 array [A, B] that every process of a run computes when the first calls one.

    All must hold the same functions in the same order. Those that are not the first `follow` until the first calls
    `release`, also when it fails; what a function raises, it raises on every process.
    """

    def __init__(self, functions: Sequence[Callable[[np.ndarray], Any]]) -> None:
        self._functions = functions
        self._alone = False  # whether the others have ended by what a function raised

    def call(self, number: int, array: np.ndarray) -> Any:
        """What function `number` gives; by the first process."""
        assert hosts.first() and array.dtype == np.int32 and array.ndim == 2
        if self._alone:
            raise RuntimeError("the other processes have ended by an error before")
        _agreed(np.array([number, *array.shape], np.int32))
        array = _agreed(array)
        try:
            return self._functions[number](array)
        except Exception:
            self._alone = jax.process_count() > 1
            raise

    def follow(self) -> None:
        """Compute what the first process asks for until it releases this one."""
        while (header := _agreed(np.zeros(3, np.int32)))[0] != END:
            number, *shape = header.tolist()
            self._functions[number](_agreed(np.zeros(shape, np.int32)))

    def release(self) -> None:
        """Let the others go; by the first process."""
        if not self._alone:
            _agreed(np.array([END, 0, 0], np.int32))


def _agreed(array: np.ndarray) -> np.ndarray:
    """The first process's array, on all."""
    if jax.process_count() == 1:
        return array
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(array))
