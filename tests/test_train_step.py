"""Laws of the training step: parts equal the whole, chunks equal all at once, and what is frozen does not move."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jam_jax import losses, optim, sharding, tokens, train_step
from jam_jax.config import Config, CrossConfig, DataConfig, LossConfig, MeshConfig, OptimConfig
from jam_jax.models import model
from jam_jax.trees import paths
from tests.tiny import DECODER, LLAMA_LIKE, randomise

SPACE = tokens.jam(text=30, codes=8, codes_per_image=4, sentinels=11, pad_to=8)
VOCAB = SPACE.vocab_size
CONFIG = Config(
    model=dataclasses.replace(DECODER, vocab_size=VOCAB, layers=2),
    data=DataConfig(block=17),
    optim=OptimConfig(learning_rate=1e-2, warmup=1, weight_decay=0.1),
    steps=10,
    batch=8,
)


@functools.cache
def batch() -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    weights = (rng.random((8, 16)) < 0.8).astype(np.float32)
    return {
        "tokens": jnp.asarray(rng.integers(0, VOCAB, (8, 17)), jnp.int32),
        "positions": jnp.broadcast_to(jnp.arange(16), (8, 16)),
        "weights": jnp.asarray(weights),
    }


@functools.cache
def start(config: Config) -> Any:
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    return mesh, train_step.prepare(config, config.model, SPACE.modality, mesh)  # type: ignore[arg-type]


def one_step(config: Config, rows: dict[str, jax.Array] | None = None, seed: int = 1) -> tuple[dict, dict, Any, dict]:
    """Parameters before and after one step, the optimizer's state, and what was found."""
    mesh, run = start(config)
    with jax.set_mesh(mesh):
        params = randomise(model.shapes(config.model), seed)  # type: ignore[arg-type]
        before = jax.tree.map(np.array, params)
        after, state, found = run.step(params, run.init_state(params), rows or batch())
    return before, after, state, found


def assert_close(a: Any, b: Any, atol: float = 1e-5) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol, rtol=1e-4), a, b)


def test_a_batch_in_parts_gives_the_gradient_of_the_whole() -> None:
    sgd = dataclasses.replace(CONFIG.optim, eps=1e3)  # so large that an update is the gradient, not its sign
    whole = one_step(dataclasses.replace(CONFIG, optim=sgd))
    again = one_step(dataclasses.replace(CONFIG, optim=sgd, accumulate=4))
    for name in whole[3]:
        np.testing.assert_allclose(again[3][name], whole[3][name], rtol=1e-5, err_msg=name)
    assert_close(again[2], whole[2])
    assert_close(again[1], whole[1], atol=1e-7)


@pytest.mark.parametrize("kind", ["untied", pytest.param("cross", marks=pytest.mark.long)])
def test_chunks_of_logits_give_the_loss_of_all(kind: str) -> None:
    tower = dataclasses.replace(LLAMA_LIKE if kind == "untied" else DECODER, vocab_size=VOCAB, layers=1)
    found = CrossConfig(tower, tower, 1) if kind == "cross" else tower
    config = dataclasses.replace(CONFIG, model=found, loss=LossConfig(z=0.1))
    whole, parts = (one_step(dataclasses.replace(config, loss=LossConfig(z=0.1, chunk=n))) for n in (128, 24))
    for name in whole[3]:
        np.testing.assert_allclose(parts[3][name], whole[3][name], rtol=1e-5, err_msg=name)
    assert_close(parts[2], whole[2])


def test_the_loss_is_that_of_logits_at_once() -> None:
    rng = jax.random.split(jax.random.key(1), 3)
    states, table = jax.random.normal(rng[0], (2, 5, 8)), jax.random.normal(rng[1], (11, 8))
    targets = jax.random.randint(rng[2], (2, 5), 0, 11)
    logits = jnp.einsum("BTD,VD->BTV", states, table)
    for chunk in (3, 100):
        nll, log_z = jax.jit(losses.next_token, static_argnums=3)(states, table, targets, chunk)
        np.testing.assert_allclose(nll, losses.token_nll(logits, targets), rtol=1e-5)
        np.testing.assert_allclose(log_z, jax.nn.logsumexp(logits, -1), rtol=1e-5)


def test_no_array_of_all_logits_is_made() -> None:
    config = dataclasses.replace(CONFIG, loss=LossConfig(chunk=32))
    mesh, run = start(config)
    with jax.set_mesh(mesh):
        traced = run.step.trace(run.shapes, run.state_shapes, jax.tree.map(jnp.asarray, batch()))
        again = start(CONFIG)[1].step.trace(run.shapes, run.state_shapes, jax.tree.map(jnp.asarray, batch()))
    assert f"f32[32,{VOCAB}]" in str(traced.jaxpr) and f"f32[8,16,{VOCAB}]" not in str(traced.jaxpr)
    assert f"f32[8,16,{VOCAB}]" in str(again.jaxpr)


def test_weights_of_modalities_are_those_of_a_weighted_mean() -> None:
    base = dataclasses.replace(CONFIG, optim=dataclasses.replace(CONFIG.optim, clip=1e9, eps=1e3))
    whole = dataclasses.replace(base, loss=LossConfig(text=0.0, special=0.0))
    of_targets = SPACE.modality[np.asarray(batch()["tokens"])[:, 1:]]
    only = batch() | {"weights": batch()["weights"] * (of_targets == tokens.IMAGE)}
    weighted, masked = one_step(whole), one_step(base, only)
    assert_close(weighted[2], masked[2])
    np.testing.assert_allclose(weighted[3]["image_loss"], masked[3]["image_loss"], rtol=1e-6)
    assert weighted[3]["text_loss"] > 0  # it is still reported
    # What is doubled everywhere changes nothing.
    twice = one_step(dataclasses.replace(base, loss=LossConfig(text=2.0, image=2.0, special=2.0)))
    assert_close(twice[2], one_step(base)[2])


