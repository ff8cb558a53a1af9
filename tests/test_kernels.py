"""Every kernel that runs here equals the reference, in values and gradients, with documents and without."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jam_jax.models import attention, kernels, tiles
from tests.tiny import DECODER

LENGTH = 256


def inputs(heads: int = 4, kv_heads: int = 2, size: int = 16, dtype: str = "float32") -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(0), 3)
    counts = (heads, kv_heads, kv_heads)
    q, k, v = (jax.random.normal(key, (2, LENGTH, n, size), dtype) for key, n in zip(keys, counts, strict=True))
    return q, k, v


def documents() -> jax.Array:
    """Row 0 holds three documents, row 1 holds one."""
    starts = np.zeros((2, LENGTH), int) + 1
    starts[0, [0, 100, 101]] = 0
    starts[1, 0] = 0
    return attention.documents(jnp.asarray(starts))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["tiled", "chunked", "pallas"])
def test_a_kernel_equals_the_reference(name: str, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "QUERIES", 96)  # which does not divide the length
    monkeypatch.setattr(tiles, "QUERIES", 96)
    args = (*inputs(), *([documents()] if packed else []))

    def loss(*args: jax.Array, name: str) -> tuple[jax.Array, jax.Array]:
        out = kernels.KERNELS[name](*args)
        return (out * jnp.cos(jnp.arange(out.size).reshape(out.shape))).sum(), out

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True), static_argnames="name")
    (_, expected), gradients = run(*args, name="reference")
    (_, found), others = run(*args, name=name)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5), others, gradients)


@pytest.mark.parametrize("packed", [False, True])
def test_tiles_of_one_head_at_a_time_are_those_of_all(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    args = (*inputs(kv_heads=4), *([documents()] if packed else []))

    def gradients(*args: jax.Array) -> tuple[jax.Array, ...]:
        attend = jax.checkpoint(tiles.attend)
        return jax.jit(jax.grad(lambda *args: jnp.square(attend(*args)).sum(), argnums=(0, 1, 2)))(*args)

    together = gradients(*args)
    assert tiles._heads_together(*args[:2]) == 4
    monkeypatch.setattr(tiles, "HELD", 1)
    assert tiles._heads_together(*args[:2]) == 1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients(*args), together)


def test_gradients_of_tiles_in_half_precision_are_rounded_no_more_than_the_references(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tiles, "QUERIES", 32)  # so that many tiles add to the first keys
    args = inputs(dtype="bfloat16")

    def gradients(name: str, *args: jax.Array) -> tuple[jax.Array, ...]:
        def loss(*args: jax.Array) -> jax.Array:
            out = kernels.KERNELS[name](*args).astype(jnp.float32)
            return (out * jnp.cos(jnp.arange(out.size).reshape(out.shape))).sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*args)

    exact = gradients("reference", *(x.astype(jnp.float32) for x in args))
    errors = {
        name: [float(jnp.square(x.astype(jnp.float32) - y).mean() ** 0.5) for x, y in zip(found, exact, strict=True)]
        for name in ("reference", "tiled")
        for found in (gradients(name, *args),)
    }
    assert all(ours < 1.25 * theirs for ours, theirs in zip(errors["tiled"], errors["reference"], strict=True)), errors


def test_a_document_sees_nothing_of_another() -> None:
    q, k, v = inputs()
    own = documents()
    before = kernels.chunked(q, k, v, own)
    after = kernels.chunked(q, k.at[0, :100].add(1), v.at[0, :100].add(1), own)
    np.testing.assert_array_equal(before[0, 100:], after[0, 100:])
    assert jnp.abs(before[0, :100] - after[0, :100]).max() > 0.1


@pytest.mark.parametrize(
    ("platform", "dtype", "size", "length", "expected"),
    [
        ("cpu", "float32", 64, 256, "reference"),
        ("cpu", "float32", 64, 512, "tiled"),
        ("cpu", "float32", 64, 4096, "tiled"),
        ("gpu", "float32", 64, 512, "reference"),
        ("gpu", "bfloat16", 128, 4096, "cudnn"),
        ("gpu", "bfloat16", 64, 512, "cudnn"),
        ("gpu", "float32", 64, 4096, "chunked"),
        ("gpu", "bfloat16", 100, 4096, "chunked"),
        ("tpu", "bfloat16", 128, 4096, "pallas"),
        ("tpu", "bfloat16", 128, 100, "reference"),
    ],
)
def test_each_device_has_its_kernel(
    platform: str, dtype: str, size: int, length: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels.sharding, "platform", lambda: platform)
    q: object = jax.ShapeDtypeStruct((1, length, 4, size), dtype)
    assert kernels.chosen(DECODER, q) == expected  # type: ignore[arg-type]
    assert kernels.chosen(dataclasses.replace(DECODER, attention="reference"), q) == "reference"  # type: ignore[arg-type]
