"""Paths of nested dicts."""

from jam_jax.trees import like, nested, part, paths


def test_paths_and_back_with_dicts_that_hold_nothing() -> None:
    tree = {"a": {"b": 1, "c": {"d": 2}, "empty": {}}, "e": 3}
    assert paths(tree) == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert like(tree, paths(tree)) == tree
    assert nested(paths(tree)) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}


def test_a_part_keeps_its_place_and_all_is_the_tree_itself() -> None:
    tree = {"a": {"b": 1, "c": 2}, "d": {"e": {}}, "f": 3}
    assert part(tree, frozenset(("a/c", "f"))) == {"a": {"c": 2}, "f": 3}
    assert part(tree, frozenset(("a/b", "a/c", "f"))) is tree
