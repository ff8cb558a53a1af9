"""Paths of nested dicts."""

from jam_jax.trees import like, paths


def test_paths_and_back_with_dicts_that_hold_nothing() -> None:
    tree = {"a": {"b": 1, "c": {"d": 2}, "empty": {}}, "e": 3}
    assert paths(tree) == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert like(tree, paths(tree)) == tree
