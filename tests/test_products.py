"""Projections on CPUs: the einsum and its gradients, and nothing is transposed on the way."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jam_jax.models import decoder, layers, model
from jam_jax.models.products import product
from tests.tiny import DECODER

CASES = [
    ("BTD,DF->BTF", (2, 3, 5), (5, 7)),
    ("BTD,DNH->BTNH", (2, 3, 5), (5, 4, 2)),
    ("BTNH,NHD->BTD", (2, 3, 4, 2), (4, 2, 5)),
    ("BTD,DF->BTF", (2, 30, 9), (9, 2)),  # more inputs than outputs and weights
    ("BTNH,NHD->BTD", (2, 30, 3, 3), (3, 3, 2)),
]


def operands(left: tuple[int, ...], right: tuple[int, ...], dtype: str = "float32") -> tuple[jax.Array, jax.Array]:
    return tuple(jax.random.normal(jax.random.key(i), shape).astype(dtype) for i, shape in enumerate((left, right)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("equation", "left", "right"), CASES)
def test_a_projection_and_its_gradients_are_the_einsums(
    equation: str, left: tuple[int, ...], right: tuple[int, ...], dtype: str
) -> None:
    x, weight = operands(left, right, dtype)
    ours, backward = jax.vjp(lambda x, weight: product(equation, x, weight), x, weight)
    theirs, reference = jax.vjp(lambda x, weight: jnp.einsum(equation, x, weight), x, weight)
    gradient = jax.random.normal(jax.random.key(2), theirs.shape).astype(dtype)
    for mine, other in zip((ours, *backward(gradient)), (theirs, *reference(gradient)), strict=True):
        assert mine.dtype == other.dtype
        tolerance = 1e-5 if dtype == "float32" else 3e-2
        np.testing.assert_allclose(mine.astype("f4"), other.astype("f4"), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("equation", "left", "right"), CASES[:3])
def test_no_operand_is_transposed(equation: str, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    x, weight = operands(left, right)

    def both(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, ...]:
        y, backward = jax.vjp(lambda x, weight: product(equation, x, weight), x, weight)
        return y, *backward(y)

    assert "dot_general" in (text := str(jax.make_jaxpr(both)(x, weight))) and "transpose" not in text


@pytest.mark.parametrize("remat", sorted({"none", *decoder.KEPT}))
def test_rematerialisation_computes_again_what_it_would_of_an_einsum(
    remat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(DECODER, remat=remat)
    params, tokens = model.shapes(config), jnp.zeros((1, 8), jnp.int32)

    def products() -> int:
        gradient = jax.grad(lambda params: model.forward(config, params, tokens)[0].sum())
        return str(jax.make_jaxpr(gradient)(params)).count("dot_general")

    ours = products()
    monkeypatch.setattr(layers, "product", jnp.einsum)
    jax.clear_caches()
    assert ours == products()
