"""`python -m jam_jax.generate`: illustrated answers in the terminal, as a page, as pictures, and as JSON."""

import dataclasses
import io
import itertools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jam_jax import config, progress
from jam_jax.decode.settings import Settings, check_bank
from jam_jax.html import document_html, page
from jam_jax.machine import keep_freed_memory, keep_programs

if TYPE_CHECKING:
    from PIL import Image

    from jam_jax.api import Answer, Model
    from jam_jax.decode.prompts import Prompt
    from jam_jax.retrieval.prompts import Retrieved
    from jam_jax.retrieval.sheet import Hit

SIDE = 256  # pixels that a shown picture has at least; smaller ones are enlarged by a whole factor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Settings):
    """Answer questions with text and pictures, draw captions, describe pictures, fill gaps, or go on with texts."""

    model: str  # model directory
    prompt: tuple[str, ...] = ()  # what to answer; may be given more than once
    prompts: str = ""  # a text file with one prompt a line
    chat: bool = False  # ask for questions on the terminal, one after another, each with all that was said before it
    # answer: a question, answered with text and pictures; picture: a caption, drawn; text: a text, gone on with;
    # caption: --picture, described; fill: a text with gaps, ___ each, or --picture with a --region, filled
    mode: Literal["answer", "picture", "text", "caption", "fill"] = "answer"
    picture: tuple[str, ...] = ()  # picture files; in mode fill one, which follows the prompt
    region: tuple[float, float, float, float] | None = None  # left top right bottom, from 0 to 1: what is drawn anew
    samples: int = 1  # answers of each prompt
    out: str = ""  # directory for the page, the pictures and the JSON; empty: a new one, runs/generated-N
    seed: int = 0  # the same seed gives the same answers
    rows: int = 16  # answers written at once
    precision: Literal["model", "float32", "bfloat16", "int8"] = "model"  # of the weights; model: as its config says
    retrieve: int = 0  # documents of the bank that go before each prompt, at most
    bank: str = ""  # directory of the memory bank that they are from
    clip: str = ""  # the CLIP that made the bank, if it has moved

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        if self.picture and self.mode not in ("caption", "fill"):
            raise ValueError(f"--picture belongs to the modes caption and fill, not to {self.mode}")
        if self.region is not None and (self.mode != "fill" or len(self.picture) != 1):
            raise ValueError("--region needs --mode fill and one --picture")
        if self.chat and self.mode != "answer":
            raise ValueError(f"--chat answers questions: leave out --mode {self.mode}")
        check_bank(self.retrieve, self.bank)
        if self.retrieve and self.picture:
            raise ValueError("--retrieve looks for a prompt's text: leave out --picture")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; ValueError for a user's mistake, before anything is written."""
    rest, prompts = gather(sys.argv[1:] if args is None else args)
    options = config.cli(Options, rest, prog="python -m jam_jax.generate")
    keep_freed_memory()
    texts = prompts + _read_prompts(options.prompts)
    asked = _prompts(options, texts)
    if not asked and not options.chat:
        raise ValueError('there is nothing to answer: give --prompt "..." or --prompts FILE')
    if asked and options.chat:
        raise ValueError("--chat asks for its questions: leave out --prompt and --prompts")
    out = _output(options.out)
    config.check_seed(options.seed)
    import jam_jax
    from jam_jax.checkpoint import new_directory
    from jam_jax.decode import engine

    keep_programs()
    settings = Settings(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Settings)})
    rows = engine.batch(1 if options.chat else len(asked) * options.samples, options.rows)
    model = jam_jax.load(options.model, options.precision, rows=rows)
    about: dict[str, Any] = {"model": options.model, "mode": options.mode, "seed": options.seed}
    about |= {"precision": options.precision, "settings": dataclasses.asdict(settings)}
    find = None
    if options.retrieve:
        from jam_jax.retrieval.prompts import finder

        find = finder(options.bank, options.clip, model.space, options.retrieve)
        about |= {"bank": options.bank, "retrieve": options.retrieve}
    with new_directory(out) as aside:
        if options.chat:
            from jam_jax import terminal

            answers = terminal.converse(model, settings, options.seed, find)
        else:
            answers = answer(model, asked, settings, options, find(texts) if find else None)
        found = [sources(model, answer) for answer in answers]
        write(aside, answers, about, found)
    show(out, answers, found)
    print(f"page: {out / 'index.html'}")


def answer(
    model: "Model",
    asked: "Sequence[Prompt]",
    settings: Settings,
    options: Options,
    retrieved: "Sequence[Sequence[Retrieved]] | None",
) -> "list[Answer]":
    """The answers; one alone is shown on a terminal while it is written."""
    from jam_jax import terminal

    count = len(asked) * options.samples
    how: dict[str, Any] = {"retrieved": retrieved}
    if count == 1 and sys.stdout.isatty():
        return [terminal.watch(model.stream(asked, options.mode, settings, options.seed, **how))]
    how |= {"samples": options.samples, "rows": options.rows}
    with progress.bar("answers", count) as advance:
        return model.generate(asked, options.mode, settings, options.seed, advance=advance, **how)


