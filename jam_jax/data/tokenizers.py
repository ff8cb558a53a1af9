"""Text and pictures to token ids and back: a text tokenizer, a VQGAN, and the order in which a document puts them.

A tokenizer is a directory: `tokens.json` (the TokenSpace), `text.model` (SentencePiece, trained here) and `image/` (a
model directory of a VQGAN); `vocabulary` says what is in another system's. Stores hold documents without a leading
`</s>` and with the closing one (arXiv 2309.15564, section 2.1): `text </s>`, `caption <break> codes </s>`, runs with
one `<break>` at every change of modality, and instructions as `question <mask:0> </s> answer </s>`. Where a vocabulary
has a token of its own for the start of a document, a record begins with it.
"""

import dataclasses
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from jam_jax import tokens
from jam_jax.data import grammars, vocabulary
from jam_jax.data.documents import Document
from jam_jax.data.image_tokenizer import ImageTokenizer, load_vqgan
from jam_jax.data.reading import Reading, is_text, read
from jam_jax.data.sentencepiece_text import SentencePieceText
from jam_jax.data.text_tokenizers import TextTokenizer
from jam_jax.tokens import CODE, SPECIAL, TokenSpace

OWN = "text.model"  # a SentencePiece model trained here
DOCUMENTS, CHARACTERS = 1024, 1 << 20  # that are encoded at once: books take no more memory than captions
ROWS = 32  # the vocabulary is padded to a multiple, so that a mesh can divide it


def build_tokenizer(
    directory: str | Path, text_model: str | Path, image_model: str | Path, sentinels: int = 514
) -> None:
    """Put a text model and a trained VQGAN together as a tokenizer directory, in the order of the paper's vocabulary.

    ValueError if the directory is not empty or a part is missing or damaged; then nothing is written.
    """
    from jam_jax import checkpoint

    pieces = len(SentencePieceText(Path(text_model)).names)
    image, params = load_vqgan(image_model)
    space = tokens.jam(text=pieces, codes=image.codes, codes_per_image=image.grid**2, sentinels=sentinels, pad_to=ROWS)
    space = dataclasses.replace(space, contents=vocabulary.fingerprint(Path(text_model).read_bytes(), params))
    with checkpoint.new_directory(directory) as aside:
        (aside / "tokens.json").write_text(space.to_json(), encoding="utf-8")
        shutil.copyfile(text_model, aside / OWN)
        checkpoint.save_model(aside / "image", image, params)


def names(directory: str | Path) -> list[str | None]:
    """The token of every id of a tokenizer's directory, None for padded rows; as many as the embedding has rows.

    Codes without a name of their own are named as the paper's tokenizer names them. ValueError if it is damaged.
    """
    tokenizer = Tokenizer(directory)
    space, known = tokenizer.space, tokenizer.text.names
    found = [*known[: space.vocab_size], *[None] * (space.vocab_size - len(known))]
    if not vocabulary.is_another(tokenizer.directory):
        named = [(space.start_of_image, "<break>"), (space.end_of_infill, "<eoss>")]
        for i, name in [*named, *((s, f"<mask:{n}>") for n, s in enumerate(space.sentinel_ids))]:
            assert i is not None, "a tokenizer made here has all of these"
            found[i] = name
    for code, i in enumerate(space.image_ids):
        found[i] = found[i] or grammars.CHAMELEON_CODES.name(code)
    return found


def vocabulary_map(directory: str | Path) -> dict[str, int]:
    """What Chameleon in transformers finds a picture's ids by: the names of the codes, and of what stands for them.

    `<image>` stands in a prompt for each code of a picture. In Meta's own file it is a reserved token, to which
    transformers gives that name; in a vocabulary without either it is the first token that no document holds.
    ValueError if the directory is damaged or has no such token.
    """
    space, known = tokens.load(directory), names(directory)
    said: set[int | None] = {space.start_of_image, space.end_of_image, space.start, space.pad}
    said |= {space.end_of_document, space.end_of_infill, *space.picture_layout, *space.picture_closers}
    said |= {*space.sentinel_ids, *space.question_end, *space.blank}
    held = [known.index(name) for name in ("<image>", "<reserved08707>") if name in known]
    held += [i for i, kind in enumerate(space.modality) if kind == SPECIAL and i not in said]
    if not held:
        raise ValueError(f"tokenizer {directory} has no token that could stand for a picture, such as <image>")
    return {"<image>": held[0]} | {grammars.CHAMELEON_CODES.name(code): i for code, i in enumerate(space.image_ids)}


def open_tokenizer(directory: str | Path) -> "Tokenizer":
    """Open a tokenizer directory; ValueError if a part is missing, damaged or does not fit the others."""
    return Tokenizer(directory)


