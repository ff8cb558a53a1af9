"""Sums of planes: one token's attention to a cache, as the reference computes it."""

import jax.numpy as jnp
import numpy as np
import pytest

from jam_jax.models import attention, planes


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("heads", [2, 6], ids=["one query a head", "three"])
@pytest.mark.parametrize("slots", [12, 64, 7])
def test_it_equals_attention_to_what_is_filled(dtype: str, error: float, heads: int, slots: int) -> None:
    rng = np.random.default_rng(0)
    shapes = (3, 1, heads, 8), (3, slots, 2, 8), (3, slots, 2, 8)
    q, k, v = (jnp.asarray(rng.normal(size=s), dtype) for s in shapes)
    seen = attention.filled(jnp.array([[6], [0], [3]]), slots)
    wanted = attention.attend(q, k, v, seen)[:, 0]
    keys, values = (a.view(planes.kept(dtype)) for a in (k.transpose(3, 0, 2, 1), v.swapaxes(0, 1)))
    found = planes.attend(q[:, 0], keys, values, seen[:, 0])
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    np.testing.assert_allclose(np.float32(found), np.float32(wanted), rtol=error, atol=error)


@pytest.mark.parametrize("depth", [1, 6, 32, 48])
def test_a_total_is_the_sum_of_planes_times_numbers(depth: int) -> None:
    rng = np.random.default_rng(0)
    numbers, what = (rng.normal(size=s).astype(np.float32) for s in ((depth, 2, 3), (depth, 2, 1, 5)))
    expected = np.einsum("dbg,dbo->bgo", numbers, what[:, :, 0])
    np.testing.assert_allclose(planes.total(jnp.asarray(numbers), jnp.asarray(what)), expected, rtol=1e-5, atol=1e-5)
