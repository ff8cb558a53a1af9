"""Damaged checkpoints, a thousand in the long test: one clear line each, or what the file holds, and nothing else."""

import collections
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SEED = 0


@pytest.mark.parametrize(
    ("read", "imported", "kinds_of_damage"), [(150, 15, 40), pytest.param(950, 50, 60, marks=pytest.mark.long)]
)
def test_a_damaged_checkpoint_ends_in_one_line_or_in_what_it_holds(read, imported, kinds_of_damage, tmp_path):
    """No other error, no crash, no hang, not 2 GB of memory, no payload, and no target unless the import succeeded.

    What is no number is imported as it stands, with a warning; see `test_convert_main`.
    """
    here = Path(__file__).parent
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)])}
    numbers = map(str, (SEED, 0, read, read + imported))
    command = [sys.executable, str(here / "mutations_reader.py"), str(tmp_path / "m"), *numbers]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    said = [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("case ")]
    what = {line["case"]: line["what"] for line in said if "what" in line}
    outcomes = {line["case"]: line["outcome"] for line in said if "outcome" in line}
    assert done.returncode == 0, f"ended with {done.returncode} while reading {said[-1:]}: {done.stderr[-2000:]}"
    wrong = [f"{case}: {what[case]}: {found}" for case, found in outcomes.items() if found.startswith("wrong")]
    assert not wrong, "\n".join(wrong)
    assert outcomes.keys() == what.keys() == set(range(read + imported))
    # The generator makes all three kinds, of every layout and mutation, in both ways of reading.
    for cases in (range(read), range(read, read + imported)):
        kinds = collections.Counter(outcomes[case].split()[0].rstrip(":") for case in cases)
        assert kinds.keys() == {"refused", "same", "changed"} and min(kinds.values()) >= len(cases) // 25, kinds
    assert len({tuple(text.split(": ")[:2]) for text in what.values()}) > kinds_of_damage
