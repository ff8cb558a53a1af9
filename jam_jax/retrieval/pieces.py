"""Directories that several processes write: each its part, in any order and on any machine, put together at the end.

Part 3 of 64 is `part-00003-of-00064` inside the directory, with its files and a manifest.json that has their sizes and
checksums; it appears when it is whole, so a process that was stopped is simply started again. The directory's own
manifest.json, which makes it one, is written when all parts are there.
"""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jam_jax.config import write_whole
from jam_jax.data.parts import Part

SMALL = 64 << 20  # bytes of files that are compared with their checksums whenever they are opened
MANIFEST = "manifest.json"
Manifest = dict[str, Any]


def write(directory: str | Path, part: Part, shared: Manifest, fill: Callable[[Path], Manifest]) -> None:
    """Write one part, unless it is there: `fill` writes its files and gives what its manifest says beside `shared`.

    `shared` is what all parts must agree in. ValueError if the directory holds something else; whatever `fill` raises
    leaves no part behind.
    """
    from jam_jax.checkpoint import new_directory

    directory = Path(directory)
    held = _present(directory)
    if not held and directory.exists() and any(directory.iterdir()):
        raise ValueError(f"{directory} is not empty and holds something else: choose another --target")
    for other, manifest in held[:1]:
        require_alike(directory, other, manifest, part, shared)
    if any(other == part for other, _ in held):
        print(f"{directory}: shard {part} is there already")
        return
    with new_directory(directory / part.name) as aside:
        told = fill(aside)
        save(aside, shared | told)


def save(directory: Path, values: Manifest) -> None:
    """Write the manifest of a directory whose files are there, with their sizes and checksums."""
    files = {p.name: fingerprint(p) for p in sorted(directory.iterdir()) if p.is_file() and p.name != MANIFEST}
    write_manifest(directory, values | {"files": files})


def write_manifest(directory: Path, values: Manifest) -> None:
    """Write the manifest of a directory, whole or not at all."""
    write_whole(directory / MANIFEST, json.dumps(values, indent=1) + "\n")


def fingerprint(path: Path) -> Manifest:
    """Size and checksum of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def require_alike(directory: Path, a: Part, one: Manifest, b: Part, other: Manifest) -> None:
    """ValueError if two parts do not belong to one whole."""
    if a.of != b.of:
        raise ValueError(f"{directory} holds shard {a}, which does not go with {b}: use the same number, or remove it")
    if differing := [name for name in other if name in one and one[name] != other[name]]:
        raise ValueError(
            f"{directory} holds shard {a} with another {differing[0]} ({one[differing[0]]}, not "
            f"{other[differing[0]]}): remove it, or choose another --target"
        )


def missing(directory: str | Path) -> list[Part]:
    """The parts that are not there yet; ValueError if there is none at all."""
    held = [part for part, _ in _present(Path(directory))]
    if not held:
        raise ValueError(f"{directory} holds no shards: write them with --shard 0/N to N-1/N")
    return [part for i in range(held[0].of) if (part := Part(i, held[0].of)) not in held]


def whole(directory: str | Path, shared: tuple[str, ...]) -> list[tuple[Part, Manifest]]:
    """All parts with their manifests, in their order; ValueError if one is missing or differs in what is `shared`."""
    if absent := missing(directory):
        told = ", ".join(map(str, absent[:8])) + (", …" if len(absent) > 8 else "")
        raise ValueError(f"{len(absent)} of {absent[0].of} shards of {directory} are not there: write {told} first")
    held = _present(Path(directory))
    part, first = held[0]
    for other, manifest in held[1:]:
        require_alike(Path(directory), part, first, other, {name: manifest.get(name) for name in shared})
    return held


def read(directory: Path, what: str, remedy: str) -> Manifest:
    """A directory's manifest; ValueError if there is none, or if it or a file that it names is damaged."""
    path = directory / MANIFEST
    if not path.is_file():
        if any(directory.glob("part-*-of-*")):
            raise ValueError(f"{directory} holds shards of {what}: put them together with {MERGE} {directory}")
        raise ValueError(f"{directory} is no {what}: it has no {MANIFEST}; {remedy}")
    try:
        values: Manifest = json.loads(path.read_text(encoding="utf-8"))
        files: dict[str, Manifest] = values["files"]
        sizes = {name: (directory / name).stat().st_size for name in files}
        wrong = [name for name, size in sizes.items() if size != files[name]["bytes"]]
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise ValueError(f"{what} {directory} is damaged ({error}): {remedy}") from error
    if not wrong and sum(sizes.values()) <= SMALL:
        wrong = damaged(directory, files)
    if wrong:
        raise ValueError(f"{what} {directory} is damaged ({wrong[0]} is not what was written): {remedy}")
    return values


def damaged(directory: Path, files: dict[str, Manifest]) -> list[str]:
    """The files whose bytes are not those that were written; reads them all."""
    return [name for name, about in files.items() if fingerprint(directory / name) != about]


def _present(directory: Path) -> list[tuple[Part, Manifest]]:
    """The parts that are there, in their order; ValueError if two numbers of parts are mixed, or one is damaged."""
    found = []
    for path in sorted(directory.glob(f"part-*-of-*/{MANIFEST}")):
        if name := re.fullmatch(r"part-(\d{5,})-of-(\d{5,})", path.parent.name):
            try:
                found.append((Part(int(name[1]), int(name[2])), json.loads(path.read_text(encoding="utf-8"))))
            except ValueError as error:
                raise ValueError(f"{path} is damaged: remove its directory and write that shard again") from error
    found.sort(key=lambda item: (item[0].of, item[0].index))
    if len({part.of for part, _ in found}) > 1:
        raise ValueError(f"{directory} holds shards {found[0][0]} and {found[-1][0]}: remove those of one of the two")
    return found


MERGE = "python -m jam_jax.retrieval merge"
