"""Which records of a source are held out: by the files' own names, or a share of them by a hash."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# What a file's name says about its split: `train-00000-of-00002`, `captions_val2017`.
SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
_NAMED = re.compile(rf"(?<![a-z])({'|'.join(SPLITS)})(?![a-z])")


def check_split(split: str, source: Path, held_out: float) -> None:
    """ValueError if a source without splits of its own has no such split."""
    if split not in ("train", "test"):
        raise ValueError(f"{source}: data without splits of its own has the splits train and test, got {split!r}")
    if split == "test" and not held_out:
        raise ValueError(f"{source} has no split test: nothing is held out of it (--held-out {held_out:g})")


def in_split(names: Iterable[str], split: str, directory: Path, held_out: float) -> set[str]:
    """The names of a folder that belong to `train` or `test`; `directory` is for messages.

    The share `held_out` of the names with the lowest hashes, and one at least, is the test split.
    ValueError for another split, or one that no name belongs to.
    """
    check_split(split, directory, held_out)
    ranked = sorted(set(names), key=lambda name: hashlib.sha256(name.encode(errors="surrogatepass")).digest())
    count = max(1, int(len(ranked) * held_out)) if held_out else 0
    chosen = ranked[:count] if split == "test" else ranked[count:]
    if not chosen:
        raise ValueError(f"{directory} has {len(ranked)} documents, too few for a {split} split: add some")
    return set(chosen)


def digest(key: Any) -> bytes:
    """A hash of anything that JSON or Parquet holds, the same on every machine and in every run."""

    def plain(value: Any) -> str:
        return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else str(value)

    return hashlib.sha256(json.dumps(key, sort_keys=True, default=plain).encode()).digest()


def is_held_out(key: Any, held_out: float) -> bool:
    """Whether records with this key are in the test split of a stream, where no record knows of the others."""
    return int.from_bytes(digest(key)[:8]) < held_out * 2**64


def split_of_file(path: Path) -> str:
    """The split that a file's name says it holds: train, validation or test; "" if it says none or several."""
    found = {SPLITS[name] for name in _NAMED.findall(path.stem.lower())}
    return found.pop() if len(found) == 1 else ""


def files_of_split(files: Sequence[Path], split: str, source: Path) -> list[Path] | None:
    """The files of a directory whose names say that they hold `split`; None if the names say no splits.

    ValueError if some files name a split and others do not, or if no file holds this one.
    """
    named = {path: split_of_file(path) for path in files}
    if not any(named.values()):
        return None
    if unnamed := [path for path, name in named.items() if not name]:
        raise ValueError(
            f"{source}: the names of some files say their split (train, validation, test) and that of "
            f"{unnamed[0].name} does not: rename it, or name one file as the source"
        )
    if split not in named.values():
        raise ValueError(f"{source} has no split {split!r}; its files hold {', '.join(sorted(set(named.values())))}")
    return [path for path, name in named.items() if name == split]
