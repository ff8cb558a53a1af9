"""From nothing to an illustrated answer: every stage of the road in one process, each by the command it would be alone.

A finished stage leaves a stamp, `stages/NAME.json`, with the fingerprint of all that went into it and into the stages
before. A stage whose stamp fits is kept; one whose inputs changed runs again, and so does everything after it.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import json
import math
import os
import resource
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from jam_jax import config as configs
from jam_jax.stages import MINUTES, Command, Road, Stage

ROOT = Path(__file__).resolve().parents[1]  # of the repository: where configs/ is


@dataclasses.dataclass(frozen=True)
class Options:
    """Make a small world, two parents and their fusion, and a page that shows what it kept of each."""

    fresh: bool = False  # begin again; without it finished stages are kept
    fusion: Literal["uniform", "width", "cross"] = "cross"  # how the parents are fused
    pictures: str = ""  # your own pictures, a folder with metadata.jsonl (file_name, text), instead of the world
    text: str = ""  # your own text, a folder of .txt files, instead of the world
    minutes: float = MINUTES  # how long it may take on two cores; all training is scaled alike
    out: str = ""  # where everything goes; empty: runs/quickstart in the repository, runs/own for your own data

    def __post_init__(self) -> None:
        if bool(self.pictures) != bool(self.text):
            raise ValueError(
                "your own data needs both: --pictures DIR (with metadata.jsonl) and --text DIR (.txt files)"
            )
        if not 0 < self.minutes < math.inf:
            raise ValueError(f"--minutes must be more than 0 and finite, got {self.minutes:g}")


def main(args: Sequence[str] | None = None) -> None:
    """The command."""
    options = configs.cli(Options, args, prog="bash launch/quickstart.sh", description=__doc__ or "")
    own = {name: _directory(getattr(options, name)) for name in ("pictures", "text")}
    run = enter(options.out, "own" if own["text"] else "quickstart")
    follow(Road(run, options.fusion, options.minutes, **own), fresh=options.fresh)


def enter(out: str, name: str) -> Path:
    """Go to the repository's top, and give the directory of a run as seen from there: `out`, or runs/`name`."""
    run = Path(out).absolute() if out else ROOT / "runs" / name
    if not (ROOT / "configs").is_dir():
        raise ValueError(f"this runs from a clone of the repository: {ROOT} has no configs/")
    os.chdir(ROOT)  # the commands that are shown can then be typed at the top of the repository
    return run.relative_to(ROOT) if run.is_relative_to(ROOT) else run


def _directory(name: str) -> str:
    if name and not Path(name).is_dir():
        raise ValueError(f"there is no directory {name}")
    return str(Path(name).resolve()) if name else ""


def follow(road: Road, *, fresh: bool = False) -> None:
    """Run a road's stages, but for those that are done already.

    ValueError, before anything is removed, if the directory holds something else than a quickstart, or one on other
    data, or if the user's own data cannot make the road. When a stage fails or is stopped, what it wrote is removed and
    what was finished before is kept.
    """
    run, stages = road.run, road.stages()
    if run.exists() and any(run.iterdir()) and not (run / "stages").is_dir():
        raise ValueError(f"{run} is no quickstart's directory and not empty: choose another --out")
    if road.own:
        require_data(road)
    if fresh:
        for stage in [*stages, *road.of_other_data().stages()]:
            _forget(run, stage)
    if left := _of_another_road(run, road):
        raise ValueError(f"{run} holds a quickstart on {left}: choose another --out, or begin again with --fresh")
    fingerprint = _of_data(road)
    stale = False  # whether a stage ran again, and with it all that come after it
    for number, stage in enumerate(stages, 1):
        commands = stage.commands()
        fingerprint = _fingerprint(fingerprint, stage, commands)
        heading = f"[{number}/{len(stages)}] {stage.title}"
        kept = None if stale or stage.always else _stamp(run, stage)
        if kept and kept["fingerprint"] == fingerprint:
            print(f"{heading}: kept ({kept['seconds']:.0f} s)", flush=True)
            continue
        stale = True
        for later in stages[number - 1 :]:
            _forget(run, later)
        print(f"\n{heading}", flush=True)
        start = time.monotonic()
        with _removed_on_failure(run, stage):
            for command in commands:
                execute(command)
        if "jax" in sys.modules:
            sys.modules["jax"].clear_caches()  # the programs of a stage are of no use to the next, and take memory
        made = {
            "name": stage.name,
            "title": stage.title,
            "number": number,
            "seconds": time.monotonic() - start,
            "peak_memory_gib": peak_memory_gib(),
            "commands": [_shown(command) for command in commands],
            "fingerprint": fingerprint,
            "data": road.about,
        }
        (run / "stages").mkdir(parents=True, exist_ok=True)
        aside = run / "stages" / f".{stage.name}.partial"
        aside.write_text(json.dumps(made, indent=1) + "\n")
        aside.rename(run / "stages" / f"{stage.name}.json")
        print(f"      {made['seconds']:.0f} s", flush=True)


