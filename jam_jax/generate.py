"""`python -m jam_jax.generate`: illustrated answers in the terminal, as a page, as pictures, and as JSON."""

import dataclasses
import io
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jam_jax import config, progress
from jam_jax.decode.settings import Settings
from jam_jax.html import document_html, page
from jam_jax.machine import keep_freed_memory

if TYPE_CHECKING:
    from PIL import Image

    from jam_jax.api import Answer

SIDE = 256  # pixels that a shown picture has at least; smaller ones are enlarged by a whole factor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Settings):
    """Answer questions with text and pictures, draw captions, or go on with texts."""

    model: str  # model directory
    prompt: tuple[str, ...] = ()  # what to answer; may be given more than once
    prompts: str = ""  # a text file with one prompt a line
    # answer: a question, answered with text and pictures; picture: a caption, drawn; text: a text, gone on with
    mode: Literal["answer", "picture", "text"] = "answer"
    out: str = ""  # directory for the page, the pictures and the JSON; empty: a new one, runs/generated-N
    seed: int = 0  # the same seed gives the same answers
    rows: int = 16  # prompts decoded at once


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; ValueError for a user's mistake, before anything is written."""
    rest, prompts = gather(sys.argv[1:] if args is None else args)
    options = config.cli(Options, rest, prog="python -m jam_jax.generate")
    keep_freed_memory()
    prompts += _read_prompts(options.prompts)
    if not prompts:
        raise ValueError('there is nothing to answer: give --prompt "..." or --prompts FILE')
    out = _output(options.out)
    config.check_seed(options.seed)
    import jam_jax
    from jam_jax.checkpoint import new_directory

    settings = Settings(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Settings)})
    model = jam_jax.load(options.model)
    about = {"model": options.model, "mode": options.mode, "seed": options.seed}
    with new_directory(out) as aside:
        with progress.bar("answers", len(prompts)) as advance:
            answers = model.generate(prompts, options.mode, settings, options.seed, rows=options.rows, advance=advance)
        write(aside, answers, about | {"settings": dataclasses.asdict(settings)})
    show(out, answers)
    print(f"page: {out / 'index.html'}")


def gather(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """The other arguments, and the prompts: `--prompt` may be given more than once, and `--prompt=--x` is a prompt."""
    found: list[str] = []
    rest: list[str] = []
    inside = False
    for arg in args:
        if arg == "--prompt" or arg.startswith("--prompt="):
            inside = arg == "--prompt"
            found += [] if inside else [arg.removeprefix("--prompt=")]
        else:
            inside = inside and not arg.startswith("--")
            (found if inside else rest).append(arg)
    return rest, found


def write(out: Path, answers: Sequence["Answer"], about: dict[str, Any]) -> None:
    """Write index.html, answers.json and a PNG per picture into the directory `out`."""
    body, records = [], []
    for number, answer in enumerate(answers, 1):
        shown: list[str | bytes] = []
        parts: list[dict[str, str]] = []
        names = _picture_names(number)
        for part in answer.parts:
            if isinstance(part, str):
                shown.append(part)
                parts.append({"text": part})
                continue
            data, name = png(part), next(names)
            (out / name).write_bytes(data)
            shown.append(data)
            parts.append({"picture": name})
        record = {"prompt": answer.prompt, "prompt_ids": answer.prompt_ids, "ids": answer.ids, "parts": parts}
        records.append(record | {"fault": answer.fault})
        body.append(f"<h2>{escape(answer.prompt)}</h2>\n{document_html(shown)}")
    text = json.dumps(about | {"answers": records}, indent=1, ensure_ascii=False) + "\n"
    (out / "answers.json").write_text(text, encoding="utf-8")
    note = ", ".join(f"{name} {value}" for name, value in about.items() if name != "settings")
    body.append(f'<p class="note">{escape(note)}</p>')
    (out / "index.html").write_text(page("Answers", "\n".join(body)), encoding="utf-8")


def show(out: Path, answers: Sequence["Answer"]) -> None:
    """Print the answers, with the paths of their pictures in `out`."""
    for number, answer in enumerate(answers, 1):
        print(f"\n{answer.prompt}" if len(answers) > 1 else "")
        names = _picture_names(number)
        for part in answer.parts:
            print(part if isinstance(part, str) else f"[picture: {out / next(names)}]")


def _picture_names(answer: int) -> Iterator[str]:
    return (f"answer-{answer}-picture-{picture}.png" for picture in itertools.count(1))


def png(picture: "Image.Image") -> bytes:
    """A picture as PNG bytes, enlarged by a whole factor to at least 256 pixels a side."""
    from PIL import Image

    factor = -(-SIDE // min(picture.size))
    large = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    large.save(buffer, "PNG")
    return buffer.getvalue()


def _read_prompts(path: str) -> list[str]:
    if not path:
        return []
    if not Path(path).is_file():
        raise ValueError(f"there is no file of prompts {path}")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"the prompts {path} are no UTF-8 text: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _output(path: str) -> Path:
    if not path:
        number = 1
        while (out := Path("runs") / f"generated-{number}").exists():
            number += 1
        return out
    if Path(path).exists() and (not Path(path).is_dir() or any(Path(path).iterdir())):
        raise ValueError(f"{path} already exists: remove it or choose another --out")
    return Path(path)


if __name__ == "__main__":
    config.run(main)
