"""Training of an image tokenizer, in the order it runs: pictures, mesh, step, first half, codebook, second half.

The first half of the steps trains encoder and decoder with nothing between them; k-means then starts the codebook,
and the second half trains all three (equation 4 of VQGAN, arXiv 2012.09841). A codebook trained from random entries
collapses or blurs the pictures; this one uses all its entries from its first step.

The k-means is over the pixels that a code covers, and an entry starts as the mean latent of its cluster. Clusters of
latents would be finer where their surroundings differ: a hundred codes for a plain background, which a language model
must then tell apart.

The loss is L2 + L1 on pixels. The original adds a perceptual and an adversarial loss, which need a network trained on
photographs and days of training: for photographs convert a published image tokenizer instead.
"""

import itertools
import math
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
from jam_jax.config import Config, VqganConfig
from jam_jax.data import formats
from jam_jax.data.formats.pictures import png, read_picture
from jam_jax.metrics import MetricsLog
from jam_jax.models import codebook as codebooks
from jam_jax.models import vqgan
from jam_jax.progress import bar

COMMITMENT = 0.25  # weight of the commitment loss, the original's
LATENTS_PER_CODE = 64  # for k-means
HELD_OUT = 256  # pictures on which the finished tokenizer is measured
MEASURED_AT_ONCE = 64


def train_image_tokenizer(config: Config) -> None:
    """Train `config.model` on the pictures of `config.data.pictures`; leaves a model directory at `config.out`.

    All pictures are held in memory, 3 R² bytes each. Beside the model the directory holds config.json, metrics.jsonl
    and reconstructions.png (held-out pictures above what came back). The same config gives the same model. Nothing is
    left behind by a run that fails. ValueError if there are no pictures, or for a directory that is not empty.
    """
    assert isinstance(config.model, VqganConfig)
    model, half = config.model, config.steps // 2
    unused = ("resume", "init", "tokenizer", "save_every", "keep")
    if given := [name for name in unused if getattr(config, name) != getattr(Config(), name)]:
        raise ValueError(f"an image tokenizer's training has no {', '.join(given)}: leave these options out")
    if model.codes_by != "nearest":
        raise ValueError(f"only the nearest-entry kind is trained here, not codes_by={model.codes_by!r}: convert one")
    if not config.data.pictures:
        raise ValueError("an image tokenizer needs pictures: give directories with --data.pictures")
    mesh = sharding.make_mesh(config.mesh)
    sharding.require_rows(mesh, config.batch)
    rows, everywhere = sharding.batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    key = jax.random.key(config.seed)

    with checkpoint.new_directory(config.out) as out, jax.set_mesh(mesh):
        print("reading pictures", flush=True)
        train = load_pictures(config.data.pictures, "train", model.resolution)
        held_out = load_held_out(config.data.pictures, model.resolution)
        configs.save_json(config, out / "config.json")
        checkpoint.describe(out, model, None)

        optimizer = optim.make(config.optim, config.steps)
        params = jax.jit(lambda key: vqgan.init(model, key), out_shardings=everywhere)(key)
        opt_state = jax.jit(optimizer.init, out_shardings=everywhere)(params)
        # No `lax.scan` over steps: inside a loop XLA runs convolutions on a CPU fifty times as slowly.
        step_fn = jax.jit(make_step(model, optimizer), donate_argnums=(0, 1), out_shardings=everywhere)

        print(f"{len(train):,} pictures, each to be {model.grid**2} of {model.codes} codes", flush=True)
        with bar(Path(config.out).name, config.steps) as advance, MetricsLog(out) as log:
            pending, since = [], time.monotonic()
            for step in range(1, config.steps + 1):
                if step == half + 1:
                    params["codebook"] = start_codebook(config, params, train)
                # A batch is a function of the seed and the step alone.
                chosen = np.random.default_rng((config.seed, step)).integers(0, len(train), config.batch)
                batch = jax.device_put(train[chosen], rows)
                params, opt_state, found = step_fn(params, opt_state, batch, jnp.array(step > half))
                pending.append(found)
                if step % config.log_every == 0 or step == config.steps:
                    metrics = summarise(jax.device_get(pending), quantised=step > half)
                    metrics["pictures_per_second"] = len(pending) * config.batch / (time.monotonic() - since)
                    log.write(step, metrics)
                    if not math.isfinite(metrics["loss"]):
                        raise ValueError(f"the loss is not finite at step {step}: lower --optim.learning-rate")
                    advance(len(pending), "  ".join(f"{k} {v:,.4g}" for k, v in metrics.items()))
                    pending, since = [], time.monotonic()
            if len(held_out):
                metrics, sheet = measure(model, params, held_out)
                log.write(config.steps, metrics)
                (out / "reconstructions.png").write_bytes(png(sheet))
                print("  ".join(f"{k} {v:,.4g}" for k, v in metrics.items()), flush=True)
        with checkpoint.manager(out) as checkpoints:
            checkpoint.save(checkpoints, config.steps, params)


def load_pictures(sources: Sequence[str], split: str, resolution: int, limit: int | None = None) -> np.ndarray:
    """The first `limit` pictures of a split of all sources, uint8 [n, R, R, 3]; ValueError if there are none."""
    encoded = (p for source in sources for document in formats.read(source, split) for p in document.pictures)
    pictures = [read_picture(data, resolution) for data in itertools.islice(encoded, limit)]
    if not pictures:
        raise ValueError(f"there are no pictures in the split {split!r} of {', '.join(sources)}")
    return np.stack(pictures)