def sources(model: "Model", answer: "Answer") -> "list[Hit]":
    """The documents that stood before an answer's prompt."""
    from jam_jax.retrieval.sheet import read_hits

    return read_hits(
        model.tokenizer, [(document.number, document.score, document.record) for document in answer.retrieved]
    )


def _prompts(options: Options, texts: list[str]) -> "list[Prompt]":
    """What is asked, in the mode's form."""
    if not options.picture:
        return list(texts)
    from jam_jax.decode.prompts import Picture

    if options.mode == "caption" and texts:
        raise ValueError("mode caption describes a --picture: leave out --prompt and --prompts")
    if options.mode == "fill" and (len(options.picture) > 1 or len(texts) > 1):
        raise ValueError("mode fill takes one --picture and at most one prompt before it")
    pictures = [Picture(_picture(path), options.region) for path in options.picture]
    return [(*texts, pictures[0])] if options.mode == "fill" else list(pictures)


def _picture(path: str) -> bytes:
    from jam_jax.data.formats.pictures import decode_picture

    if not Path(path).is_file():
        raise ValueError(f"there is no picture {path}")
    data = Path(path).read_bytes()
    try:
        decode_picture(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return data


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


def write(
    out: Path, answers: Sequence["Answer"], about: dict[str, Any], sources: "Sequence[Sequence[Hit]] | None" = None
) -> None:
    """Write index.html, answers.md, answers.json and a PNG per picture into the directory `out`.

    `sources` are, for each answer, the documents that were retrieved for it.
    """
    from jam_jax.retrieval import sheet

    body = [f"<style>{sheet.STYLE}</style>"] if any(sources or ()) else []
    marked: list[str] = []
    records = []
    for number, (answer, found) in enumerate(zip(answers, sources or [()] * len(answers), strict=True), 1):
        shown: list[str | bytes] = []
        parts: list[dict[str, str]] = []
        names = _picture_names(number)
        marked.append(f"## {markdown(answer.prompt)}\n")
        for part in answer.parts:
            if isinstance(part, str):
                shown.append(part)
                parts.append({"text": part})
                marked.append(f"{markdown(part.strip())}\n")
                continue
            data, name = png(part), next(names)
            (out / name).write_bytes(data)
            shown.append(data)
            parts.append({"picture": name})
            marked.append(f"![picture]({name})\n")
        record = {"prompt": answer.prompt, "prompt_ids": answer.prompt_ids, "ids": answer.ids, "key": answer.key}
        told = {"fault": answer.fault, "retrieved": [_source(out, number, hit) for hit in found]}
        records.append(record | {"parts": parts} | told)
        body.append(f"<h2>{escape(answer.prompt)}</h2>\n{document_html(shown)}")
        if found:
            body.append(f'<p class="note">Retrieved for it:</p>{sheet.sheet(found)}')
    text = json.dumps(about | {"answers": records}, indent=1, ensure_ascii=False) + "\n"
    (out / "answers.json").write_text(text, encoding="utf-8")
    (out / "answers.md").write_text("\n".join(marked), encoding="utf-8")
    note = ", ".join(f"{name} {value}" for name, value in about.items() if name != "settings")
    body.append(f'<p class="note">{escape(note)}</p>')
    (out / "index.html").write_text(page("Answers", "\n".join(body)), encoding="utf-8")


def markdown(text: str) -> str:
    """A text in which Markdown sees nothing but text."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&!])|^(\s*)(\d+)([.)])|^(\s*)([-+=])", _escaped, text, flags=re.MULTILINE)


def _escaped(found: "re.Match[str]") -> str:
    mark, space, digits, stop, indent, line = found.groups()
    if mark:
        return f"\\{mark}"
    return f"{space}{digits}\\{stop}" if digits else f"{indent}\\{line}"


def _source(out: Path, answer: int, hit: "Hit") -> dict[str, Any]:
    """A retrieved document as JSON; its pictures are written beside."""
    names = [f"answer-{answer}-document-{hit.number}-picture-{i}.png" for i in range(1, len(hit.pictures) + 1)]
    for name, data in zip(names, hit.pictures, strict=True):
        (out / name).write_bytes(data)
    return {"document": hit.number, "score": round(hit.score, 4), "text": hit.text, "pictures": names}


def show(out: Path, answers: Sequence["Answer"], sources: "Sequence[Sequence[Hit]] | None" = None) -> None:
    """Print the answers, with the paths of their pictures in `out` and the documents that were retrieved for them."""
    for number, (answer, found) in enumerate(zip(answers, sources or [()] * len(answers), strict=True), 1):
        print(f"\n{answer.prompt}" if len(answers) > 1 else "")
        names = _picture_names(number)
        for hit in found:
            print(f"[retrieved: document {hit.number}, score {hit.score:.3f}: {hit.text}]")
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
