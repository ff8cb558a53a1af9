"""Nested dicts of anything as a flat list of paths, and back: `{"a": {"b": x}}` ↔ `{"a/b": x}`."""

from typing import Any


def paths(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by path, in order; dicts without leaves (a norm without scale) vanish."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= paths(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: value}
    return flat


def like(template: dict[str, Any], flat: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Inverse of `paths`, in the structure of `template`, whose dicts without leaves come back."""
    return {
        name: like(value, flat, f"{prefix}{name}/") if isinstance(value, dict) else flat[prefix + name]
        for name, value in template.items()
    }


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Leaves by path as a tree, without dicts that have no leaves."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *outer, name = path.split("/")
        inside = tree
        for key in outer:
            inside = inside.setdefault(key, {})
        inside[name] = value
    return tree


def part(tree: dict[str, Any], chosen: frozenset[str], prefix: str = "") -> dict[str, Any]:
    """The leaves of some paths alone, nested as before; the tree itself if that is all of them."""
    if prefix == "" and chosen >= set(paths(tree)):
        return tree
    kept: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            if inner := part(value, chosen, f"{prefix}{name}/"):
                kept[name] = inner
        elif prefix + name in chosen:
            kept[name] = value
    return kept