class Tokenizer:
    """Ids of text, pictures and documents, and back. The VQGAN is loaded when a picture is first needed."""

    def __init__(self, directory: str | Path) -> None:
        """Open a directory made by `build_tokenizer` or by `vocabulary.build`; see `open_tokenizer`."""
        self.directory = Path(directory)
        self.space: TokenSpace = tokens.load(directory)
        self.text: TextTokenizer
        if vocabulary.is_another(self.directory):
            self.text = vocabulary.open_another(self.directory, self.space)
        else:
            self.text = _open_own(self.directory, self.space)
        self._image: ImageTokenizer | None = None

    @property
    def image(self) -> ImageTokenizer:
        """The VQGAN, ready to run; its `config` says the resolution. ValueError if the vocabulary draws nothing."""
        if self._image is None:
            self.space.require_pictures()
            self._image = ImageTokenizer(self.directory / "image", self.space)
        return self._image

    def encode_text(self, text: str) -> list[int]:
        """Text → ids of text only: whatever it looks like, text never makes a special id.

        Lone surrogates, which are no characters, become U+FFFD. ValueError names what the vocabulary cannot spell.
        """
        return self.encode_texts([text])[0]

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Many texts → the ids of each; see `encode_text`."""
        whole = [text if text.isascii() else re.sub(r"[\ud800-\udfff]", "\ufffd", text) for text in texts if text]
        found = iter(self.text.encode_all(whole) if whole else [])
        return [next(found) if text else [] for text in texts]

    def check(self, document: Document) -> None:
        """ValueError if the vocabulary cannot spell a text of the document, which only one without bytes cannot."""
        if not self.text.spells_all:
            self.encode_texts((document.question, *document.texts))

    def decode_text(self, ids: Sequence[int] | np.ndarray) -> str:
        """Inverse of `encode_text`; ValueError names an id that is no text. Broken UTF-8 becomes U+FFFD."""
        ids = [int(i) for i in ids]
        if wrong := [i for i in ids if not is_text(self.space, i)]:
            raise ValueError(f"id {wrong[0]} is no text")
        return self.text.decode(ids)

    def encode_pictures(self, pictures: Sequence[bytes] | np.ndarray) -> np.ndarray:
        """Encoded pictures, or uint8 [B, R, R, 3] → codes int32 [B, codes_per_image]."""
        return self.image.encode(pictures)

    def decode_codes(self, codes: np.ndarray) -> np.ndarray:
        """Codes int [B, codes_per_image] → pictures uint8 [B, R, R, 3]."""
        return self.image.decode(codes)

    def encode_document(self, document: Document) -> list[int]:
        """A document's ids, without a leading `</s>` and with the closing one."""
        return next(self.encode_documents([document]))[0].tolist()

    def encode_documents(self, documents: Iterable[Document]) -> Iterator[tuple[np.ndarray, int]]:
        """Documents → (ids int32 [T], length of the prompt) one by one; their pictures are encoded in full batches."""
        begun: tuple[list[Document], Callable[[], np.ndarray]] | None = None
        for batch, pictures in self._batches(documents):
            # The devices encode one batch while the pictures of the next are read.
            following = batch, self.image.begin(pictures) if pictures else lambda: np.empty((0, 0), np.int32)
            if begun is not None:
                yield from self._encode_all(*begun)
            begun = following
        if begun is not None:
            yield from self._encode_all(*begun)

    def _batches(self, documents: Iterable[Document]) -> Iterator[tuple[list[Document], list[bytes]]]:
        """Documents with all their pictures, about as many as the image tokenizer takes at a time, or much text."""
        batch: list[Document] = []
        pictures: list[bytes] = []
        characters = 0
        for document in documents:
            batch.append(document)
            for part in document.parts:
                if isinstance(part, str):
                    characters += len(part)
                else:
                    pictures.append(part)
            full = characters >= CHARACTERS or len(batch) >= DOCUMENTS
            if full or (pictures and len(pictures) >= self.image.batch):
                yield batch, pictures
                batch, pictures, characters = [], [], 0
        if batch:
            yield batch, pictures

    def _encode_all(
        self, documents: list[Document], encoded: Callable[[], np.ndarray]
    ) -> Iterator[tuple[np.ndarray, int]]:
        """Documents, and what gives the codes of all their pictures in their order."""
        codes, space = iter(encoded()), self.space
        texts = iter(
            self.encode_texts([part for d in documents for part in (d.question, *d.parts) if isinstance(part, str)])
        )
        ids: list[int] = []  # of all documents: one array is made faster than one of each
        ends: list[tuple[int, int]] = []  # where each ends, and the length of its prompt
        for document in documents:
            start, prompt = len(ids), 0
            if space.start_of_document is not None:
                ids.append(space.start_of_document)
            question = next(texts)
            if document.question:
                space.require_questions()
                ids += question
                ids += space.question_end
                prompt = len(ids) - start
            after_picture = False
            for part in document.parts:
                if after_picture:
                    ids += space.picture_closers[:1]
                ids += next(texts) if isinstance(part, str) else self._picture(next(codes))
                after_picture = isinstance(part, bytes)
            if after_picture and space.end_of_document not in space.picture_closers:
                ids += space.picture_closers[:1]
            ids.append(space.end_of_document)
            ends.append((len(ids), prompt))
        found, start = np.array(ids, np.int32), 0
        for end, prompt in ends:
            yield found[start:end], prompt
            start = end

    def _picture(self, codes: np.ndarray) -> list[int]:
        """The codes of one picture → its ids, from the opening one on, without the closing one."""
        code = iter(codes.tolist())
        return [self.space.image_ids[next(code)] if i == CODE else i for i in self.space.picture_layout]

    def read_document(self, ids: Sequence[int] | np.ndarray) -> Reading:
        """Ids of a record, or of a generated sequence with its leading `</s>` and prompt → what they say.

        Never fails: what does not fit the grammar of the token space is left out and named in `fault`.
        """
        return read(self.space, self.decode_text, ids)


def _open_own(directory: Path, space: TokenSpace) -> TextTokenizer:
    """The text model of a tokenizer made here; ValueError if it is not that of `space`."""
    text = SentencePieceText(directory / OWN, opening=" ")
    if len(text.names) != space.text[1]:
        raise ValueError(
            f"tokenizer {directory} is damaged: {OWN} has {len(text.names)} pieces, tokens.json {space.text[1]}"
        )
    return text
