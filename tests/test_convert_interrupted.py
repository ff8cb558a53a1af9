"""An import that is stopped while it writes leaves no target, and the next one does its work."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jam_jax import checkpoint
from jam_jax.convert.__main__ import import_model

SOURCE = Path(__file__).parent / "golden" / "checkpoints" / "a_singleton"
# The command, made to wait where it is to be stopped: when it begins to write, or before the directory gets its name.
COMMAND = """
import pathlib, sys, time
from jam_jax import checkpoint, config
from jam_jax.convert.__main__ import main

def waiting(function, when):
    def wait(*args, **options):
        if when(*args):
            print("here", flush=True)
            for _ in range(3000):  # a signal that comes just before a sleep is heard after it
                time.sleep(0.1)
        return function(*args, **options)
    return wait

if sys.argv.pop(1) == "begun":
    checkpoint.checkpoint_blocks.tree_handler = waiting(checkpoint.checkpoint_blocks.tree_handler, lambda *_: True)
else:
    pathlib.Path.rename = waiting(pathlib.Path.rename, lambda path, _: path.name.endswith(".partial"))
config.run(main)
"""


@pytest.mark.parametrize(
    ("where", "how"), [pytest.param("begun", signal.SIGTERM, marks=pytest.mark.long), ("written", signal.SIGKILL)]
)
def test_a_stopped_import_leaves_no_target_and_can_be_repeated(where, how, tmp_path):
    target = tmp_path / "target"
    arguments = ["import", "--source", str(SOURCE), "--target", str(target)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, where, *arguments], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert any(line == "here\n" for line in process.stdout)
        (partial,) = tmp_path.iterdir()  # it was writing
        assert partial.name.startswith(".") and any(partial.iterdir())
        process.send_signal(how)
        assert process.wait(60) == (143 if how == signal.SIGTERM else -how)
    assert not target.exists()
    if how == signal.SIGTERM:
        assert not list(tmp_path.iterdir())
    import_model(SOURCE, target)
    assert [p.name for p in tmp_path.iterdir()] == ["target"]
    assert checkpoint.steps(target) == [0]
