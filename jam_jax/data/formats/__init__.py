"""The kinds of data a user can bring, and `read`, which tells them apart."""

from collections.abc import Iterator
from pathlib import Path

from jam_jax.data.documents import Document
from jam_jax.data.formats import image_folder, text_folder, tfds


def read(source: str | Path, split: str = "train") -> Iterator[Document]:
    """The documents of a TFDS directory, an image folder (`metadata.jsonl`) or a folder of `*.txt` files.

    `split` is one of a TFDS dataset's own, or `train` or `test` of a folder. ValueError if the directory is missing, is
    none of these kinds, lacks the split, or if more than 1% of its records are damaged.
    """
    directory = Path(source)
    if not directory.is_dir():
        raise ValueError(f"there is no directory {source}")
    if tfds.is_tfds(directory):
        return tfds.read(directory, split)
    if image_folder.is_image_folder(directory):
        return image_folder.read(directory, split)
    if text_folder.is_text_folder(directory):
        return text_folder.read(directory, split)
    raise ValueError(
        f"{source} is no data: expected a TFDS dataset (features.json), pictures with metadata.jsonl, or *.txt files"
    )
