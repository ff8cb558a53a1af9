"""The launchers, as far as they go without installing anything."""

import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
COMMANDS = [script for script in SCRIPTS if script.name not in ("environment.sh", "flags.sh")]  # those are sourced


def bash(*args, cwd=ROOT, **env):
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), **env}
    return subprocess.run(
        ["bash", *map(str, args)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / ".ci" / "run"], ids=lambda p: p.name)
def test_bash_can_read_it(script):
    assert bash("-n", script).returncode == 0


@pytest.mark.parametrize("script", COMMANDS, ids=lambda p: p.name)
def test_help_says_how_to_call_it_from_any_directory(script, tmp_path):
    result = bash(script, "--help", cwd=tmp_path)
    assert result.returncode == 0 and not result.stderr
    assert f"bash launch/{script.name}" in result.stdout
    assert "#" not in result.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", COMMANDS, ids=lambda p: p.name)
def test_an_unknown_option_ends_in_one_line_before_anything_is_installed(script, tmp_path):
    result = bash(script, "--fusoin", "cross", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1 and "--fusoin" in result.stderr and result.stderr.startswith("error: ")
    assert not result.stdout


@pytest.mark.parametrize(("script", "module"), [("quickstart", "quickstart"), ("tables", "miniature")])
def test_help_lists_every_option_of_a_run_from_nothing(script, module):
    import dataclasses
    import importlib

    shown = bash(ROOT / "launch" / f"{script}.sh", "--help").stdout
    fields = dataclasses.fields(importlib.import_module(f"jam_jax.{module}").Options)
    assert all(f"--{field.name}" in shown for field in fields)


@pytest.fixture
def clone(tmp_path):
    """A repository with the scripts alone, and an interpreter that records how it is called instead of running."""
    (tmp_path / "launch").mkdir()
    for script in SCRIPTS:
        (tmp_path / "launch" / script.name).write_text(script.read_text())
    for name in ("requirements.txt", "requirements-dev.txt"):
        (tmp_path / name).write_text("nothing\n")
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python3"
    # `-m venv DIR` copies this very script into DIR; `-c` (version, digest) runs on the real one; the rest is recorded.
    python.write_text(
        '#!/bin/bash\n[ "$1" = -c ] && exec /usr/bin/env -i "$REAL" "$@"\necho "$*" >>"$CALLS"\n'
        'if [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi\n'
        '[ "$3" != install ] || [ ! -e "$BROKEN" ] || { echo "ERROR: no such package"; exit 1; }\n'
        '[ "$2" != mypy ] || [ ! -e "$BROKEN" ] || { echo "jam_jax/tokens.py:1: error: ill-typed"; exit 1; }\n'
    )
    python.chmod(0o755)
    return tmp_path


def launch(clone, script, *args, python="python3"):
    import sys

    (clone / "calls").unlink(missing_ok=True)
    result = bash(
        clone / "launch" / script,
        *args,
        cwd=clone,
        PATH=f"{clone / 'bin'}:/usr/bin:/bin",
        REAL=sys.executable,
        CALLS=str(clone / "calls"),
        BROKEN=str(clone / "broken"),
        PYTHON=python,
    )
    calls = (clone / "calls").read_text().splitlines() if (clone / "calls").exists() else []
    return result, calls


def test_the_environment_is_made_and_filled_once(clone):
    result, calls = launch(clone, "quickstart.sh", "--fusion", "width")
    assert result.returncode == 0, result.stderr
    assert calls[0].startswith("-m venv") and sum("pip install" in call for call in calls) == 1
    assert calls[-1] == "-P -m jam_jax.quickstart --fusion width"
    result, calls = launch(clone, "quickstart.sh")
    assert not [call for call in calls if "install" in call or "venv" in call] and "Installing" not in result.stdout
    (clone / "requirements.txt").write_text("something else\n")
    _, calls = launch(clone, "quickstart.sh")
    assert sum("pip install" in call for call in calls) == 1


def test_an_install_that_fails_is_one_line_and_is_tried_again(clone):
    (clone / "broken").touch()
    result, _ = launch(clone, "quickstart.sh")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1 and "no such package" in result.stderr
    (clone / "broken").unlink()
    result, calls = launch(clone, "quickstart.sh")
    assert result.returncode == 0 and sum("pip install" in call for call in calls) == 1


def test_the_tests_run_lint_format_types_and_pytest(clone):
    _, calls = launch(clone, "test.sh")
    run = [call for call in calls if "pip" not in call and "venv" not in call]
    assert run[:2] == ["-m ruff check .", "-m ruff format --check ."]
    assert sorted(run[2:]) == ["-m mypy jam_jax", "-m pytest -q -n 2"]  # one beside the other
    assert sum("pip install" in call for call in calls) == 2


def test_types_that_do_not_fit_are_shown_after_the_tests_and_fail(clone):
    assert launch(clone, "test.sh")[0].returncode == 0
    (clone / "broken").touch()
    result, calls = launch(clone, "test.sh")
    assert result.returncode == 1 and "error: ill-typed" in result.stdout
    assert "-m pytest -q -n 2" in calls


def test_without_a_recent_python_it_says_so(clone):
    result, _ = launch(clone, "test.sh", python="/bin/false")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1 and "Python 3.11 or newer is needed" in result.stderr
    assert not (clone / ".venv").exists()


def test_ci_runs_the_test_command_and_nothing_else():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["exec bash launch/test.sh"]


@pytest.fixture
def stubs(tmp_path):
    """A folder of commands that record their arguments and environment; gives a function that adds one."""
    (tmp_path / "bin").mkdir()

    def add(name, body=""):
        path = tmp_path / "bin" / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >>"{tmp_path}/calls"\n{body}\n')
        path.chmod(0o755)
        return str(path)

    return add


def called(tmp_path):
    return (tmp_path / "calls").read_text().splitlines()


def test_training_on_this_machine_shows_its_command_and_goes_on_where_it_was(stubs, tmp_path):
    python = stubs("python", 'echo "$XLA_FLAGS" >>"' + str(tmp_path / "flags") + '"')
    result = bash(ROOT / "launch" / "gpu_local.sh", "--config", "a b.py", "--out", "x", cwd=tmp_path, PYTHON=python)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"$ {python} -P -m jam_jax.train --resume auto --config a\\ b.py --out x\n"
    assert called(tmp_path) == ["python -P -m jam_jax.train --resume auto --config a b.py --out x"]
    assert "latency_hiding" in (tmp_path / "flags").read_text()


def test_training_on_a_slice_runs_the_command_on_all_its_hosts(stubs, tmp_path):
    stubs("gcloud")
    script, path = ROOT / "launch" / "tpu_pod.sh", f"{tmp_path / 'bin'}:/usr/bin:/bin"
    result = bash(script, "--tpu", "t", "--zone", "z", "--config", "c.py", cwd=tmp_path, PATH=path)
    assert result.returncode == 0, result.stderr
    (call,) = called(tmp_path)
    assert call.startswith("gcloud compute tpus tpu-vm ssh t --zone z --worker=all --command cd ")
    assert call.endswith("exec python3 -P -m jam_jax.train --resume auto --config c.py")
    assert "LIBTPU_INIT_ARGS=" in call and result.stdout.startswith("$ gcloud compute tpus")
    assert "JAM_JAX_DISTRIBUTED=1" in call  # without which each host would train alone
    result = bash(script, "--tpu", "t", "--config", "c.py", cwd=tmp_path, PATH=path)
    assert result.returncode == 1 and "needs --tpu NAME and --zone ZONE" in result.stderr


@pytest.mark.parametrize(
    ("told", "code", "again"), [(signal.SIGUSR1, 0, True), (signal.SIGTERM, 0, False), (None, 3, False)]
)
def test_a_job_saves_when_it_is_told_to_stop_and_is_queued_again_when_its_time_is_over(
    stubs, tmp_path, told, code, again
):
    """As SLURM's, this srun kills its tasks when a SIGTERM comes to itself; told through scancel they save and end."""
    stubs("scontrol")
    stubs("scancel", f'[ "$*" = "--signal=TERM 7" ] && kill -USR2 $(cat "{tmp_path}/tasks")')
    running = f'echo $$ >"{tmp_path}/tasks"\nwhile :; do sleep 0.05; done'
    stubs("srun", 'trap "exit 137" TERM\ntrap "exit 0" USR2\n' + (running if told else "exit 3"))
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(ROOT)}
    command = ["bash", str(ROOT / "launch" / "slurm.sbatch"), "--config", "c.py", "--out", "x"]
    job = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    if told:
        while not (tmp_path / "tasks").exists():
            time.sleep(0.02)
        time.sleep(0.2)
        job.send_signal(told)
    said, _ = job.communicate(timeout=30)
    assert "$ srun --kill-on-bad-exit=1 python3 -P -m jam_jax.train --resume auto --config c.py --out x" in said
    assert job.returncode == code
    assert ("scontrol requeue 7" in called(tmp_path)) == again
    assert ("queued again" in said) == again


def test_a_job_script_that_is_not_given_to_slurm_says_how(tmp_path):
    script = ROOT / "launch" / "slurm.sbatch"
    assert "sbatch --nodes 32 launch/slurm.sbatch" in bash(script, "--help", cwd=tmp_path).stdout
    assert "needs --config FILE, got --out x" in bash(script, "--out", "x", cwd=tmp_path).stderr
    result = bash(script, "--config", "c.py", cwd=tmp_path)
    assert result.returncode == 1 and "is given to sbatch: sbatch --nodes 32" in result.stderr
