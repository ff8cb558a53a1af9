"""The schedule by hand, and weight decay on matrices alone."""

import dataclasses

import jax
import numpy as np
import pytest

from jam_jax import optim
from jam_jax.config import OptimConfig
from jam_jax.models import model
from jam_jax.trees import paths
from tests.tiny import OPT_LIKE


@pytest.mark.parametrize(("kind", "middle"), [("linear", 0.55), ("cosine", 0.55), ("constant", 1.0)])
def test_the_schedule_rises_and_falls(kind: str, middle: float) -> None:
    rate = optim.schedule(OptimConfig(learning_rate=1.0, warmup=4, schedule=kind), 104)  # type: ignore[arg-type]
    np.testing.assert_allclose([rate(i) for i in range(4)], [0.25, 0.5, 0.75, 1.0], rtol=1e-6)
    np.testing.assert_allclose(rate(54), middle, rtol=1e-5)
    np.testing.assert_allclose(rate(104), 1.0 if kind == "constant" else 0.1, rtol=1e-5)


def test_weight_decay_shrinks_matrices_and_nothing_else() -> None:
    params = jax.tree.map(lambda s: np.ones(s.shape, np.float32), model.shapes(OPT_LIKE))
    optimizer = optim.make(OptimConfig(learning_rate=0.1, warmup=1, weight_decay=0.5), 10)
    state = jax.jit(optimizer.init)(params)
    updates, _ = jax.jit(optimizer.update)(jax.tree.map(np.zeros_like, params), state, params)
    for path, update in paths(updates).items():
        decayed = not path.endswith(("bias", "scale"))
        np.testing.assert_allclose(update, -0.05 if decayed else 0.0, rtol=1e-5, err_msg=path)


def test_gradients_are_clipped_to_the_global_norm() -> None:
    config = OptimConfig(learning_rate=1.0, warmup=1, clip=1.0, weight_decay=0.0)
    gradient = {"a": np.full((2, 2), 3.0, np.float32), "b": np.full((2, 2), 4.0, np.float32)}
    for clip in (1.0, 100.0):
        optimizer = optim.make(dataclasses.replace(config, clip=clip), 10)
        _, state = jax.jit(optimizer.update)(gradient, jax.jit(optimizer.init)(gradient), gradient)
        first = next(leaf for leaf in jax.tree.leaves(state) if leaf.shape == (2, 2))  # Adam's first moment
        np.testing.assert_allclose(first, 0.1 * 3.0 * (0.1 if clip == 1.0 else 1.0), rtol=1e-5)


def test_a_state_in_bfloat16_steps_nearly_as_one_in_float32() -> None:
    params = {"a": np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)}
    moved = {}
    for state in ("float32", "bfloat16"):
        optimizer = optim.make(OptimConfig(learning_rate=0.1, warmup=1, state=state), 30)  # type: ignore[arg-type]
        held, at = jax.jit(optimizer.init)(params), params
        update = jax.jit(optimizer.update)
        kinds = {leaf.dtype for leaf in jax.tree.leaves(held) if leaf.ndim}
        assert kinds == {jax.numpy.dtype(state)}
        for step in range(20):
            gradient = jax.tree.map(lambda x, step=step: np.cos(3 * x + step), params)
            updates, held = update(gradient, held, at)
            at = jax.tree.map(lambda x, u: x + u, at, updates)
        assert {leaf.dtype for leaf in jax.tree.leaves(held) if leaf.ndim} == kinds
        moved[state] = at["a"] - params["a"]
    assert np.abs(moved["bfloat16"] - moved["float32"]).max() < 0.01 * np.abs(moved["float32"]).max()
    with pytest.raises(ValueError, match="beta2=0.999 needs optim.state=float32"):
        OptimConfig(beta2=0.999, state="bfloat16")
