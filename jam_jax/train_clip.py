"""Training of a small CLIP, in the order it runs: pairs, tokenizer, mesh, step, loop, measure.

The contrastive loss of CLIP (arXiv 2103.00020, figure 3) over the pairs of a batch. For photographs convert a published
CLIP instead: this one is for pictures that none of those has seen, such as the built-in world's.
"""

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from jam_jax import checkpoint, optim, sharding
from jam_jax import config as configs
from jam_jax.config import ClipConfig, Config
from jam_jax.data import formats
from jam_jax.data.clip_pictures import squares
from jam_jax.data.clip_text import ClipTokenizer, copy_tokenizer, train_clip_tokenizer
from jam_jax.metrics import MetricsLog
from jam_jax.models import clip
from jam_jax.progress import bar

LARGEST_SCALE = math.log(100)  # of the logits, the original's
HELD_OUT = 256  # pairs on which the finished CLIP is measured
Pairs = tuple[list[str], np.ndarray]  # captions, and their pictures uint8 [n, R, R, 3]


def train_clip(config: Config) -> None:
    """Train `config.model` on the captioned pictures of `config.data.pictures`; leaves a model directory at `out`.

    Its text tokenizer is `config.tokenizer`'s, or is learned from the captions. All pictures are held in memory,
    3 R² bytes each. Nothing is left behind by a run that fails. ValueError for what the user can mend.
    """
    assert isinstance(config.model, ClipConfig)
    unused = ("resume", "init", "save_every", "keep")
    if given := [name for name in unused if getattr(config, name) != getattr(Config(), name)]:
        raise ValueError(f"a CLIP's training has no {', '.join(given)}: leave these options out")
    if not config.data.pictures:
        raise ValueError("a CLIP needs captioned pictures: give directories with --data.pictures")
    mesh = sharding.make_mesh(config.mesh)
    sharding.require_rows(mesh, config.batch)
    rows, everywhere = sharding.batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())

    with checkpoint.new_directory(config.out) as out, jax.set_mesh(mesh), tempfile.TemporaryDirectory() as directory:
        print("reading pictures", flush=True)
        captions, pictures = load_pairs(config.data.pictures, "train", config.model)
        if config.tokenizer:
            copy_tokenizer(Path(config.tokenizer), Path(directory))
        else:
            train_clip_tokenizer(captions, Path(directory), config.model.vocab_size)
        tokenizer = ClipTokenizer(directory)
        model = dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size, end_of_text=tokenizer.end)
        configs.save_json(config, out / "config.json")
        checkpoint.describe(out, model, directory)
        tokens = trimmed(tokenizer.encode(captions, model.context), tokenizer.end)

        optimizer = optim.make(config.optim, config.steps)
        params = jax.jit(lambda key: clip.init(model, key), out_shardings=everywhere)(jax.random.key(config.seed))
        opt_state = jax.jit(optimizer.init, out_shardings=everywhere)(params)
        step_fn = jax.jit(make_step(model, optimizer), donate_argnums=(0, 1), out_shardings=everywhere)

        print(f"{len(captions):,} pairs, {tokenizer.vocab_size} ids of text", flush=True)
        with bar(Path(config.out).name, config.steps) as advance, MetricsLog(out) as log:
            pending, since = [], time.monotonic()
            for step in range(1, config.steps + 1):
                # A batch is a function of the seed and the step alone.
                chosen = np.random.default_rng((config.seed, step)).integers(0, len(captions), config.batch)
                batch = jax.device_put((tokens[chosen], pictures[chosen]), (rows, rows))
                params, opt_state, found = step_fn(params, opt_state, *batch)
                pending.append(found)
                if step % config.log_every == 0 or step == config.steps:
                    metrics = {k: float(np.mean([f[k] for f in jax.device_get(pending)])) for k in pending[0]}
                    metrics["pairs_per_second"] = len(pending) * config.batch / (time.monotonic() - since)
                    log.write(step, metrics)
                    if not math.isfinite(metrics["loss"]):
                        raise ValueError(f"the loss is not finite at step {step}: lower --optim.learning-rate")
                    advance(len(pending), "  ".join(f"{k} {v:,.4g}" for k, v in metrics.items()))
                    pending, since = [], time.monotonic()
            if held_out := load_held_out(config.data.pictures, model):
                metrics = measure(model, params, tokenizer.encode(held_out[0], model.context), held_out[1])
                log.write(config.steps, metrics)
                print(f"held out: {metrics['held_out_right']:.1%} of the pictures find their own caption", flush=True)
        with checkpoint.manager(out) as checkpoints:
            checkpoint.save(checkpoints, config.steps, params)