def test_the_z_loss_pulls_the_denominator_to_one() -> None:
    def log_z(z: float) -> float:
        config = dataclasses.replace(CONFIG, loss=LossConfig(z=z), steps=30)
        mesh, run = start(config)
        with jax.set_mesh(mesh):
            params = randomise(model.shapes(config.model))  # type: ignore[arg-type]
            state = run.init_state(params)
            for _ in range(30):
                params, state, _ = run.step(params, state, batch())
            states, table = model.states(config.model, params, batch()["tokens"][:, :-1])  # type: ignore[arg-type]
            found = losses.next_token(states, table, batch()["tokens"][:, 1:], 1000)[1]
            return float(jnp.square(found).mean())

    assert log_z(1.0) < 0.2 * log_z(0.0)


def test_only_what_is_named_is_trained_and_has_a_state() -> None:
    tower = dataclasses.replace(DECODER, vocab_size=VOCAB, layers=1)
    found = CrossConfig(tower, tower, 1)
    only = dataclasses.replace(CONFIG.optim, train_only=("cross/.*", "embed/tokens@image"))
    before, after, state, _ = one_step(dataclasses.replace(CONFIG, model=found, optim=only))
    moved = paths(jax.tree.map(lambda a, b: np.abs(a - b).max() > 0, before, after))
    assert {path for path, m in moved.items() if m} == {p for p in moved if p.startswith("cross/")} | {"embed/tokens"}
    rows = np.abs(np.asarray(after["embed"]["tokens"]) - before["embed"]["tokens"]).max(1) > 0
    np.testing.assert_array_equal(rows, SPACE.modality == tokens.IMAGE)
    held = sum(leaf.size for leaf in jax.tree.leaves(state))
    trained = sum(
        leaf.size for path, leaf in paths(before).items() if path.startswith("cross/") or path == "embed/tokens"
    )
    assert 2 * trained <= held < 2 * trained + 10


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("cross/.*", "no parameter is named cross/.*; there are embed/positions, embed/tokens"),
        ("embed/tokens@pictures", "must end in @text, @image, @special"),
        ("layers/ffn/up@image", "has no rows of tokens"),
    ],
)
def test_a_pattern_that_names_nothing_is_told(pattern: str, message: str) -> None:
    config = dataclasses.replace(CONFIG.optim, train_only=(pattern,))
    with pytest.raises(ValueError, match=message):
        optim.trained(config, model.shapes(CONFIG.model), SPACE.modality)  # type: ignore[arg-type]


def test_a_step_whose_gradient_is_not_finite_changes_nothing() -> None:
    mesh, run = start(CONFIG)
    poison = batch() | {"weights": batch()["weights"].at[0, 0].set(jnp.inf)}
    with jax.set_mesh(mesh):
        params = randomise(model.shapes(CONFIG.model))  # type: ignore[arg-type]
        params, state, found = run.step(params, run.init_state(params), batch())
        assert found["skipped"] == 0
        before = jax.tree.map(np.array, (params, state))
        params, state, found = run.step(params, state, poison)
        assert found["skipped"] == 1
        jax.tree.map(np.testing.assert_array_equal, before, (params, state))
        _, _, found = run.step(params, state, batch())
        np.testing.assert_allclose(found["learning_rate"], optim.schedule(CONFIG.optim, 10)(1), rtol=1e-6)


def test_the_gradient_of_bfloat16_compute_is_near_that_of_float32() -> None:
    def gradient(dtype: str, seed: int) -> np.ndarray:
        config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, dtype=dtype))  # type: ignore[type-var]
        _, after, state, _ = one_step(config, seed=seed)
        assert {leaf.dtype for leaf in jax.tree.leaves((after, state)) if leaf.ndim} == {jnp.dtype("float32")}
        moment = optim.optax.tree.get_all_with_path(state, "mu")[0][1]
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(moment)])

    def cosine(seed: int) -> float:
        exact, half = gradient("float32", seed), gradient("bfloat16", seed)
        return float(np.dot(exact, half) / np.linalg.norm(exact) / np.linalg.norm(half))

    assert np.median([cosine(seed) for seed in (1, 2, 3)]) > 0.995


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mesh": MeshConfig(4), "batch": 6}, "batch 6 does not divide over the 4 devices of data x fsdp"),
        ({"mesh": MeshConfig(4), "accumulate": 4}, "batch 8 / accumulate 4 does not divide over the 4 devices"),
        ({"mesh": MeshConfig(1, 1, 1, 4), "data": DataConfig(block=16)}, "rows of 15 tokens .* mesh.sequence=4"),
        ({"mesh": MeshConfig(1, 1, 2, 4)}, "has 4 heads, which mesh.tensor x mesh.sequence = 8 does not divide"),
    ],
)
def test_what_does_not_fit_the_mesh_is_told(changes: dict, message: str) -> None:
    config = dataclasses.replace(CONFIG, **changes)
    count = abs(config.mesh.data * config.mesh.tensor * config.mesh.sequence)
    mesh = sharding.make_mesh(config.mesh, [jax.devices()[0]] * count)
    with pytest.raises(ValueError, match=message):
        train_step.require_fitting(config, model.shapes(config.model), mesh)  # type: ignore[arg-type]
