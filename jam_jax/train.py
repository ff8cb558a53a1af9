"""Training, in the order it runs: config, mesh, model, data, step, restore, loop. `python -m jam_jax.train --help`.

One trainer for the parents, continued pretraining with the CM3 objective, and instruction tuning: they differ in their
config alone (arXiv 2309.15564, section 3). An image tokenizer's config goes to `train_vqgan`.
"""

import contextlib
import dataclasses
import json
import math
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jam_jax import config as configs
from jam_jax.config import Config, VqganConfig
from jam_jax.machine import keep_freed_memory


def main(args: list[str] | None = None) -> None:
    """The command; see `train`."""
    config = configs.cli(Config, args, prog="python -m jam_jax.train", description="Train a model from a config file.")
    keep_freed_memory()
    train(config)


def train(config: Config) -> None:
    """Run a config to its last step and leave a model directory at `config.out`.

    ValueError, before anything is written, for what the user can mend.
    """
    if not config.out:
        raise ValueError("give the run a directory: --out runs/NAME")
    if isinstance(config.model, VqganConfig):
        from jam_jax.train_vqgan import train_image_tokenizer

        return train_image_tokenizer(config)

    import jax
    import optax

    from jam_jax import checkpoint, losses, optim, sharding, tokens
    from jam_jax.data.feed import Feed
    from jam_jax.data.mixture import Blocks
    from jam_jax.metrics import MetricsLog
    from jam_jax.models import model
    from jam_jax.progress import bar

    # --- What is trained, and where ---
    out = Path(config.out)
    held = checkpoint.steps(out)
    start = held[-1] if held else 0
    model_config, tokenizer = subject(config, out, resumed=bool(held))
    if start >= config.steps:
        print(f"{out} has done {start} of {config.steps} steps: nothing is left to do")
        return
    space = tokens.load(tokenizer)
    if model_config.vocab_size != space.vocab_size:
        raise ValueError(f"the model has {model_config.vocab_size} vocabulary rows, the tokenizer {space.vocab_size}")
    if config.data.block - 1 > model_config.max_positions:
        raise ValueError(
            f"blocks of {config.data.block} tokens do not fit the model's {model_config.max_positions} positions"
        )
    mesh = sharding.make_mesh(config.mesh)
    shapes = model.shapes(model_config)
    sharding.require_divisible(mesh, shapes)
    spread = mesh.shape["data"] * mesh.shape["fsdp"]
    if config.batch % spread:
        raise ValueError(f"batch {config.batch} does not divide over the {spread} devices of data x fsdp")
    blocks = Blocks(config.data, space, config.seed)
    optimizer = optim.make(config.optim, config.steps)
    rate = optim.schedule(config.optim, config.steps)
    modality = jax.numpy.asarray(space.modality)

    # --- The step ---
    def loss_fn(params: dict, batch: dict) -> tuple[jax.Array, dict]:
        inputs, targets = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
        logits, _ = model.forward(model_config, params, inputs, batch["positions"])
        found = losses.sums(losses.token_nll(logits, targets), targets, batch["weights"], modality)
        return found["loss"] / jax.numpy.maximum(found["tokens"], 1), found

    def step_fn(params: dict, opt_state: Any, batch: dict) -> tuple[dict, Any, dict]:
        grads, found = jax.grad(loss_fn, has_aux=True)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        found["gradient_norm"] = optax.tree.norm(grads)
        return optax.apply_updates(params, updates), opt_state, found

    # --- Parameters and optimizer state: sharded from the first byte ---
    with jax.set_mesh(mesh):
        placed = sharding.parameter_shardings(mesh, shapes)
        everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        state_shapes = jax.eval_shape(optimizer.init, shapes)
        state_placed = optim_shardings(state_shapes, shapes, placed, everywhere)
        if held:
            params = checkpoint.restore(out, "params", shapes, shardings=placed)
            opt_state = checkpoint.restore(out, "opt_state", state_shapes, shardings=state_placed)
        else:
            if config.init:
                _, params = checkpoint.load_model(config.init, shardings=placed)
            else:
                make = jax.jit(lambda key: model.init(model_config, key), out_shardings=placed)
                params = make(jax.random.key(config.seed))
            opt_state = jax.jit(optimizer.init, out_shardings=state_placed)(params)
        step_jit = jax.jit(step_fn, donate_argnums=(0, 1), out_shardings=(placed, state_placed, everywhere))

        # --- The loop ---
        size = model.count(model_config)
        print(f"{size / 1e6:.2f}M parameters, {config.batch} x {config.data.block - 1} tokens a step", flush=True)
        for name, epochs in blocks.epochs(config.steps * config.batch).items():
            print(f"{name}: {epochs:.3g} epochs in {config.steps} steps", flush=True)
        rows = sharding.batch_sharding(mesh)
        with (
            run_directory(out, config, model_config, tokenizer),
            Feed(blocks, config.batch, rows, start_step=start, workers=config.data.workers) as feed,
            MetricsLog(out, start) as log,
            checkpoint.manager(out, keep=config.keep) as checkpoints,
            bar(out.name, config.steps - start) as advance,
        ):
            since, pending = time.monotonic(), []
            for step in range(start + 1, config.steps + 1):
                params, opt_state, found = step_jit(params, opt_state, feed.next())
                feed.running(found["loss"])
                pending.append(found)
                due = step == config.steps or (config.save_every and step % config.save_every == 0)
                if due or step % config.log_every == 0:  # what is saved has been looked at before
                    metrics = summarise(jax.device_get(pending))
                    seconds = time.monotonic() - since
                    metrics["tokens_per_second"] = len(pending) * config.batch * (config.data.block - 1) / seconds
                    metrics["data_wait"] = feed.waited() / seconds
                    metrics["learning_rate"] = float(rate(step - 1))
                    metrics |= {f"epochs/{k}": v for k, v in blocks.epochs(step * config.batch).items()}
                    log.write(step, metrics)
                    if not math.isfinite(metrics["loss"]):
                        raise ValueError(f"the loss is not finite at step {step}: lower --optim.learning-rate")
                    advance(len(pending), describe_metrics(metrics))
                    if seconds > SHORT and metrics["data_wait"] > PATIENCE and step > start + config.log_every:
                        warnings.warn(f"the devices waited for data: {READERS}", stacklevel=1)
                    since, pending = time.monotonic(), []
                if due:
                    checkpoint.save(checkpoints, step, params, opt_state)


