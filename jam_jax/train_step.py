"""The training step as a pure function, with where everything that it touches lies on the mesh.

One step is one update: the gradient of the batch's mean loss, computed in `accumulate` parts one after another, in the
model's compute dtype on float32 parameters; clipped; and applied. A step whose gradient is not finite changes nothing.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jam_jax import losses, optim, sharding
from jam_jax.config import Config
from jam_jax.models import model
from jam_jax.models.model import LanguageConfig
from jam_jax.trees import like, part, paths

Tree = Any
Batch = dict[str, jax.Array]  # tokens int32 [B, T + 1], positions int32 [B, T], weights float32 [B, T]


@dataclasses.dataclass(frozen=True)
class Training:
    """A run's computation on a mesh: shapes (ShapeDtypeStructs) and shardings of its state, and compiled functions."""

    shapes: dict  # of the parameters
    placed: dict  # their shardings
    state_shapes: Tree  # of the optimizer state, over what is trained alone
    state_placed: Tree
    init: Callable[[jax.Array], dict]  # key → parameters
    init_state: Callable[[dict], Tree]  # parameters → optimizer state
    step: Any  # jitted: parameters, state, batch → parameters, state, what was found; the first two are donated
    frozen: int  # weights in products of matrices that are not trained


def prepare(config: Config, model_config: LanguageConfig, modality: np.ndarray, mesh: Mesh) -> Training:
    """The computation of a run, nothing of which is compiled yet. modality int8 [V] as TokenSpace.modality.

    ValueError where the mesh, the batch and the model do not fit each other.
    """
    shapes = model.shapes(model_config)
    require_fitting(config, shapes, mesh)
    chosen = optim.trained(config.optim, shapes, modality)
    optimizer = optim.make(config.optim, config.steps)
    everywhere = NamedSharding(mesh, PartitionSpec())
    placed = sharding.parameter_shardings(mesh, shapes)
    state_shapes = jax.eval_shape(optimizer.init, part(shapes, chosen.paths))
    state_placed = placed_like(state_shapes, part(placed, chosen.paths), everywhere)
    update = functools.partial(_step, config, model_config, jnp.asarray(modality), chosen, optimizer, placed)
    return Training(
        shapes,
        placed,
        state_shapes,
        state_placed,
        jax.jit(functools.partial(model.init, model_config), out_shardings=placed),
        jax.jit(lambda params: optimizer.init(part(params, chosen.paths)), out_shardings=state_placed),
        jax.jit(update, donate_argnums=(0, 1), out_shardings=(placed, state_placed, everywhere)),
        frozen(shapes, chosen),
    )


def frozen(shapes: dict, chosen: optim.Trained) -> int:
    """Weights in products of matrices that are not trained; a table counts where it is the output head's."""
    flat = paths(shapes)
    head = "unembed" if "unembed" in flat else "embed/tokens"
    products = [path for path in flat if path == head or not path.startswith(("embed/", "unembed"))]
    return sum(
        flat[path].size for path in products if path not in chosen.paths and not path.endswith(("scale", "bias"))
    )


def require_fitting(config: Config, shapes: dict, mesh: Mesh) -> None:
    """ValueError where the mesh does not divide a parameter, a part of the batch or the length of a row."""
    sharding.require_divisible(mesh, shapes)
    sharding.require_rows(mesh, config.batch, config.accumulate)
    length = config.data.block - 1
    if length % mesh.shape["sequence"]:
        raise ValueError(
            f"rows of {length} tokens (data.block - 1) do not divide over mesh.sequence={mesh.shape['sequence']}"
        )


def placed_like(state: Tree, placed: dict, everywhere: NamedSharding) -> Tree:
    """Shardings of an optimizer state: its copies of the parameters lie like these, the rest everywhere."""
    structure: Any = jax.tree.structure(placed)

    def is_copy(node: Any) -> bool:
        return jax.tree.structure(node) == structure

    return jax.tree.map(lambda node: placed if is_copy(node) else everywhere, state, is_leaf=is_copy)


