"""The page of `python -m jam_jax.demo`: what stands on it and what its buttons do. The only door to Gradio."""

from collections.abc import Iterator
from html import escape
from typing import Any

import gradio

from jam_jax.demo_desk import NAMES, Asked, Desk
from jam_jax.html import DOCUMENT_STYLE
from jam_jax.retrieval.sheet import STYLE as SHEET_STYLE

# Documents in the colours of Gradio's theme, light or dark, whichever the visitor has chosen. On the line about the
# answer Gradio would fade the text of who waits, cut off the place in the queue, and lay "Error" over what went wrong.
STYLE = """
.gradio-container { --ink: var(--body-text-color); --soft: var(--body-text-color-subdued);
  --line: var(--border-color-primary); --card: var(--block-background-fill); }
.gradio-container main { width: 100%; max-width: 60rem; margin: 0 auto; }
#note { min-height: 1.6rem; } #note .pending { opacity: 1; } #answer .document { margin: 0; }
#note [data-testid=status-tracker] { overflow: visible; }
#note [data-testid=status-tracker] > :not(.progress-text) { display: none; }
#note .progress-text { transform: none; padding: var(--block-padding); background: none; font: inherit; }
.fault { color: var(--error-text-color); background: var(--error-background-fill); border-radius: .4rem;
  border: 1px solid var(--error-border-color); padding: .5rem .8rem; overflow-wrap: anywhere; }
"""
WAITING = "Waiting …"
# What the browser itself does to the line about the answer: at Stop, and where the request did not even come to wait.
STOPPED = "note => note && note.endsWith(' …') ? 'Stopped: ' + note.slice(0, -2) : note"
REFUSED = f"note => note == '{WAITING}' ? '' : note"


def build(desk: Desk) -> Any:
    """The page, a `gradio.Blocks`."""

    def respond(*values: Any) -> Iterator[tuple[Any, ...]]:
        try:
            for body, sources, note, path in desk.answer(Asked(*values)):
                yield body, sources, escape(note), gradio.DownloadButton(value=path, visible=path is not None)
        except Exception as error:
            told = str(error) if isinstance(error, ValueError) else "This could not be answered; the terminal says why."
            yield "", "", f'<p class="fault" role="alert">{escape(told)}</p>', gradio.DownloadButton(visible=False)
            # For programs that ask; a visitor reads the line above.
            raise gradio.Error(told, visible=False, print_exception=not isinstance(error, ValueError)) from error

    with gradio.Blocks(title="jam_jax", analytics_enabled=False) as page:
        gradio.HTML(f"<style>{STYLE}{DOCUMENT_STYLE}{SHEET_STYLE}</style><h1>Ask, and get text and pictures</h1>")
        question = gradio.Textbox(label="Question", lines=2, max_lines=8, max_length=None, autofocus=True)
        with gradio.Row():
            ask = gradio.Button("Ask", variant="primary", min_width=100)
            stop = gradio.Button("Stop", min_width=100)
        inputs = [question, *_settings(desk)]
        note = gradio.HTML(elem_id="note")
        out = gradio.HTML(elem_id="answer")
        download = gradio.DownloadButton("Download", visible=False)
        sources = gradio.HTML(elem_id="sources")
        triggers = [ask.click, question.submit]
        gradio.on(triggers, None, None, note, js=f"() => '{WAITING}'", queue=False)
        # Gradio's own sign of progress says the place in the queue. It stands on the line about the answer: over the
        # answer it would lie, and blink with every part of it.
        running = gradio.on(
            triggers, respond, inputs, [out, sources, note, download], trigger_mode="once", concurrency_limit=1,
            show_progress="minimal", show_progress_on=note,
        )  # fmt: skip
        running.failure(None, note, note, js=REFUSED, queue=False)
        stop.click(None, note, note, js=STOPPED, cancels=running)
    page.queue(max_size=desk.options.queue)
    return page


def _settings(desk: Desk) -> list[Any]:
    """What a visitor may set, in the order of `Asked`; of pictures only for a model that draws them."""
    draws = desk.pictures > 0
    with gradio.Accordion("How to answer", open=False):
        return [
            gradio.Radio(desk.modes, value=desk.modes[0], label="What to do"),
            gradio.Number(0, label=NAMES["seed"], precision=0),
            gradio.Slider(0, 2, 0.7, label=NAMES["temperature"]),
            gradio.Slider(0.05, 1, 0.9, label=NAMES["text_top_p"]),
            gradio.Slider(0.05, 1, 0.9, label=NAMES["image_top_p"], visible=draws),
            gradio.Slider(1, 10, 3.5, label=NAMES["guidance"], visible=draws),
            gradio.Slider(0, max(desk.pictures, 1), desk.pictures, step=1, label=NAMES["pictures"], visible=draws),
        ]


def serve(page: Any, host: str, port: int, downloads: str) -> str:
    """Serve the page from threads of its own, at port 0 at any that is free, and give its address.

    ValueError if the port is taken.
    """
    try:
        _, address, _ = page.launch(
            server_name=host, server_port=port or None, allowed_paths=[downloads], quiet=True,
            prevent_thread_lock=True, run_history=False, footer_links=["api", "gradio"],
        )  # fmt: skip
    except OSError as error:
        raise ValueError(f"cannot listen at {host} port {port}: {error}") from error
    return address.rstrip("/")
