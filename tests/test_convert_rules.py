"""A table of rules moves every number to its place, back again, and accounts for every name."""

import types

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from jam_jax.convert import rules
from jam_jax.convert.readers import Files, Safetensors
from jam_jax.convert.rules import Rule, Table
from tests.tiny import leaves, whole

SIZES = {"V": 5, "D": 3, "N": 2, "H": 2, "L": 2}
TABLE = Table(
    (
        Rule("embed", "VD -> VD", "embed/tokens"),
        Rule("block.{L}.kvq", "(NH)D -> DNH", "layers/k layers/v layers/q"),
        Rule("block.{L}.out", "D(NH) -> NHD", "layers/o"),
    ),
    SIZES,
    copies={"head": "embed"},
    inert=("version",),
)
SHAPES = {
    "embed": {"tokens": (5, 3)},
    "layers": {"k": (2, 3, 2, 2), "v": (2, 3, 2, 2), "q": (2, 3, 2, 2), "o": (2, 2, 2, 3)},
    "norm": {},
}


def structs(shapes):
    if isinstance(shapes, dict):
        return {k: structs(v) for k, v in shapes.items()}
    return types.SimpleNamespace(shape=shapes)


def source(rng=None):
    rng = rng or np.random.default_rng(0)
    shapes = (
        {"embed": (5, 3)} | {f"block.{i}.kvq": (12, 3) for i in range(2)} | {f"block.{i}.out": (3, 4) for i in (0, 1)}
    )
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def stored(tmp_path, arrays):
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
    save_file(arrays, path)
    return Safetensors(path)


def gather(tmp_path, arrays):
    return whole(rules.leaves(TABLE, stored(tmp_path, arrays), structs(SHAPES), "it"))


def test_every_number_lands_where_the_letters_say(tmp_path):
    arrays = source()
    tree = gather(tmp_path, arrays)
    assert tree["norm"] == {}
    np.testing.assert_array_equal(tree["embed"]["tokens"], arrays["embed"])
    for layer in range(2):
        for d in range(3):
            for n in range(2):
                for h in range(2):
                    row = 2 * n + h
                    for part, name in enumerate("kvq"):
                        ours = tree["layers"][name][layer, d, n, h]
                        assert ours == arrays[f"block.{layer}.kvq"][4 * part + row, d]
                    assert tree["layers"]["o"][layer, n, h, d] == arrays[f"block.{layer}.out"][d, row]


def test_the_table_backwards_gives_the_source_bit_for_bit(tmp_path):
    arrays = source()
    back = rules.Exported(TABLE, leaves(gather(tmp_path, arrays)))
    assert sorted(back.names()) == sorted(arrays)
    for name, value in arrays.items():
        assert back.shape(name) == value.shape
        assert back.dtype(name) == np.float32
        np.testing.assert_array_equal(back.read(name), value)


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_read_exactly(tmp_path, kind):
    arrays = {name: value.astype(kind) for name, value in source().items()}
    tree = rules.leaves(TABLE, stored(tmp_path, arrays), structs(SHAPES), "it")
    assert tree["embed"]["tokens"].dtype == tree["layers"]["k"].dtype == kind
    np.testing.assert_array_equal(tree["embed"]["tokens"].whole(), arrays["embed"])


def test_a_single_number_has_no_axes(tmp_path):
    table, shapes = Table((Rule("temperature", "->", "scale"),), {}), structs({"scale": ()})
    tree = rules.leaves(table, stored(tmp_path, {"temperature": np.array(3, np.float32)}), shapes, "it")
    assert tree["scale"].shape == () and whole(tree)["scale"] == 3
    back = rules.Exported(table, tree)
    assert back.shape("temperature") == back.read("temperature").shape == () and back.read("temperature") == 3
    with pytest.raises(ValueError, match=r"temperature is \[1\], not \[\]"):
        rules.leaves(table, stored(tmp_path, {"temperature": np.zeros(1, np.float32)}), shapes, "it")


def test_all_that_does_not_fit_is_reported_together_before_anything_is_read(tmp_path):
    arrays = source() | {"extra": np.zeros(1, np.float32), "version": np.zeros(1, np.float32)}
    del arrays["block.1.out"]
    arrays["block.0.kvq"] = arrays["block.0.kvq"][:8]
    arrays["block.0.out"] = arrays["block.0.out"].astype(np.float64)
    first = stored(tmp_path, arrays)
    weights = Files([first, stored(tmp_path, {"embed": arrays["embed"]})])
    weights.read = lambda name: pytest.fail(f"{name} was read")
    with pytest.raises(ValueError) as caught:
        whole(rules.leaves(TABLE, weights, structs(SHAPES), "my checkpoint"))
    message = str(caught.value)
    assert "\n" not in message and message.startswith("my checkpoint")
    assert "missing: block.1.out" in message
    assert "left over: extra;" in message
    assert "doubled: embed" in message
    assert "block.0.kvq is [8, 3], not [12, 3]" in message
    assert "block.0.out (float64)" in message


def test_a_long_report_is_cut_and_counted(tmp_path):
    arrays = source() | {f"extra.{i}": np.zeros(1, np.float32) for i in range(40)}
    with pytest.raises(ValueError, match=r"left over: extra\.0, .* and 34 more"):
        gather(tmp_path, arrays)


def test_a_tied_copy_may_be_stored_and_must_be_equal(tmp_path):
    arrays = source()
    gather(tmp_path, arrays | {"head": arrays["embed"].copy()})
    with pytest.raises(ValueError, match="head should be the same table as embed"):
        gather(tmp_path, arrays | {"head": arrays["embed"] + 1})
    with pytest.raises(ValueError, match=r"head is \[1, 3\], not \[5, 3\]"):
        gather(tmp_path, arrays | {"head": arrays["embed"][:1].copy()})


def test_a_counted_stack_of_none_is_empty():
    table = Table(TABLE.rules, SIZES | {"L": 0})
    assert list(rules.entries(table)) == ["embed"]
