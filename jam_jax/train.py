"""Training, in the order it runs: config, mesh, model, data, restore, loop. `python -m jam_jax.train --help`.

One trainer for the parents, continued pretraining with the CM3 objective, and instruction tuning: they differ in their
config alone (arXiv 2309.15564, section 3). An image tokenizer's config goes to `train_vqgan`, a CLIP's to `train_clip`.
"""

from pathlib import Path

from jam_jax import config as configs
from jam_jax import hosts
from jam_jax.config import ClipConfig, Config, VqganConfig
from jam_jax.machine import keep_freed_memory


def main(args: list[str] | None = None, *, alone: bool = False) -> None:
    """The command; see `train`.

    `alone`: this is all that the process does, so it joins the others of its run, and SIGTERM lets it save and end.
    """
    config = configs.cli(Config, args, prog="python -m jam_jax.train", description="Train a model from a config file.")
    if alone:
        hosts.start()
        if not isinstance(config.model, VqganConfig | ClipConfig):  # which save their end alone, and just end
            hosts.save_on_sigterm()
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
    if isinstance(config.model, ClipConfig):
        from jam_jax.train_clip import train_clip

        return train_clip(config)

    import jax

    from jam_jax import checkpoint, sharding, tokens, train_step
    from jam_jax.data.feed import Feed
    from jam_jax.data.mixture import Blocks
    from jam_jax.metrics import MetricsLog
    from jam_jax.models import model
    from jam_jax.progress import bar
    from jam_jax.train_eval import Evaluation
    from jam_jax.train_log import Tally, complain, line, profile
    from jam_jax.train_run import Kept, restored, run_directory, subject

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
    run = train_step.prepare(config, model_config, space.modality, mesh)
    blocks = Blocks(config.data, space, config.seed)

    # --- Parameters and optimizer state: sharded from the first byte ---
    with jax.set_mesh(mesh):
        if held:
            params, opt_state = restored(out, run)
        else:
            if config.init:
                _, params = checkpoint.load_model(config.init, shardings=run.placed)
            else:
                params = run.init(jax.random.key(config.seed))
            opt_state = run.init_state(params)

        # --- The loop ---
        size = model.count(model_config)
        print(f"{size / 1e6:.2f}M parameters, {config.batch} x {config.data.block - 1} tokens a step", flush=True)
        for name, epochs in blocks.epochs(config.steps * config.batch).items():
            print(f"{name}: {epochs:.3g} epochs in {config.steps} steps", flush=True)
        rows = sharding.batch_sharding(mesh)
        evaluation = Evaluation(config.evaluate, out, model_config, space, mesh, start)
        kept = Kept(config, blocks, evaluation)
        with (
            run_directory(out, config, model_config, tokenizer),
            Feed(blocks, config.batch, rows, start_step=start, workers=config.data.workers) as feed,
            MetricsLog(out, start) as log,
            checkpoint.manager(out, keep=config.keep, also=kept.for_good) as checkpoints,
            profile(config.profile, out / "profile") as about_to_run,
            bar(out.name, config.steps, start) as advance,
        ):
            if held and not hosts.all_say(not evaluation.missed(start)):
                log.write(start, evaluation.measure(params, start))
            tally = Tally(config, model_config, run.frozen)
            for step in range(start + 1, config.steps + 1):
                about_to_run(step, params)
                params, opt_state, found = run.step(params, opt_state, feed.next())
                feed.running(found["loss"])
                tally.add(found)
                stop = hosts.asked_to_stop(step)
                due = stop or kept.due(step)
                if due or step % config.log_every == 0:  # what is saved has been looked at before
                    done, metrics = len(tally), tally.figures(feed.waited())
                    tally.require_progress(config.max_skipped, step)
                    advance(done, line(metrics))
                    if step > start + done:
                        complain(metrics, done)
                    metrics |= {f"epochs/{k}": v for k, v in blocks.epochs(step * config.batch).items()}
                    log.write(step, metrics)
                    tally.restart()
                if due:
                    checkpoint.save(checkpoints, step, params, opt_state)
                if stop:
                    break
                if evaluation.due(step):  # what may take long comes after the save
                    log.write(step, evaluation.measure(params, step))
                    tally.restart()
        if stop:
            print(f"{out}: told to stop, saved step {step}; go on with --resume auto", flush=True)


if __name__ == "__main__":
    configs.run(lambda: main(alone=True))
