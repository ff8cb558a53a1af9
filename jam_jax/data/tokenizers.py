"""Text and pictures to token ids and back: SentencePiece, a VQGAN, and the order in which a document puts them.

A tokenizer is a directory: `tokens.json` (the TokenSpace), `text.model` (SentencePiece) and `image/` (a model
directory of a VQGAN). Stores hold documents without a leading `</s>` and with the closing one (arXiv 2309.15564,
section 2.1): `text </s>`, `caption <break> codes </s>`, runs with one `<break>` at every change of modality, and
instructions as `question <mask:0> </s> answer </s>`.
"""

import dataclasses
import hashlib
import io
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jam_jax import sharding, tokens
from jam_jax.config import write_whole
from jam_jax.data.documents import Document
from jam_jax.data.image_tokenizer import ImageTokenizer, load_vqgan
from jam_jax.data.reading import Reading, read
from jam_jax.tokens import CODE, TokenSpace

BYTES = 256  # byte pieces: what the vocabulary lacks is spelt in bytes, so any text comes back
ROWS = 32  # the vocabulary is padded to a multiple, so that a mesh can divide it
SPECIALS = 4  # <s>, <pad>, </s>, <unk>
SPACE = "▁"  # SentencePiece's own sign for a space; in a user's text it is spelt in bytes


