"""The held-out part of a user's folder, which has no splits of its own."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

HELD_OUT = 20  # one document in so many


def in_split(names: Iterable[str], split: str, directory: Path) -> set[str]:
    """The names that belong to `train` or `test`; ValueError for another split, or one that no name belongs to.

    `directory` is for messages.

    The twentieth part of the names with the lowest hashes, and one at least, is the test split.
    """
    if split not in ("train", "test"):
        raise ValueError(f"{directory}: a folder has the splits train and test, got {split!r}")
    ranked = sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).digest())
    held_out = max(1, len(ranked) // HELD_OUT)
    chosen = ranked[:held_out] if split == "test" else ranked[held_out:]
    if not chosen:
        raise ValueError(f"{directory} has {len(ranked)} documents, too few for a {split} split: add some")
    return set(chosen)
