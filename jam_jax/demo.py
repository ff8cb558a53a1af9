"""`python -m jam_jax.demo --model DIR`: a page on which a question is asked and its illustrated answer streams out.

One answer is written at a time, the others wait in a queue; what finds the queue full or asks too much is told so in
one line, and the page (by Gradio, requirements-demo.txt) goes on.
"""

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jam_jax import config
from jam_jax.demo_desk import Desk, Options
from jam_jax.machine import keep_freed_memory, keep_programs


def main(args: Sequence[str] | None = None) -> None:
    """The command."""
    options = config.cli(Options, args, prog="python -m jam_jax.demo", description=__doc__ or "")
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("the page needs Gradio: pip install -r requirements-demo.txt")
    keep_freed_memory()
    import jam_jax
    from jam_jax import demo_page

    keep_programs()
    model = jam_jax.load(options.model, options.precision, rows=1)
    model.tokenizer  # noqa: B018  what is missing is told before the page is there
    find = None
    if options.retrieve:
        from jam_jax.retrieval.prompts import finder

        find = finder(options.bank, options.clip, model.space, options.retrieve)
        find([])
    with tempfile.TemporaryDirectory(prefix="jam-demo-") as downloads:
        page = demo_page.build(Desk(model, options, Path(downloads), find))
        print(f"the page: {demo_page.serve(page, options.host, options.port, downloads)}", flush=True)
        page.block_thread()


if __name__ == "__main__":
    config.run(main)