def train_text_tokenizer(texts: Iterable[str], path: str | Path, vocab: int = 512) -> int:
    """Train SentencePiece (BPE with byte pieces) on `texts`, write it to `path`, and give the vocabulary's size.

    The size is `vocab`, special and byte pieces included, or less where the texts are too few for that many. The
    least frequent characters are left to the byte pieces, so that at least half of the free pieces are longer ones.
    ValueError if there is no text or no room beside the bytes.
    """
    import sentencepiece

    free = vocab - BYTES - SPECIALS
    if free < 2:
        raise ValueError(f"a text vocabulary needs more than {BYTES + SPECIALS + 1} pieces, got {vocab}")
    # With the space in front that encode_text puts there, so that a text's first word is a word like others.
    lines = [" " + line for text in texts for line in text.replace("\0", " ").splitlines() if line.strip()]
    if not lines:
        raise ValueError("there is no text to train a text tokenizer on")
    kinds = Counter(character for line in lines for character in line)
    if rare := {ord(c): " " for c, _ in kinds.most_common()[free // 2 :]}:
        lines = [line.translate(rare) for line in lines]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",  # "unigram" makes no piece of a word that no other word contains, however frequent it is
        vocab_size=vocab,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,  # encode_text puts the space, so that a text can be encoded in parts
        bos_id=0,
        pad_id=1,
        eos_id=2,
        unk_id=3,
        input_sentence_size=2_000_000,
        max_sentence_length=1 << 16,
        minloglevel=2,
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, model.getvalue())
    return _open_text(path).get_piece_size()


def build_tokenizer(
    directory: str | Path, text_model: str | Path, image_model: str | Path, sentinels: int = 514
) -> None:
    """Put a text model and a trained VQGAN together as a tokenizer directory, in the order of the paper's vocabulary.

    ValueError if the directory is not empty or a part is missing or damaged; then nothing is written.
    """
    from jam_jax import checkpoint

    pieces = _open_text(Path(text_model)).get_piece_size()
    image, params = load_vqgan(image_model)
    space = tokens.jam(text=pieces, codes=image.codes, codes_per_image=image.grid**2, sentinels=sentinels, pad_to=ROWS)
    space = dataclasses.replace(space, contents=_contents(Path(text_model), params))
    with checkpoint.new_directory(directory) as aside:
        (aside / "tokens.json").write_text(space.to_json(), encoding="utf-8")
        shutil.copyfile(text_model, aside / "text.model")
        checkpoint.save_model(aside / "image", image, params)


def _contents(text_model: Path, image_params: dict) -> str:
    """Sixteen hex digits that change with any text piece or any weight of the image tokenizer."""
    digest = hashlib.sha256(text_model.read_bytes())
    for path, leaf in sharding.paths(image_params).items():
        digest.update(path.encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def open_tokenizer(directory: str | Path) -> "Tokenizer":
    """Open a tokenizer directory; ValueError if a part is missing, damaged or does not fit the others."""
    return Tokenizer(directory)


class Tokenizer:
    """Ids of text, pictures and documents, and back. The VQGAN is loaded when a picture is first needed."""

    def __init__(self, directory: str | Path) -> None:
        """Open a directory made by `build_tokenizer`; see `open_tokenizer`."""
        self.directory = Path(directory)
        self.space: TokenSpace = tokens.load(directory)
        self._text = _open_text(self.directory / "text.model")
        pieces = self._text.get_piece_size()
        if pieces != self.space.text[1]:
            raise ValueError(
                f"tokenizer {directory} is damaged: text.model has {pieces} pieces, tokens.json {self.space.text[1]}"
            )
        self._space_bytes = [self._text.piece_to_id(f"<0x{b:02X}>") for b in SPACE.encode()]
        self._image: ImageTokenizer | None = None

    @property
    def image(self) -> ImageTokenizer:
        """The VQGAN, ready to run; its `config` says the resolution."""
        if self._image is None:
            self._image = ImageTokenizer(self.directory / "image", self.space)
        return self._image

    def encode_text(self, text: str) -> list[int]:
        """Text → ids in the text range only: whatever it looks like, text never makes a special id."""
        if not text:
            return []
        first, *others = (" " + text).split(SPACE)
        ids = self._text.encode(first)
        for part in others:
            ids += self._space_bytes + self._text.encode(part)
        return ids

    def decode_text(self, ids: Sequence[int] | np.ndarray) -> str:
        """Inverse of `encode_text`; ValueError names an id that is no text. Broken UTF-8 becomes U+FFFD."""
        ids = [int(i) for i in ids]
        low, high = self.space.text
        if wrong := [i for i in ids if not low <= i < high]:
            raise ValueError(f"id {wrong[0]} is no text: text ids are {low} to {high - 1}")
        return self._text.decode(ids).removeprefix(" ")

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
        waiting: list[Document] = []
        pictures = 0
        for document in documents:
            waiting.append(document)
            pictures += len(document.pictures)
            if len(waiting) >= 1024 or (pictures and pictures >= self.image.batch):
                yield from self._encode_all(waiting)
                waiting, pictures = [], 0
        yield from self._encode_all(waiting)

    def _encode_all(self, documents: list[Document]) -> Iterator[tuple[np.ndarray, int]]:
        data = [picture for document in documents for picture in document.pictures]
        codes = iter(self.encode_pictures(data)) if data else iter(())
        for document in documents:
            ids: list[int] = []
            if document.question:
                ids += [*self.encode_text(document.question), self.space.sentinel(0), self.space.end_of_document]
            prompt = len(ids)
            after_picture = False
            for part in document.parts:
                if after_picture:
                    ids.append(self.space.end_of_image)
                ids += self.encode_text(part) if isinstance(part, str) else self._picture(next(codes))
                after_picture = isinstance(part, bytes)
            if after_picture and self.space.end_of_document not in self.space.picture_closers:
                ids.append(self.space.end_of_image)
            yield np.array([*ids, self.space.end_of_document], np.int32), prompt

    def _picture(self, codes: np.ndarray) -> list[int]:
        """The codes of one picture → its ids, from the opening one on, without the closing one."""
        code = iter(codes.tolist())
        return [self.space.image_ids[next(code)] if i == CODE else i for i in self.space.picture_layout]

    def read_document(self, ids: Sequence[int] | np.ndarray) -> Reading:
        """Ids of a record, or of a generated sequence with its leading `</s>` and prompt → what they say.

        Never fails: what does not fit the grammar of the token space is left out and named in `fault`.
        """
        return read(self.space, self.decode_text, ids)


def _open_text(path: Path) -> Any:
    import sentencepiece

    if not path.is_file():
        raise ValueError(f"there is no text tokenizer {path}")
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
    except RuntimeError as error:
        raise ValueError(f"{path} is no SentencePiece model: {error}") from error