# Share of the time that the devices may wait for data before a warning, which comes once.
PATIENCE = 0.05
SHORT = 1.0  # seconds that are too few to judge by
READERS = "raise --data.workers (reader processes), at most to the number of cores"

# Fields that a resumed run may change without becoming another run.
FREE_ON_RESUME = {"steps", "log_every", "save_every", "keep", "mesh", "resume", "out", "init", "tokenizer", "model"}


def subject(config: Config, out: Path, *, resumed: bool) -> tuple[Any, Path]:
    """The model to train and its tokenizer; ValueError where config, `init` and what `out` holds contradict."""
    from jam_jax import checkpoint, tokens
    from jam_jax.models.model import computes_the_same, require_language

    if resumed and not config.resume:
        raise ValueError(f"{out} already holds a run: go on with --resume, or choose another --out")
    if not resumed and out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty and holds no finished checkpoint: remove it, or choose another --out")
    if config.model is None and not config.init:
        raise ValueError("nothing to train: give a model in the config, or a checkpoint with --init DIR")
    origin = str(out) if resumed else config.init
    found = checkpoint.read_model_config(origin) if origin else config.model
    assert found is not None
    require_language(found, origin or "the config's model")
    if config.model and not computes_the_same(found, config.model):
        raise ValueError(f"{origin} holds another model than this config describes")
    if origin and config.tokenizer and tokens.load(config.tokenizer) != tokens.load(checkpoint.tokenizer_dir(origin)):
        raise ValueError(f"{origin} was made with another tokenizer than {config.tokenizer}: leave --tokenizer out")
    if resumed:
        written = json.loads((out / "config.json").read_text(encoding="utf-8"))
        before = configs.to_dict(configs.from_dict(Config, written))  # with the defaults of fields that came later
        now = configs.to_dict(config)
        before["data"].pop("workers"), now["data"].pop("workers")
        if changed := [name for name in now if name not in FREE_ON_RESUME and before[name] != now[name]]:
            raise ValueError(f"{out} was run with another {', '.join(changed)}: resume with the same, or change --out")
    tokenizer = Path(config.tokenizer) if config.tokenizer else checkpoint.tokenizer_dir(origin)
    return config.model or found, tokenizer  # the config's own says how to run it: dtype, rematerialisation


@contextlib.contextmanager
def run_directory(out: Path, config: Config, model_config: Any, tokenizer: Path) -> Iterator[None]:
    """Describe the run in its directory; a run that ends before its first checkpoint leaves nothing behind."""
    from jam_jax import checkpoint

    try:
        checkpoint.describe(out, model_config, tokenizer)
        configs.save_json(dataclasses.replace(config, model=model_config), out / "config.json")
        yield
    except BaseException:
        if not checkpoint.steps(out):
            shutil.rmtree(out, ignore_errors=True)
        raise


def optim_shardings(state: Any, shapes: dict, placed: dict, everywhere: Any) -> Any:
    """Shardings of an optimizer state: its copies of the parameters lie like these, the rest everywhere."""
    import jax

    structure: Any = jax.tree.structure(shapes)

    def is_copy(node: Any) -> bool:
        return jax.tree.structure(node) == structure

    return jax.tree.map(lambda node: placed if is_copy(node) else everywhere, state, is_leaf=is_copy)


def summarise(steps: list[dict]) -> dict[str, float]:
    """Sums of several steps → mean loss and perplexity, over all tokens and apart for text and images."""
    total = {k: sum(float(s[k]) for s in steps) for k in steps[0]}
    result = {"loss": total["loss"] / max(total["tokens"], 1)}
    for name in ("text", "image"):
        if total[f"{name}_tokens"]:
            mean = total[f"{name}_loss"] / total[f"{name}_tokens"]
            result |= {f"{name}_loss": mean, f"{name}_perplexity": math.exp(min(mean, 700))}
    return result | {"gradient_norm": total["gradient_norm"] / len(steps)}


def describe_metrics(metrics: dict[str, float]) -> str:
    """The note behind the progress bar."""
    parts = [f"{name} {metrics[f'{name}_loss']:.3f}" for name in ("text", "image") if f"{name}_loss" in metrics]
    line = f"loss {metrics['loss']:.3f}  {'  '.join(parts)}  {metrics['tokens_per_second']:,.0f} tokens/s"
    return line + (f"  waited {metrics['data_wait']:.0%} of the time for data" if metrics["data_wait"] > 0.01 else "")


if __name__ == "__main__":
    configs.run(main)
