"""Interleaved documents as OBELICS has them (arXiv 2306.16527): two lists of one length, `texts` and `images`.

At every place one of them is null: `{"texts": [null, "a cat", null], "images": ["1.jpg", null, "2.jpg"]}`. A picture
is what `Folder.picture` reads. OBELICS itself is published with addresses, so its pictures have to be downloaded and
named instead; where both lists are null (a picture that is gone) there is nothing.
"""

from jam_jax.data.documents import Document, merged
from jam_jax.data.formats.files import Folder, text
from jam_jax.data.formats.table import Layout, Values


def is_obelics(values: Values) -> bool:
    """Whether a row has the two lists."""
    return isinstance(values.get("texts"), list) and isinstance(values.get("images"), list)


def layout(rows: list[Values]) -> Layout:
    """The layout of `texts` and `images`. ValueError if no row has them."""
    if not any(map(is_obelics, rows)):
        raise ValueError('these are no interleaved documents: expected {"texts": [text, null, …], "images": [null, …]}')
    return Layout(
        "interleaved documents of texts and images",
        _documents,
        lambda values: [values.get("texts"), values.get("images")],
        ("texts", "images"),
    )


def _documents(values: Values, folder: Folder) -> list[Document]:
    if not is_obelics(values):
        raise ValueError('a record is {"texts": [text, null, …], "images": [null, picture, …]}')
    texts, images = values["texts"], values["images"]
    if len(texts) != len(images):
        raise ValueError(f"texts and images are lists of one length, got {len(texts)} and {len(images)}")
    parts: list[str | bytes] = []
    for i, (words, image) in enumerate(zip(texts, images, strict=True)):
        if words is not None and image is not None:
            raise ValueError(f"texts and images both have something at {i}: one of them is null")
        parts.append(text(words) if image is None else folder.picture(image) or "")
    return [Document(merged(parts))]
