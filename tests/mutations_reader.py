"""The process that reads damaged checkpoints and says what became of each.

    python tests/mutations_reader.py FOLDER SEED FIRST WHOLE LAST

reads the cases FIRST to LAST - 1 and prints two lines for each; those from WHOLE on through the command's own function,
into a directory. It is a process of its own because a mapped file may end one (SIGBUS), and for its limit of memory.
"""

import contextlib
import io
import json
import resource
import shutil
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from mutations import LAYOUTS, build, held, mutate
from tiny import whole

from jam_jax import checkpoint
from jam_jax.convert import families, rules
from jam_jax.convert.__main__ import import_model
from jam_jax.convert.readers import PICKLES, Files, Safetensors, Tensors
from jam_jax.models import model
from jam_jax.trees import paths

MEMORY = 2 * 2**30  # bytes that reading may ask for, beyond what the libraries take
SECONDS = 60  # after which a case has hung, on a machine that does other things too
# What the libraries behind us say, and we do not pass on.
FOREIGN = ("weights_only", "Re-running", "trusted source", "Traceback", "Check the documentation", "pytorch/issues")


def read(directory):
    parent = families.read(directory)
    return parent, whole(rules.leaves(parent.table, parent.weights, model.shapes(parent.config), str(directory)))


def judge(parent, params, whole, directory, most):
    """Say how a reading that succeeded is right: it is the whole checkpoint's, or, value for value, the libraries'.

    At most as many values may differ from the whole one as bytes were touched (twice, where one norm is for two heads).
    """
    flat = {path: np.asarray(v) for path, v in paths(params).items()}
    assert flat.keys() == whole.keys() and all(v.shape == whole[k].shape for k, v in flat.items())
    changed = sum(int((v.view(np.uint32) != whole[k].view(np.uint32)).sum()) for k, v in flat.items())
    if not changed:
        return "same"
    assert most is None or changed <= 2 * most, f"{changed} values changed"
    files = [p for p in sorted(directory.iterdir()) if p.suffix in (".safetensors", *PICKLES)]
    stored = [{k: v.float().numpy() for k, v in held(file)[1].items() if torch.is_tensor(v)} for file in files]
    if parent is not None and isinstance(parent.weights, Files | Safetensors | Tensors):
        for name, value in {k: v for tensors in stored for k, v in tensors.items()}.items():
            np.testing.assert_array_equal(parent.weights.read(name).astype(np.float32), value, err_msg=name)
    else:  # joined from pieces, or already in our own layout
        if directory.name == "meta":  # where replicas that drifted apart are averaged
            first, second = stored
            stored.append({k: np.mean([v, second[k]], 0) for k, v in first.items() if v.shape == second[k].shape})
        values, ours = (
            np.nan_to_num(np.concatenate([np.ravel(v) for v in arrays]), nan=1e30)
            for arrays in ([v for tensors in stored for v in tensors.values()], flat.values())
        )
        assert np.isin(ours, values).all(), "values that no library reads in these files"
    return f"changed {changed}"


def outcome(directory, whole, most, target):
    """What became of one damaged checkpoint."""
    try:
        if target is None:
            return judge(*read(directory), whole, directory, most)
        import_model(directory, target)
        return judge(None, checkpoint.load_model(target)[1], whole, directory, most)
    except (ValueError, OSError) as error:
        message = str(error)
        assert message and len(message) < 3000, f"a message of {len(message)} letters"
        assert message.isprintable(), f"a message of several lines: {message!r}"
        assert not any(text in message for text in FOREIGN), f"a message of another library: {message}"
        assert target is None or not target.exists(), "a target that looks complete"
        return f"refused: {message}"
    finally:
        if target is not None:
            left = [p.name for p in target.parent.iterdir() if p.name.startswith(".")]
            shutil.rmtree(target, ignore_errors=True)
            assert not left, f"left behind: {left}"


def say(**values):
    print("case " + json.dumps(values), file=sys.__stdout__, flush=True)


def main(folder, seed, first, whole_from, last):
    for name in ("whole", "targets"):
        (folder / name).mkdir(parents=True)
    with contextlib.redirect_stdout(io.StringIO()):
        build(folder / "whole")
        whole = {layout: paths(read(folder / "whole" / layout)[1]) for layout in dict.fromkeys(LAYOUTS)}
    used = int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, resource.RLIM_INFINITY))
    for case in range(first, last):
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            layout, directory, what, most = mutate(case, seed, folder)
            say(case=case, what=what)
            signal.alarm(SECONDS)
            try:
                target = folder / "targets" / "model" if case >= whole_from else None
                found = outcome(directory, whole[layout], most, target)
            except BaseException as error:
                found = f"wrong: {type(error).__name__}: {error}"
            signal.alarm(0)
        if (folder / "mark").exists():
            found = f"wrong: the payload ran; {found}"
            (folder / "mark").rmdir()
        say(case=case, outcome=found[:400])
        shutil.rmtree(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(a) for a in sys.argv[2:]))
