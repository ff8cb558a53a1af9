"""Several processes as one run: who they are, and where they wait for each other."""

import os
import sys


def start() -> None:
    """Join the other processes of this run, where the environment names any.

    `srun` and TPU pods say it by themselves; elsewhere JAX_COORDINATOR_ADDRESS (host:port of the first process),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID do. Only the first process prints. ValueError if one of the three is missing.
    """
    given = {name: os.environ.get(name) for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")}
    many = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    if not many and not any(given.values()):
        return
    import jax

    if any(given.values()):
        if missing := [name for name, value in given.items() if not value]:
            raise ValueError(f"a run of several processes needs {', '.join(missing)} in the environment too")
        address, count, index = given.values()
        jax.distributed.initialize(address, int(count or 0), int(index or 0))
    else:
        jax.distributed.initialize()
    if not first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process


def first() -> bool:
    """Whether this process is the one that speaks, and makes what there is one of."""
    import jax

    return jax.process_index() == 0


def wait(name: str) -> None:
    """Until every process has come here; `name` says where."""
    import jax

    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
