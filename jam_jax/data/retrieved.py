"""A retrieved document as it stands before another one (arXiv 2309.15564 section 2.1).

In JAM `</s> (caption <break> image <break>) x K caption <break> image </s>`: the `</s>` that closes a retrieved
document's picture gives way to `<break>`; a text keeps it. Where pictures have a closing token of their own a retrieved
document loses only what opens and closes documents, which stands around the whole.
"""

from collections.abc import Iterable

import numpy as np

from jam_jax.tokens import TEXT, TokenSpace


def standing(space: TokenSpace, ids: np.ndarray) -> np.ndarray:
    """A store's record → its ids before another document, int32 [T].

    ValueError for one that ends in a text, if the vocabulary has nothing to put between that and the next document.
    """
    ids = np.asarray(ids, np.int32)[0 if space.start_of_document is None else 1 :]
    closing = space.picture_closers[:1] if space.end_of_document in space.picture_closers else ()
    if len(ids) < 2 or space.modality[ids[-2]] != TEXT:
        return np.concatenate([ids[:-1], closing]).astype(np.int32)
    if not separates_texts(space):
        raise ValueError(
            "a document that ends in a text cannot be retrieved: this vocabulary has nothing to put between it and "
            "the next one"
        )
    return ids


def before(space: TokenSpace, documents: Iterable[np.ndarray], room: int) -> np.ndarray:
    """Records, the most similar first → the ids of those that fit into `room` tokens together, int32 [T]."""
    found = [np.empty(0, np.int32)]
    for ids in documents:
        found.append(standing(space, ids))
        room -= len(found[-1])
        if room < 0:
            found.pop()
            break
    return np.concatenate(found)


def separates_texts(space: TokenSpace) -> bool:
    """Whether documents that end in a text may stand before others."""
    return space.end_of_document in space.picture_closers
