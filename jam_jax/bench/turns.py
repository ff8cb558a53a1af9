"""Sides of a benchmark that take turns, each in a process of its own, as its users run it.

So none of them runs beside what another left behind: threads that still wait for more work, a heap, settings.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

Calls = dict[str, Callable[[], Any]]  # what a side can do, by name; what they give is pickled


class Answer(NamedTuple):
    """What a call gave, and how long it took in its process."""

    value: Any
    seconds: float


class Side:
    """A process that makes its calls when it is first asked, and runs one of them whenever it is."""

    def __init__(self, name: str, make: Callable[..., Calls], *args: Any) -> None:
        """`make(*args)`, a function of a module, gives the calls; it runs in the process."""
        context = multiprocessing.get_context("spawn")
        self._name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, args), daemon=True)
        self._process.start()
        theirs.close()  # so that its end is seen here

    def ask(self, call: str) -> Answer:
        """Have it run a call; ValueError if the process failed, with what it said, or ended."""
        try:
            self._pipe.send(call)
            answer, fault = self._pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join()
            raise ValueError(f"the process of {self._name} ended, with status {self._process.exitcode}") from None
        if fault:
            raise ValueError(f"{self._name}: {fault}")
        return answer

    def close(self) -> None:
        """End the process, whatever it is at."""
        self._pipe.close()  # which ends one that waits
        self._process.join(timeout=5)
        self._process.terminate()
        self._process.join()


def _serve(pipe: Connection, make: Callable[..., Calls], args: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks is told, and ends this
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # sides share an accelerator
    calls: Calls = {}
    said: tuple[Answer | None, str]
    while True:
        try:
            call = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            calls = calls or make(*args)
            start = time.perf_counter()
            value = calls[call]()
            said = Answer(value, time.perf_counter() - start), ""
        except (ImportError, OSError, ValueError) as error:
            said = None, str(error)
        try:
            pipe.send(said)
        except BrokenPipeError:  # nobody waits for it any more
            return