def load_held_out(sources: Sequence[str], resolution: int) -> np.ndarray:
    """Up to HELD_OUT pictures of the `test` splits; none, with a note, where the sources have no such split."""
    try:
        return load_pictures(sources, "test", resolution, HELD_OUT)
    except ValueError as error:
        print(f"the tokenizer will not be measured on held-out pictures: {error}", flush=True)
        return np.empty((0, resolution, resolution, 3), np.uint8)


def make_step(model: VqganConfig, optimizer: optax.GradientTransformation) -> Callable:
    """(params, opt_state, pictures uint8 [B, R, R, 3], quantised bool []) → params, opt_state, what was found.

    One program for both halves, since compiling takes a good part of a short run.
    """

    def loss_fn(params: dict, batch: jax.Array, quantised: jax.Array) -> tuple[jax.Array, dict]:
        pictures = vqgan.from_pixels(batch)
        z = vqgan.latents(model, params, pictures)
        entries, codes, codebook_loss, commitment = codebooks.quantise(params["codebook"], z)
        drawn = vqgan.pixels(model, params, jnp.where(quantised, entries, z))
        l1, l2 = jnp.abs(drawn - pictures).mean(), jnp.square(drawn - pictures).mean()
        found = {"l1": l1, "l2": l2, "commitment": commitment, "usage": jnp.bincount(codes.ravel(), length=model.codes)}
        loss = l1 + l2 + quantised * (codebook_loss + COMMITMENT * commitment)
        return loss, found

    def step(params: dict, opt_state: Any, batch: jax.Array, quantised: jax.Array) -> tuple[dict, Any, dict]:
        grads, found = jax.grad(loss_fn, has_aux=True)(params, batch, quantised)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, found

    return step


def start_codebook(config: Config, params: dict, pictures: np.ndarray) -> jax.Array:
    """A codebook [codes, code_width]: mean latents of the clusters of what a code covers in some of the pictures."""
    model = config.model
    assert isinstance(model, VqganConfig)
    rng = np.random.default_rng((config.seed, 0))
    batches = -(-model.codes * LATENTS_PER_CODE // (model.grid**2 * config.batch))
    latents = jax.jit(lambda params, batch: vqgan.latents(model, params, vqgan.from_pixels(batch)))
    chosen = [pictures[rng.integers(0, len(pictures), config.batch)] for _ in range(batches)]
    z = jnp.concatenate([latents(params, batch) for batch in chosen]).reshape(-1, model.code_width)
    covered = vqgan.from_pixels(jnp.asarray(cells(np.concatenate(chosen), model.downsampling)))
    centres = codebooks.k_means(jax.random.key(config.seed), covered, model.codes)
    return codebooks.means(z, codebooks.nearest(centres, covered), model.codes)


def cells(pictures: np.ndarray, side: int) -> np.ndarray:
    """Pictures [n, R, R, 3] → the squares of `side` pixels that codes cover, [n (R / side)², 3 side²], in order."""
    n, grid = len(pictures), pictures.shape[1] // side
    return pictures.reshape(n, grid, side, grid, side, 3).swapaxes(2, 3).reshape(n * grid * grid, -1)


def summarise(steps: list[dict], *, quantised: bool) -> dict[str, float]:
    """Means over several steps; with a codebook also how much of it is used (perplexity: exp of the entropy)."""
    mean = {k: float(np.mean([s[k] for s in steps])) for k in ("l1", "l2", "commitment")}
    metrics = {"loss": mean["l1"] + mean["l2"], "l1": mean["l1"], "psnr": psnr(mean["l2"])}
    return metrics | (
        codebook_metrics(sum(s["usage"] for s in steps)) | {"commitment": mean["commitment"]} if quantised else {}
    )


def codebook_metrics(usage: np.ndarray) -> dict[str, float]:
    """How many entries are used, and the perplexity (exp of the entropy) of their use; usage int [codes]."""
    share = usage[usage > 0] / usage.sum()
    return {"codes_used": float(len(share)), "code_perplexity": float(np.exp(-(share * np.log(share)).sum()))}


def psnr(l2: float) -> float:
    """Peak signal to noise ratio in decibels of a mean squared error on pixels from -1 to 1."""
    return 10 * math.log10(4 / max(l2, 1e-12))


def measure(model: VqganConfig, params: dict, pictures: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """Metrics of uint8 pictures [n, R, R, 3] that went through the codes, and a sheet of some with what came back."""

    @jax.jit
    def through(params: dict, batch: jax.Array) -> tuple[jax.Array, jax.Array]:
        codes = vqgan.encode(model, params, vqgan.from_pixels(batch))
        return codes, vqgan.to_pixels(vqgan.decode(model, params, codes))

    results = [through(params, pictures[i : i + MEASURED_AT_ONCE]) for i in range(0, len(pictures), MEASURED_AT_ONCE)]
    codes, drawn = (np.concatenate([np.asarray(r[k]) for r in results]) for k in (0, 1))
    l2 = float(np.square((drawn.astype(np.float32) - pictures) / 127.5).mean())
    metrics = {"held_out_psnr": psnr(l2)} | {
        f"held_out_{k}": v for k, v in codebook_metrics(np.bincount(codes.ravel(), minlength=model.codes)).items()
    }
    sheet = [np.concatenate(half[:16], axis=1) for half in (pictures, drawn)]
    return metrics, np.concatenate(sheet)
