"""Where every row of a batch stands while it is decoded, and what may come next (arXiv 2309.15564, section 3).

The grammar comes from the TokenSpace's table: in text a row may write text, open a picture or end; in a picture each
position of the layout is a code or a forced id; then one of the closers comes. Families differ in their tables only.
A row that fills gaps (arXiv 2201.07520) writes one span after another: `<mask:i>`, forced, text until it chooses
`<eoss>` or exactly so many codes, then the forced `<eoss>`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jam_jax.decode.settings import Settings
from jam_jax.tokens import CODE, IMAGE, TEXT, TokenSpace

WRITING, DRAWING, FILLING, ENDED = 0, 1, 2, 3  # phases of a row
NO_LIMIT = 2**30


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Numbers:
    """What a row's settings say, as arrays: traced, so that other settings need no other program.

    Pairs [B, 2] are of text and of images.
    """

    temperature: jax.Array  # [B, 2] float32
    top_k: jax.Array  # [B, 2] int32
    top_p: jax.Array  # [B, 2] float32
    penalty: jax.Array  # [B, 2] float32
    guidance: jax.Array  # [B] float32
    cd_k: jax.Array  # [B] int32
    cd_share: jax.Array  # [B] float32
    text: jax.Array  # [B, 2] int32: least and most tokens of text
    images: jax.Array  # [B, 2] int32: least and most pictures

    @staticmethod
    def of(settings: Sequence[Settings]) -> "Numbers":
        """The numbers of one Settings a row."""
        both = [(s.text, s.image) for s in settings]
        return Numbers(
            temperature=jnp.array([[m.temperature for m in pair] for pair in both], jnp.float32),
            top_k=jnp.array([[m.top_k for m in pair] for pair in both], jnp.int32),
            top_p=jnp.array([[m.top_p for m in pair] for pair in both], jnp.float32),
            penalty=jnp.array([[m.repetition_penalty for m in pair] for pair in both], jnp.float32),
            guidance=jnp.array([s.guidance for s in settings], jnp.float32),
            cd_k=jnp.array([s.cd_k for s in settings], jnp.int32),
            cd_share=jnp.array([s.cd_share for s in settings], jnp.float32),
            text=jnp.array([(s.min_text, NO_LIMIT if s.max_text is None else s.max_text) for s in settings], jnp.int32),
            images=jnp.array([(s.min_images, s.max_images) for s in settings], jnp.int32),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """A batch while it is decoded; the carry of the loop. Rows do not depend on each other."""

    tokens: jax.Array  # [B, S] int32: the prompt, then what was written, then pads
    length: jax.Array  # [B] int32: tokens the row holds; its next token goes to this position
    limit: jax.Array  # [B] int32: the row's own end of the buffer, one past its last possible token
    phase: jax.Array  # [B] int32: WRITING, DRAWING, FILLING or ENDED
    # [B] int32: of the next token in the picture's layout while DRAWING (len(layout): a closer is next), in the span
    # while FILLING (-1: its sentinel is next)
    place: jax.Array
    images: jax.Array  # [B] int32: pictures of the answer so far, one that the prompt opened included
    texts: jax.Array  # [B] int32: tokens of text of the answer so far
    keys: jax.Array  # [B] random keys, folded with the position that a token is chosen for
    prefix: jax.Array  # [B] int32: tokens before the opening id in guidance's second stream
    seen: jax.Array | None  # [B, V] bool: ids that the row holds; None where no row is penalised for repeating
    spans: jax.Array | None  # [B, M] int32: codes of every span to fill, 0 of text, -1 none; None where no row fills
    span: jax.Array  # [B] int32: the span that is being filled
    cache: Any  # the model's, of B rows; slot = position
    second: Any  # that of guidance's second stream, of B rows with fewer slots; None where no row is guided


def draws(space: TokenSpace, state: State) -> jax.Array:
    """bool [B]: rows whose next token stands inside a picture's layout (the closer does not)."""
    return (state.phase == DRAWING) & (state.place < len(space.picture_layout))


def codes_left(state: State) -> jax.Array:
    """int32 [B]: codes that a filling row's span still takes; 0 at its end and in text, and for all other rows."""
    if state.spans is None:
        return jnp.zeros_like(state.span)
    wanted = jnp.take_along_axis(state.spans, state.span[:, None], axis=1)[:, 0]
    return jnp.where(state.phase == FILLING, jnp.maximum(wanted - state.place, 0), 0)


def chooses_code(space: TokenSpace, state: State) -> jax.Array:
    """bool [B]: rows whose next token is of a picture."""
    return draws(space, state) | (codes_left(state) > 0)


