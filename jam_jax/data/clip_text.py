"""Text as CLIP reads it (arXiv 2103.00020, section 2.4): byte pairs of lower-cased words, between a start and an end.

A tokenizer is Hugging Face's `tokenizer.json`, or its `vocab.json` with `merges.txt`, or the list of merges that OpenAI
publishes, which says all that those do: the ids are 256 bytes, the same at the end of a word, one for each merge, and
the start and the end of a text. As in transformers a text is taken as it is; OpenAI's own program first mends broken
encodings and the entities of HTML.
"""

import contextlib
import gzip
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jam_jax.config import ClipConfig

START, END = "<|startoftext|>", "<|endoftext|>"
SUFFIX = "</w>"  # of the last piece of a word
# What is a word: a contraction, a run of letters, one digit, or a run of other signs. Spaces only separate.
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

WHOLE, PIECES, MERGES, OPENAI = "tokenizer.json", "vocab.json", "merges.txt", "bpe_simple_vocab_16e6.txt.gz"
BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")  # which transformers reads too
VERSION = "#version: 0.2\n"  # the first line of merges.txt
OPENAI_MERGES = 49408 - 2 * 256 - 2  # of its vocabulary; its list is longer
LONGEST_FILE = 1 << 25  # bytes, of a list of merges when unpacked


class ClipTokenizer:
    """Texts → rows of ids for `models.clip`."""

    def __init__(self, directory: str | Path) -> None:
        """Open the tokenizer in a directory; ValueError if there is none, or if it is damaged or not CLIP's."""
        self._tokenizer, path = _open(Path(directory))
        start, end = (self._tokenizer.token_to_id(token) for token in (START, END))
        if start is None or end is None:
            raise ValueError(f"{path} is no tokenizer of CLIP: it has no {START} and {END}")
        self.start: int = start
        self.end: int = end
        self.vocab_size: int = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def encode(self, texts: Sequence[str], context: int = 77) -> np.ndarray:
        """Texts → ids int32 [B, context]: start, text, end, and as many more ends as fill the row.

        A text that is too long loses its last ids, not its end.
        """
        # Half of a surrogate pair is no text: it becomes U+FFFD, as in broken UTF-8.
        whole = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
        rows = np.full((len(whole), context), self.end, np.int32)
        rows[:, 0] = self.start
        for row, found in zip(rows, self._tokenizer.encode_batch(whole, add_special_tokens=False), strict=True):
            ids = found.ids[: context - 2]
            row[1 : 1 + len(ids)] = ids
        return rows


