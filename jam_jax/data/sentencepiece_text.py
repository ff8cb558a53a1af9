"""Text to ids by a SentencePiece model, our own or another's (`tokenizer.model`): trained, opened, and kept to text."""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jam_jax.config import write_whole

BYTES = 256  # byte pieces: what the vocabulary lacks is spelt in bytes, so any text comes back
SPECIALS = 4  # <s>, <pad>, </s>, <unk>
SPACE = "▁"  # SentencePiece's own sign for a space; in a user's text it is spelt in bytes


class SentencePieceText:
    """A SentencePiece model that makes nothing but text of a text; see `text_tokenizers.TextTokenizer`."""

    def __init__(self, path: Path, text: Sequence[int] | None = None, opening: str = "") -> None:
        """Open a model; ValueError if there is none or it is damaged.

        No text makes another id than those of `text`; without it, than those that the model takes for text itself.
        `opening` is put before every text, so that its first word is a word like others, and taken away again: our own
        models have a space there, another's are used as they are.
        """
        self._model = _open(path)
        self._opening = opening
        size = self._model.get_piece_size()
        self.names: list[str | None] = [self._model.id_to_piece(i) for i in range(size)]
        self.text = [i for i in range(size) if not self._is_special(i)] if text is None else list(text)
        prefixed = _keep_to_text(self._model, set(self.text))
        ids = dict(zip(self.names, range(size), strict=True))
        spelt = [ids.get(f"<0x{b:02X}>") for b in SPACE.encode()]
        self.spells_all = {ids.get(f"<0x{b:02X}>") for b in range(BYTES)} <= set(self.text)
        # A model that puts a space before each text would put one before each part of it too.
        self._space = None if prefixed or None in spelt else spelt
        self._unknown = self._model.unk_id()

    def _is_special(self, i: int) -> bool:
        return self._model.is_control(i) or self._model.is_unknown(i) or self._model.is_unused(i)

    def encode(self, text: str) -> list[int]:
        """Text → ids; ValueError names a character that the model cannot spell."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Many texts → the ids of each; see `encode`."""
        texts = [self._opening + text for text in texts]
        # A list has the library start its threads, which takes longer than a text.
        found: list[list[int]] = [self._model.encode(texts[0])] if len(texts) == 1 else self._model.encode(texts)
        for n, text in enumerate(texts):
            if self._space and SPACE in text:
                first, *others = self._model.encode(text.split(SPACE))
                found[n] = first + [i for ids in others for i in self._space + ids]
            if self._unknown in found[n]:
                odd = next(c for c in text if self._unknown in self._model.encode(c))
                raise ValueError(f"the text tokenizer has no piece for {odd!r} and no bytes to spell it")
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """Inverse of `encode`; broken UTF-8 becomes U+FFFD."""
        return self._model.decode(list(ids)).removeprefix(self._opening)


def _keep_to_text(model: Any, text: set[int]) -> bool:
    """Make pieces beyond `text` such that no text is matched with them; gives whether a space opens every text.

    A model's control pieces are never found in a text, but those that its maker defined are, as are ordinary ones.
    """
    from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]

    proto = ModelProto.FromString(model.serialized_model_proto())
    kind = ModelProto.SentencePiece
    changed = False
    for i, piece in enumerate(proto.pieces):
        if i not in text and piece.type in (kind.NORMAL, kind.USER_DEFINED):
            piece.type, changed = kind.CONTROL, True
    if changed:
        model.load_from_serialized_proto(proto.SerializeToString())
    return proto.normalizer_spec.add_dummy_prefix


def _open(path: Path) -> Any:
    import sentencepiece

    if not path.is_file():
        raise ValueError(f"there is no text tokenizer {path}")
    if not (contents := path.read_bytes()):  # which the library takes, and then has no pieces
        raise ValueError(f"{path} is no SentencePiece model: it is empty")
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=contents)
    except RuntimeError as error:
        raise ValueError(f"{path} is no SentencePiece model: {error}") from error


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
    # With the space in front that encoding puts there, so that a text's first word is a word like others.
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
        add_dummy_prefix=False,  # encoding puts the space, so that a text can be encoded in parts
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
    return _open(path).get_piece_size()
