"""The laws that ask for equal bits, once more in the programs that users run: compiled with all of XLA's optimisations.

The other tests compile fast instead: see conftest.py.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAWS = (
    "tests/test_train.py::test_two_steps_and_a_resume_to_four_equal_four_steps_bit_for_bit",
    "tests/test_decode.py::test_a_row_decodes_as_it_would_alone",
    "tests/test_decode.py::test_padding_and_chunks_change_nothing",
)


@pytest.mark.long
def test_the_laws_hold_with_optimisations():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *LAWS]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"OPTIMISED": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0 and f"{len(LAWS)} passed" in result.stdout, result.stdout[-3000:]
