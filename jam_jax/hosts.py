"""Several processes as one run: who they are, where they wait for each other, and when they are told to stop."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

START_TIMEOUT = 300  # seconds that the processes of a run wait for each other at its start
MESSAGE = 1000  # bytes of what a process says to the others of its failure
_told = threading.Event()


def start() -> None:
    """Join the other processes of this run, where the environment names any.

    `srun` and TPU pods on Kubernetes say it by themselves. Other TPU slices, whose machines ask the cloud for each
    other, need JAM_JAX_DISTRIBUTED=1; elsewhere JAX_COORDINATOR_ADDRESS (host:port of the first process),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID name them. Only the first process prints.
    ValueError if one of the three is missing or no such number, or if the processes cannot find each other.
    Where not all processes have come within START_TIMEOUT seconds (JAM_JAX_START_TIMEOUT sets another number), those
    that have say so and end.
    """
    given = {name: os.environ.get(name) for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")}
    many = _count("SLURM_STEP_NUM_TASKS", 1) > 1 or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    many = many or os.environ.get("JAM_JAX_DISTRIBUTED") == "1"
    if not many and not any(given.values()):
        return
    if any(given.values()) and (missing := [name for name, value in given.items() if not value]):
        raise ValueError(f"a run of several processes needs {', '.join(missing)} in the environment too")
    address, number_of, own = given["JAX_COORDINATOR_ADDRESS"], None, None
    if address:
        number_of, own = _count("JAX_NUM_PROCESSES"), _count("JAX_PROCESS_ID")
        if own >= number_of:
            raise ValueError(f"JAX_PROCESS_ID goes from 0 to JAX_NUM_PROCESSES - 1, got {own} of {number_of}")
    seconds = _count("JAM_JAX_START_TIMEOUT", START_TIMEOUT)
    import jax

    # JAX's own timeout ends in a page of its insides, after which no Python runs.
    patience = threading.Timer(seconds, _give_up, (seconds,))
    patience.daemon = True
    patience.start()
    try:
        jax.distributed.initialize(address, number_of, own, initialization_timeout=seconds + 60)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ValueError(f"the processes of this run cannot find each other: {reason}") from error
    finally:
        patience.cancel()
    if not first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process


def _count(name: str, default: int = 0) -> int:
    """A whole number from the environment."""
    given = os.environ.get(name, str(default))
    if not given.isdecimal():
        raise ValueError(f"{name} in the environment must be a whole number, got {given!r}")
    return int(given)


def _give_up(seconds: int) -> None:
    """End this process, whose main thread waits where no exception reaches it."""
    print(
        f"error: not all processes of this run have started within {seconds} seconds: look at the others' logs",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def save_on_sigterm() -> None:
    """From now on SIGTERM does not end this process but makes `asked_to_stop` true."""
    import jax

    if jax.process_count() == 1:  # of several, JAX itself listens, and tells the others
        signal.signal(signal.SIGTERM, lambda *_: _told.set())


def asked_to_stop(step: int) -> bool:
    """Whether this run was told to stop and should do so after `step`; the same for all its processes.

    All ask after every step: when one of them was told, they agree on a step that none has passed.
    """
    import jax

    if jax.process_count() == 1:
        return _told.is_set()
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)


def number() -> int:
    """Which process this is, from 0."""
    import jax

    return jax.process_index()


def first() -> bool:
    """Whether this process is the one that speaks, and makes what there is one of."""
    return number() == 0


def wait(name: str) -> None:
    """Until every process has come here; `name` says where."""
    import jax

    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def all_say(yes: bool) -> bool:
    """Whether every process says yes; all must ask."""
    import numpy as np

    return bool(gathered(np.array(yes)).all())


def gathered(values: "np.ndarray") -> "np.ndarray":
    """The arrays of all processes, of one shape and type, as they are to the bit: [processes, ...]; all must ask."""
    import jax
    import numpy as np

    values = np.asarray(values)
    if jax.process_count() == 1:
        return values[None]
    from jax.experimental import multihost_utils

    # As bytes: JAX would make float32 of float64.
    found = np.asarray(multihost_utils.process_allgather(np.frombuffer(values.tobytes(), np.uint8)))
    return np.frombuffer(found.tobytes(), values.dtype).reshape(jax.process_count(), *values.shape)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Work that may fail on some processes only, such as reading: it then fails on all, with the first one's message.

    All must come to the block's end, so nothing in it may wait for another process. On the processes that did not fail
    themselves the failure is a ValueError.
    """
    import numpy as np

    failure: Exception | None = None
    try:
        yield
    except Exception as error:  # raised again below, when the others know of it
        failure = error
    said = (str(failure) or type(failure).__name__).encode()[:MESSAGE] if failure else b""
    others = gathered(np.frombuffer(said.ljust(MESSAGE, b"\0"), np.uint8))
    if failure:
        raise failure
    for message in others:
        if text := message.tobytes().rstrip(b"\0").decode(errors="replace"):
            raise ValueError(text)