def restarts(config: Config) -> bool:
    """Whether rows hold several documents, each with positions from 0: else attention needs no mask of documents."""
    return any(source.cut == "packed" or source.within_documents for source in config.data.sources)


def _step(
    config: Config,
    model_config: LanguageConfig,
    modality: jax.Array,
    chosen: optim.Trained,
    optimizer: optax.GradientTransformation,
    placed: dict,
    params: dict,
    opt_state: Tree,
    batch: Batch,
) -> tuple[dict, Tree, dict[str, jax.Array]]:
    mine, flat = part(params, chosen.paths), paths(params)
    of_kind = jnp.asarray([getattr(config.loss, name) for name in losses.MODALITIES], jnp.float32)  # by its number
    even = config.loss.text == config.loss.image == config.loss.special == 1
    targets = batch["tokens"][:, 1:]
    weights = batch["weights"] if even else batch["weights"] * of_kind[modality[targets]]
    total = jnp.maximum(weights.sum(), 1 if even else jnp.finfo(jnp.float32).tiny)

    def loss_fn(mine: dict, rows: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        whole = like(params, flat | paths(mine))
        tokens, targets = rows["tokens"][:, :-1], rows["tokens"][:, 1:]
        positions = rows["positions"] if restarts(config) else None
        states, table = model.states(model_config, whole, tokens, positions)
        nll, log_z = losses.next_token(states, table, targets, config.loss.chunk)
        loss = (nll * rows["of_loss"]).sum()
        if config.loss.z:
            loss += config.loss.z * (jnp.square(log_z) * rows["of_loss"]).sum()
        return loss / total, losses.sums(nll, targets, rows["weights"], modality)

    gradient = jax.grad(loss_fn, has_aux=True)
    grads, found = _accumulated(
        gradient, mine, batch | {"of_loss": weights}, config.accumulate, part(placed, chosen.paths)
    )
    grads = _rows_alone(grads, chosen)
    norm = optax.tree.norm(grads)
    updates, new_state = optimizer.update(grads, opt_state, mine)
    updated = optax.apply_updates(mine, _rows_alone(updates, chosen))
    finite = jnp.isfinite(norm) & jnp.isfinite(found["loss"])
    updated, new_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), (updated, new_state), (mine, opt_state)
    )
    rate = optim.schedule(config.optim, config.steps)
    found |= {
        "gradient_norm": norm,
        "skipped": 1 - finite.astype(jnp.float32),
        "learning_rate": jnp.asarray(rate(optax.tree.get_all_with_path(opt_state, "count")[0][1]), jnp.float32),
    }
    return like(params, flat | paths(updated)), new_state, found


def _accumulated(
    gradient: Callable, mine: dict, batch: Batch, parts: int, placed: dict
) -> tuple[dict, dict[str, jax.Array]]:
    """Gradients and sums of a batch, summed over its parts, of which one is computed at a time."""

    def of(rows: Batch) -> tuple[dict, dict[str, jax.Array]]:
        grads, found = gradient(mine, rows)
        return jax.lax.with_sharding_constraint(grads, placed), found

    if parts == 1:
        return of(batch)

    def split(x: jax.Array) -> jax.Array:
        """Every part takes rows from every device, so none has to move."""
        return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)

    def add(so_far: Tree, rows: Batch) -> tuple[Tree, None]:
        rows = {name: sharding.shard(x, "batch", *[None] * (x.ndim - 1)) for name, x in rows.items()}
        return jax.tree.map(jnp.add, so_far, of(rows)), None

    shapes = jax.eval_shape(of, jax.tree.map(lambda x: split(x)[0], batch))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    zeros = (jax.lax.with_sharding_constraint(zeros[0], placed), zeros[1])
    return jax.lax.scan(add, zeros, {name: split(x) for name, x in batch.items()})[0]


def _rows_alone(grads: dict, chosen: optim.Trained) -> dict:
    """Gradients or updates with zeros where only some rows of a table are trained."""
    flat = paths(grads)
    return like(grads, flat | {path: jnp.where(mask[:, None], flat[path], 0) for path, mask in chosen.rows.items()})
