"""The laws that ask for equal bits, once more in the programs that users run: compiled with all of XLA's optimisations.

The other tests compile fast instead (conftest.py), and so the same tests are run here without that file.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LAWS = (
    "tests/test_train.py::test_two_steps_and_a_resume_to_four_equal_four_steps_bit_for_bit",
    "tests/test_decode.py::test_a_row_decodes_as_it_would_alone",
    "tests/test_decode.py::test_padding_and_chunks_change_nothing",
)


def test_the_laws_hold_with_optimisations():
    command = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "-p", "no:xdist", *LAWS]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and f"{len(LAWS)} passed" in result.stdout, result.stdout[-3000:]
