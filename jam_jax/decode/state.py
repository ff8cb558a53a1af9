"""Where every row of a batch stands while it is decoded, and what may come next (arXiv 2309.15564, section 3).

The grammar comes from the TokenSpace's table: in text a row may write text, open a picture or end; in a picture each
position of the layout is a code or a forced id; then one of the closers comes. Families differ in their tables only.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jam_jax.tokens import CODE, IMAGE, TEXT, TokenSpace

WRITING, DRAWING, ENDED = 0, 1, 2  # phases of a row


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """A batch while it is decoded; the carry of the loop. Rows do not depend on each other."""

    tokens: jax.Array  # [B, S] int32: the prompt, then what was written, then pads
    length: jax.Array  # [B] int32: tokens the row holds; its next token goes to this position
    limit: jax.Array  # [B] int32: the row's own end of the buffer, one past its last possible token
    phase: jax.Array  # [B] int32: WRITING, DRAWING or ENDED
    place: (
        jax.Array
    )  # [B] int32: of the next token in the picture's layout while DRAWING; len(layout): a closer is next
    images: jax.Array  # [B] int32: pictures of the answer so far, one that the prompt opened included
    keys: jax.Array  # [B] random keys, folded with the position that a token is chosen for
    cache: Any  # the model's, slot = position; 2B rows while some row draws with guidance: unconditional ones last


def draws(space: TokenSpace, state: State) -> jax.Array:
    """bool [B]: rows whose next token stands inside a picture's layout (the closer does not)."""
    return (state.phase == DRAWING) & (state.place < len(space.picture_layout))


def allowed(space: TokenSpace, state: State, max_images: jax.Array) -> jax.Array:
    """bool [B, V]: the ids that may come next where none is forced."""
    starts = space.draws & (state.images < max_images) & (state.limit - state.length >= picture_room(space))
    text = jnp.asarray(_ids(space, np.flatnonzero(space.modality == TEXT)) | _ids(space, [space.end_of_document]))
    opening = jnp.asarray(_ids(space, space.picture_layout[:1]))
    codes = jnp.asarray(_ids(space, np.flatnonzero(space.modality == IMAGE)))
    closers = jnp.asarray(_ids(space, space.picture_closers))
    writing = text | (opening & starts[:, None])
    drawing = jnp.where(draws(space, state)[:, None], codes, closers)
    return jnp.where((state.phase == DRAWING)[:, None], drawing, writing)


def forced(space: TokenSpace, state: State) -> jax.Array:
    """int32 [B]: the id that must come next, CODE (-1) where one is chosen.

    The last token of a row's buffer is the end of the document, which `picture_room` keeps outside of pictures.
    """
    layout = jnp.asarray([*space.picture_layout, CODE], jnp.int32)
    inside = jnp.where(state.phase == DRAWING, layout[state.place], CODE)
    return jnp.where(state.length == state.limit - 1, space.end_of_document, inside)


def advance(space: TokenSpace, state: State, token: jax.Array) -> State:
    """The state with token [B] appended to every row that has not ended."""
    live = state.phase != ENDED
    writing, inside = state.phase == WRITING, draws(space, state)
    opens = writing & (token == space.start_of_image) if space.draws else jnp.zeros_like(writing)
    ends = ~live | (~inside & (token == space.end_of_document))
    rows = jnp.arange(token.shape[0])
    slot = jnp.where(live, state.length, state.tokens.shape[1])  # past the buffer: dropped
    return dataclasses.replace(
        state,
        tokens=state.tokens.at[rows, slot].set(token, mode="drop"),
        length=state.length + live,
        phase=jnp.where(ends, ENDED, jnp.where(opens | inside, DRAWING, WRITING)),
        place=jnp.where(opens, 1, state.place + inside),
        images=state.images + opens,
    )


def picture_room(space: TokenSpace) -> int:
    """Tokens that a picture needs from its opening id to the end of the document."""
    closing = 1 if space.end_of_document in space.picture_closers else 2
    return len(space.picture_layout) + closing


def read_prompt(space: TokenSpace, prompt: Sequence[int]) -> tuple[int, int]:
    """(phase, place) in which a prompt leaves its row; ValueError if a picture in it does not fit the layout."""
    phase, place, layout = WRITING, 0, space.picture_layout
    modality = space.modality
    for index, token in enumerate(prompt):
        if phase == WRITING:
            if token == space.start_of_image:
                space.require_pictures()
                phase, place = DRAWING, 1
            elif modality[token] == IMAGE:
                raise ValueError(f"token {index} is an image code outside of a picture")
        elif place < len(layout):
            if token != layout[place] and not (layout[place] == CODE and modality[token] == IMAGE):
                raise ValueError(f"token {index} is {token}, which cannot stand at place {place} of a picture")
            place += 1
        elif token in space.picture_closers:
            phase, place = WRITING, 0
        else:
            raise ValueError(f"token {index} is {token}, but a picture of {space.codes_per_image} codes must be closed")
    return phase, place


def _ids(space: TokenSpace, ids: Sequence[int] | np.ndarray) -> np.ndarray:
    """bool [V]: true at `ids`."""
    table = np.zeros(space.vocab_size, bool)
    table[np.asarray(ids, np.int64)] = True
    return table
