"""Another system's vocabulary as a tokenizer directory of ours: its own files, and what its ids mean.

tokens.json         the TokenSpace
vocabulary.json     the row of `grammars` that its documents follow
original/           the files as they came
image/              the image tokenizer, once there is one
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jam_jax import tokens
from jam_jax.config import write_whole
from jam_jax.convert.families import hugging_face
from jam_jax.convert.vocabulary import ORIGINAL, files
from jam_jax.data import grammars
from jam_jax.data.image_tokenizer import load_vqgan
from jam_jax.data.text_tokenizers import TextTokenizer, open_text
from jam_jax.tokens import TokenSpace
from jam_jax.trees import paths

ROW = "vocabulary.json"


def is_another(directory: Path) -> bool:
    """Whether a tokenizer's directory is another system's vocabulary, and not one made here."""
    return (directory / ROW).is_file()


def grammar(directory: Path) -> str:
    """The row of `grammars` that a directory's documents follow; ValueError if it does not say."""
    try:
        return json.loads((directory / ROW).read_text(encoding="utf-8"))["grammar"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{directory / ROW} is missing or damaged: import the tokenizer again") from error


def open_another(directory: Path, space: TokenSpace) -> TextTokenizer:
    """The text tokenizer of a directory made by `build`; ValueError if its files are not those of `space`."""
    text = open_text(directory / ORIGINAL, tokens.ids_of(space.text))
    if space.text and max(space.text) > len(text.names):
        raise ValueError(
            f"tokenizer {directory} is damaged: its files have {len(text.names)} tokens, tokens.json goes to "
            f"{max(space.text) - 1}"
        )
    return text


def build(target: Path, found: dict[str, Path], rows: int, row: str, settings: Collection[str] = ()) -> TokenSpace:
    """Write a tokenizer directory of another's files (`convert.vocabulary.files`); gives what its ids mean.

    `row` is one of `grammars.GRAMMARS` or "auto"; `rows` are the embedding's. ValueError names what does not fit.
    """
    (target / ORIGINAL).mkdir(parents=True)
    for name, path in found.items():
        shutil.copyfile(path, target / ORIGINAL / name)
    text = open_text(target / ORIGINAL)
    row = grammars.recognise(text.names, settings) if row == "auto" else row
    space = grammars.token_space(row, text.names, text.text, rows)
    pieces = json.dumps([text.names[i] for i in tokens.ids_of(space.text)])
    space = dataclasses.replace(space, contents=fingerprint(pieces.encode()))
    (target / ROW).write_text(json.dumps({"grammar": row}) + "\n", encoding="utf-8")
    (target / "tokens.json").write_text(space.to_json(), encoding="utf-8")
    return space


def fingerprint(text: bytes, image_params: dict | None = None) -> str:
    """Sixteen hex digits that change with the text pieces and with any weight of the image tokenizer."""
    digest = hashlib.sha256(text)
    for path, leaf in paths(image_params or {}).items():
        digest.update(path.encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def add_image_tokenizer(directory: str | Path, image_model: str | Path) -> TokenSpace:
    """Put a trained VQGAN into another's tokenizer directory; its grid says how many codes a picture has.

    ValueError if the vocabulary has other codes or an image tokenizer already; then nothing is written.
    """
    from jam_jax import checkpoint

    directory = Path(directory)
    space, row = tokens.load(directory), grammar(directory)
    if space.draws or (directory / "image").exists():
        raise ValueError(f"{directory} has an image tokenizer already")
    image, params = load_vqgan(image_model)
    if space.image_ids and image.codes != len(space.image_ids):
        raise ValueError(
            f"{image_model} draws with {image.codes} codes, but the vocabulary of {directory} has "
            f"{len(space.image_ids)}: they do not belong together"
        )
    text = open_another(directory, space)
    space = grammars.draw_with(space, row, text.names, text.encode, image.grid)
    space = dataclasses.replace(space, contents=fingerprint(space.contents.encode(), params))
    checkpoint.save_model(directory / "image", image, params)
    try:
        write_whole(directory / "tokens.json", space.to_json().encode())
    except OSError:
        shutil.rmtree(directory / "image")
        raise
    return space


@contextlib.contextmanager
def of_checkpoint(source: Path, tokenizer: str, row: str, rows: int) -> Iterator[tuple[Path | None, str]]:
    """The tokenizer directory that comes along with a checkpoint, and a word about it; None if there is none.

    One of ours (`tokenizer/` beside the weights, or the one named) is given as it is; another's is built in a
    directory that vanishes afterwards. `tokenizer` names a directory that lies elsewhere; "none" leaves it behind.
    ValueError if it is not the model's, which has `rows` rows.
    """
    weights = source if source.is_dir() else source.parent
    place = Path(tokenizer) if tokenizer else weights
    ours = next((d for d in (place, place / "tokenizer") if (d / "tokens.json").is_file()), None)
    if tokenizer == "none":
        if row != "auto":
            raise ValueError(f"--grammar {row} is of a tokenizer, and --tokenizer none leaves it: drop one of them")
        yield None, ""
    elif ours:
        if (held := tokens.load(ours).vocab_size) != rows:
            raise ValueError(f"{ours} is of another model: it has {held} ids, the embedding {rows}")
        if row != "auto" and not (is_another(ours) and grammar(ours) == row):
            raise ValueError(f"{ours} says itself how its documents are written: leave --grammar out")
        yield ours, ", with its tokenizer"
    elif found := files(place):
        attributes: dict[str, Any] = {}
        if hugging_face.config_path(source).is_file():
            attributes = hugging_face.read_config(source)
        with tempfile.TemporaryDirectory() as scratch:
            try:
                space = build(Path(scratch) / "tokenizer", found, rows, row, attributes)
            except ValueError as error:
                raise ValueError(f"the tokenizer in {place}: {error} (--tokenizer none leaves it behind)") from error
            about = f", with its tokenizer, documents as in {grammar(Path(scratch) / 'tokenizer')}"
            yield Path(scratch) / "tokenizer", about + (", no image tokenizer yet" if space.image_ids else "")
    elif tokenizer or row != "auto":
        raise ValueError(f"{place} holds no tokenizer: neither tokens.json nor tokenizer.json, .model or vocab.json")
    else:
        yield None, ", no tokenizer beside it"