def allowed(space: TokenSpace, state: State, numbers: Numbers) -> jax.Array:
    """bool [B, V]: the ids that may come next where none is forced."""
    room = state.limit - state.length >= picture_room(space)
    starts = space.draws & (state.images < numbers.images[:, 1]) & room
    # What is still owed keeps a row from ending, as long as it can be had.
    more = state.texts < numbers.text[:, 1]
    done = (state.texts >= numbers.text[:, 0]) & ((state.images >= numbers.images[:, 0]) | ~starts)
    text = jnp.asarray(_ids(space, np.flatnonzero(space.modality == TEXT)))
    end = jnp.asarray(_ids(space, [space.end_of_document]))
    opening = jnp.asarray(_ids(space, space.picture_layout[:1]))
    codes = jnp.asarray(_ids(space, np.flatnonzero(space.modality == IMAGE)))
    others = [i for i in space.picture_closers if i != space.end_of_document]
    last = (end & (done | (not others))[:, None]) if len(others) < len(space.picture_closers) else False
    writing = (text & more[:, None]) | (opening & starts[:, None]) | (end & done[:, None])
    closing = jnp.asarray(_ids(space, others)) | last
    ids = jnp.where((state.phase == DRAWING)[:, None], closing, writing)
    if state.spans is not None:
        assert space.end_of_infill is not None, "checked before a row fills anything"
        stop = jnp.asarray(_ids(space, [space.end_of_infill])) & (state.texts >= numbers.text[:, 0])[:, None]
        ids = jnp.where((state.phase == FILLING)[:, None], (text & more[:, None]) | stop, ids)
    return jnp.where(chooses_code(space, state)[:, None], codes, ids)


def forced(space: TokenSpace, state: State) -> jax.Array:
    """int32 [B]: the id that must come next, CODE (-1) where one is chosen.

    The last token of a row's buffer is the end of the document, which `picture_room` keeps outside of pictures, or
    where a row fills the end of the infill.
    """
    layout = jnp.asarray([*space.picture_layout, CODE], jnp.int32)
    # The place of another phase may lie past the layout: it is not used.
    found = jnp.where(state.phase == DRAWING, layout[jnp.where(state.phase == DRAWING, state.place, 0)], CODE)
    last = jnp.full_like(found, space.end_of_document)
    if state.spans is not None:
        filling, eoss = state.phase == FILLING, jnp.int32(space.end_of_infill)
        wanted = jnp.take_along_axis(state.spans, state.span[:, None], axis=1)[:, 0]
        sentinel = jnp.asarray(space.sentinel_ids, jnp.int32)[state.span]
        full = (wanted > 0) & (state.place == wanted)
        found = jnp.where(filling, jnp.where(state.place < 0, sentinel, jnp.where(full, eoss, CODE)), found)
        last = jnp.where(filling, eoss, last)
    return jnp.where(state.length == state.limit - 1, last, found)


def advance(space: TokenSpace, state: State, token: jax.Array) -> State:
    """The state with token [B] appended to every row that has not ended."""
    live = state.phase != ENDED
    writing, inside = state.phase == WRITING, draws(space, state)
    opens = writing & (token == space.start_of_image) if space.draws else jnp.zeros_like(writing)
    ends = ~live | (~inside & (state.phase != FILLING) & (token == space.end_of_document))
    phase = jnp.where(opens | inside, DRAWING, WRITING)
    place = jnp.where(opens, 1, state.place + inside)
    span = state.span
    if state.spans is not None:
        filling = state.phase == FILLING
        filled = filling & (token == space.end_of_infill)
        following = jnp.minimum(span + 1, state.spans.shape[1] - 1)
        more = (span + 1 < state.spans.shape[1]) & (jnp.take_along_axis(state.spans, following[:, None], 1)[:, 0] >= 0)
        ends |= (filled & ~more) | (filling & (state.length == state.limit - 1))
        phase = jnp.where(filling, FILLING, phase)
        place = jnp.where(filled, -1, jnp.where(filling, state.place + 1, place))
        span = jnp.where(filled, following, span)
    rows = jnp.arange(token.shape[0])
    slot = jnp.where(live, state.length, state.tokens.shape[1])  # past the buffer: dropped
    is_text = jnp.asarray(space.modality == TEXT)[token]
    return dataclasses.replace(
        state,
        tokens=state.tokens.at[rows, slot].set(token, mode="drop"),
        length=state.length + live,
        phase=jnp.where(ends, ENDED, phase),
        place=place,
        images=state.images + opens,
        texts=state.texts + (live & is_text),
        seen=None if state.seen is None else state.seen.at[rows, token].set(True),
        span=span,
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
