"""The last few results of a slow function, kept for the calls that follow."""

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """At most `size` results by their arguments. Threads may share it; a copy that travels by pickle begins empty."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: dict[Hashable, T] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make()` gave for this key, or gives now."""
        with self._lock:
            if key in self._held:
                return self._held[key]
        made = make()
        with self._lock:
            self._held[key] = made
            while len(self._held) > self._size:
                del self._held[next(iter(self._held))]
        return made

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return type(self), (self._size,)
