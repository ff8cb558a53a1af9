"""One token of one row and its cache: head by head as all heads at once."""

import jax.numpy as jnp
import numpy as np
import pytest

from jam_jax.models import attention, one_row


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_it_equals_attention_to_what_is_filled(dtype: str, error: float) -> None:
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=s), dtype) for s in ((1, 1, 4, 8), (1, 4, 12, 8), (1, 4, 12, 8)))
    seen = attention.filled(jnp.array([[6]]), 12)
    wanted = attention.attend(q, k.swapaxes(1, 2), v.swapaxes(1, 2), seen)
    found = one_row.attend(q, k, v, seen)
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    np.testing.assert_allclose(np.float32(found), np.float32(wanted), rtol=error, atol=error)


def test_grouped_heads_more_rows_and_more_tokens_are_left_to_attention() -> None:
    keys = jnp.zeros((1, 2, 8, 4))
    assert one_row.suits(jnp.zeros((1, 1, 2, 4)), keys)
    assert not any(one_row.suits(jnp.zeros(shape), keys) for shape in ((1, 1, 4, 4), (2, 1, 2, 4), (1, 2, 2, 4)))