def holds_tokenizer(directory: Path) -> bool:
    """Whether the files of a CLIP tokenizer lie in a directory, perhaps among others."""
    return any(all((directory / name).is_file() for name in names) for names in ((WHOLE,), (PIECES, MERGES), (OPENAI,)))


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy a tokenizer's files into a directory that exists; OpenAI's list becomes what transformers reads.

    ValueError if that list is damaged.
    """
    if not any((source / name).is_file() for name in (WHOLE, PIECES)):
        _write_pieces(target, *_read_openai(source / OPENAI))
        return
    for name in (WHOLE, PIECES, MERGES, *BESIDE):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def train_clip_tokenizer(texts: Iterable[str], directory: Path, vocab: int) -> None:
    """Learn merges from texts and write a tokenizer into a directory that exists, in the form of `vocab.json`.

    At most `vocab` ids, of which 514 are bytes, start and end. ValueError if those are more already, or if there is no
    text.
    """
    from tokenizers import trainers

    least = 2 * 256 + 2
    if vocab < least:
        raise ValueError(f"a tokenizer of CLIP has {least} ids before its first merge: vocab {vocab} is too few")
    learner = _build({START: 0, END: 1}, [])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, end_of_word_suffix=SUFFIX, special_tokens=[START, END], show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    merges = [(a, b) for a, b in json.loads(learner.to_str())["model"]["merges"]][: vocab - least]
    if not merges:
        raise ValueError("there is no text to learn a tokenizer of CLIP from")
    _write_pieces(directory, _numbered(merges), merges)


def _write_pieces(directory: Path, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
    (directory / PIECES).write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = [f"{a} {b}\n" for a, b in merges]
    (directory / MERGES).write_text(VERSION + "".join(lines), encoding="utf-8")


def _open(directory: Path) -> tuple[Any, Path]:
    """The tokenizer, without anything that cuts or fills its rows, and the file it was read from."""
    import tokenizers

    if not holds_tokenizer(directory):
        raise ValueError(
            f"{directory} holds no tokenizer of CLIP: expected {WHOLE}, {PIECES} and {MERGES}, or {OPENAI}"
        )
    path = next(directory / n for n in (WHOLE, PIECES, OPENAI) if (directory / n).is_file())
    try:
        if path.name == WHOLE:
            found = tokenizers.Tokenizer.from_file(str(path))
            found.no_truncation()
            found.no_padding()
            return found, path
        if path.name == PIECES:
            vocabulary, merges = _read_pieces(directory)
        else:
            vocabulary, merges = _read_openai(path)
        return _build(vocabulary, merges), path
    except Exception as error:  # the library raises plain Exception
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f"{path} is damaged or no tokenizer of CLIP: {reason}") from error


def _build(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Any:
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

    found = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix=SUFFIX, unk_token=END))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    found.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    found.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    found.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (START, END)])
    return found


def _read_pieces(directory: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    vocabulary = json.loads((directory / PIECES).read_text(encoding="utf-8"))
    if not isinstance(vocabulary, dict) or not {START, END} <= vocabulary.keys():
        raise ValueError(f"{PIECES} should give ids to pieces, {START} and {END} among them")
    return vocabulary, _pairs((directory / MERGES).read_text(encoding="utf-8"))


def _read_openai(path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    with gzip.open(path) as file:
        text = file.read(LONGEST_FILE).decode()
    merges = _pairs(text)[:OPENAI_MERGES]
    return _numbered(merges), merges


def _numbered(merges: list[tuple[str, str]]) -> dict[str, int]:
    """The vocabulary that merges make."""
    # Bytes as signs that can be seen: those that Latin-1 shows stand for themselves, the others for 256 and up.
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    signs = [chr(i) for i in (*seen, *range(256, 512 - len(seen)))]
    pieces = [*signs, *(sign + SUFFIX for sign in signs), *(a + b for a, b in merges), START, END]
    return {piece: i for i, piece in enumerate(pieces)}


def _pairs(text: str) -> list[tuple[str, str]]:
    """The merges of a list with a first line that says its version."""
    lines = [line for line in text.split("\n")[1:] if line]
    pairs = [tuple(line.split(" ")) for line in lines]
    if wrong := [line for line, pair in zip(lines, pairs, strict=True) if len(pair) != 2]:
        raise ValueError(f"a merge is two pieces, got {wrong[0][:80]!r}")
    return [(pair[0], pair[1]) for pair in pairs]


@contextlib.contextmanager
def of_checkpoint(source: Path, clip: ClipConfig) -> Iterator[tuple[Path | None, str]]:
    """The tokenizer that lies beside a CLIP, as a directory that vanishes afterwards, and a word about it.

    None if there is none; ValueError if it is of another model.
    """
    beside = source if source.is_dir() else source.parent
    found = next((d for d in (beside, beside / "tokenizer") if holds_tokenizer(d)), None)
    if found is None:
        yield None, ""
        return
    tokenizer = ClipTokenizer(found)
    last = tokenizer.vocab_size - 1 if clip.end_of_text is None else clip.end_of_text
    if tokenizer.vocab_size > clip.vocab_size or tokenizer.end != last:
        raise ValueError(
            f"the tokenizer in {found} is of another model: it has {tokenizer.vocab_size} ids and ends texts with "
            f"{tokenizer.end}, the model has {clip.vocab_size} and reads texts off at {last}"
        )
    with tempfile.TemporaryDirectory() as directory:
        kept = Path(directory) / "tokenizer"
        kept.mkdir()
        copy_tokenizer(found, kept)
        yield kept, ", with its tokenizer"
