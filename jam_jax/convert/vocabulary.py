"""Where a checkpoint keeps its tokenizer, and where an export puts it back: the files, not what they mean."""

import shutil
from pathlib import Path
from typing import Literal

# Rows of data/grammars.py: whose documents a vocabulary writes.
Grammars = Literal["lumina", "chameleon", "emu3", "liquid", "simplear", "gemma", "qwen2", "llama3", "llama", "opt"]
# Files that make a tokenizer, and those that transformers keeps with them.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "emu3.tiktoken")
BESIDE = (
    *("merges.txt", "emu3_vision_tokens.txt", "tokenization_emu3.py", "added_tokens.json", "special_tokens_map.json"),
    *("tokenizer_config.json", "chat_template.jinja", "chat_template.json"),
    *("processor_config.json", "preprocessor_config.json"),
)
META = Path("tokenizer") / "text_tokenizer.json"  # Meta's Chameleon: beside `models`, or beside the weights
ORIGINAL = "original"  # where a tokenizer's directory keeps another system's files


def files(directory: Path) -> dict[str, Path]:
    """The files of another system's tokenizer in a directory, by the names that transformers has; {} if there is none.

    `directory` may hold weights too, or be one of Meta's.
    """
    held = {name: directory / name for name in (*TOKENIZERS, *BESIDE) if (directory / name).is_file()}
    if set(held) & set(TOKENIZERS):
        return held
    for folder in (directory, directory.parent, directory.parent.parent):
        if (folder / META).is_file():
            return {"tokenizer.json": folder / META}
    return {"tokenizer.json": directory / META.name} if (directory / META.name).is_file() else {}


def put_back(tokenizer: Path, target: Path) -> None:
    """Copy a tokenizer to an export: another's files to where transformers finds them, ours as `tokenizer/`."""
    if (tokenizer / ORIGINAL).is_dir():
        shutil.copytree(tokenizer / ORIGINAL, target, dirs_exist_ok=True)
    else:
        shutil.copytree(tokenizer, target / "tokenizer")