def load_pairs(sources: Sequence[str], split: str, model: ClipConfig, limit: int | None = None) -> Pairs:
    """The first `limit` captioned pictures of a split of all sources; ValueError if there are none."""
    captions: list[str] = []
    encoded: list[bytes] = []
    for source in sources:
        for document in formats.read(source, split):
            if limit is not None and len(captions) == limit:
                break
            if document.texts and document.pictures:
                captions.append(" ".join(document.texts))
                encoded.append(document.pictures[0])
    if not captions:
        raise ValueError(f"there are no pictures with captions in the split {split!r} of {', '.join(sources)}")
    return captions, squares(model, encoded)


def load_held_out(sources: Sequence[str], model: ClipConfig) -> Pairs | None:
    """Up to HELD_OUT pairs of the `test` splits; None, with a note, where the sources have no such split."""
    try:
        return load_pairs(sources, "test", model, HELD_OUT)
    except ValueError as error:
        print(f"this CLIP will not be measured on held-out pairs: {error}", flush=True)
        return None


def trimmed(tokens: np.ndarray, end: int) -> np.ndarray:
    """Rows of ids int32 [n, T] without what follows the longest text."""
    return tokens[:, : int((tokens == end).argmax(axis=1).max()) + 1]


def make_step(model: ClipConfig, optimizer: optax.GradientTransformation) -> Callable:
    """(params, opt_state, tokens [B, T], pictures uint8 [B, R, R, 3]) → params, opt_state, what was found."""

    def loss_fn(params: dict, tokens: jax.Array, pictures: jax.Array) -> tuple[jax.Array, dict]:
        scores = compare(model, params, tokens, pictures)
        own = jnp.arange(len(tokens))
        both = [optax.softmax_cross_entropy_with_integer_labels(s, own).mean() for s in (scores, scores.T)]
        return sum(both) / 2, {"right": (scores.argmax(axis=0) == own).mean()}

    def step(params: dict, opt_state: Any, tokens: jax.Array, pictures: jax.Array) -> tuple[dict, Any, dict]:
        (loss, found), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, tokens, pictures)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        params = params | {"logit_scale": jnp.minimum(params["logit_scale"], LARGEST_SCALE)}
        return params, opt_state, {"loss": loss} | found

    return step


def compare(model: ClipConfig, params: dict, tokens: jax.Array, pictures: jax.Array) -> jax.Array:
    """Logits [A, B] of texts [A, T] and pictures uint8 [B, R, R, 3]."""
    normalised = (pictures / 255.0 - jnp.array(model.mean)) / jnp.array(model.std)
    return clip.logits(params, clip.embed_texts(model, params, tokens), clip.embed_pictures(model, params, normalised))


def measure(model: ClipConfig, params: dict, tokens: np.ndarray, pictures: np.ndarray) -> dict[str, float]:
    """Of held-out pictures, the share whose own caption, or an equal one, is the most similar."""
    scores = np.asarray(jax.jit(compare, static_argnums=0)(model, params, tokens, pictures))
    best = tokens[scores.argmax(axis=0)]
    return {"held_out_right": float((best == tokens).all(axis=1).mean())}