def execute(command: Command) -> None:
    """Show a command and run it, here instead of in a process of its own, which would load every library again."""
    print(f"$ {_shown(command)}", flush=True)
    name = f"jam_jax.{command[0]}"
    package = (Path(__file__).parent / command[0]).is_dir()
    importlib.import_module(name + ".__main__" if package else name).main(command[1:])


def peak_memory_gib() -> float:
    """The most memory that this process has held so far."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kibibytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _shown(command: Command) -> str:
    return f"python -m jam_jax.{shlex.join(command)}"


def _fingerprint(before: str, stage: Stage, commands: list[Command]) -> str:
    digest = hashlib.sha256(before.encode())
    digest.update(json.dumps([stage.name, commands]).encode())
    for path in stage.inputs:
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()


def require_data(road: Road) -> None:
    """ValueError if a user's own data lacks what the road asks for: captions and text, to train and to test on."""
    from jam_jax.data import formats

    for split in ("train", "test"):
        if not any(document.texts and document.pictures for document in formats.read(road.pictures, split)):
            raise ValueError(
                f"{road.pictures} has no pictures with captions in its split {split!r}: a line of metadata.jsonl is "
                '{"file_name": "a.png", "text": "what it shows"}'
            )
        if not any(document.texts for document in formats.read(road.text, split)):
            raise ValueError(f"{road.text} has no text in its split {split!r}")


def _of_another_road(run: Path, road: Road) -> str:
    """The data of the stages that are kept in a directory, if it is not this road's."""
    for path in (run / "stages").glob("*.json"):
        stamp = _read_stamp(path)
        if stamp and stamp["data"] != road.about:
            return stamp["data"]
    return ""


def _of_data(road: Road) -> str:
    """Names, sizes and times of a user's own files: the road begins again when they change."""
    files = sorted(p for source in (road.pictures, road.text) if source for p in Path(source).rglob("*") if p.is_file())
    facts = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _stamp(run: Path, stage: Stage) -> dict | None:
    """The stamp of a stage, None if it has none or if what it made is gone."""
    return _read_stamp(run / "stages" / f"{stage.name}.json") if all(_made(run, stage)) else None


def _made(run: Path, stage: Stage) -> Iterator[bool]:
    return (any(run.glob(pattern)) for pattern in stage.outputs)


def _read_stamp(path: Path) -> dict | None:
    """A stamp; None if there is none, or none that can be read: then its stage runs again."""
    try:
        stamp = json.loads(path.read_text(encoding="utf-8"))
        return stamp if {"fingerprint", "seconds", "data"} <= set(stamp) else None
    except (OSError, ValueError, TypeError):
        return None


def _forget(run: Path, stage: Stage) -> None:
    """Remove what a stage made; its stamp first, so that a stop in between leaves no stamp without its work."""
    (run / "stages" / f"{stage.name}.json").unlink(missing_ok=True)
    for pattern in stage.outputs:
        for path in run.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@contextlib.contextmanager
def _removed_on_failure(run: Path, stage: Stage) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        _forget(run, stage)
        if isinstance(error, KeyboardInterrupt):
            print(f"\nstopped in “{stage.title}”: the same command goes on from there", file=sys.stderr)
            sys.exit(130)
        raise


if __name__ == "__main__":
    configs.run(main)
