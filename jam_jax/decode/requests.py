"""What is asked of the decoder, checked before anything is computed: each mistake is one line that says the remedy."""

import dataclasses
from collections.abc import Sequence

from jam_jax.decode import state as states
from jam_jax.decode.settings import Settings
from jam_jax.decode.state import DRAWING, FILLING, WRITING
from jam_jax.models.model import LanguageConfig
from jam_jax.tokens import IMAGE, TokenSpace


@dataclasses.dataclass(frozen=True)
class Request:
    """One row to be."""

    prompt: tuple[int, ...]
    settings: Settings
    prefix: tuple[int, ...]  # before the opening id in guidance's second stream
    # Gaps to fill, in the order of their sentinels: the number of codes, 0 for text. The prompt holds `<mask:i>` in
    # place of each and ends with `<mask:0>`, which the first is written behind. (): the prompt is gone on with.
    spans: tuple[int, ...]
    limit: int  # one past the last position that the row may fill
    phase: int  # in which the prompt leaves the row
    place: int

    @property
    def draws(self) -> bool:
        """Whether it may hold a picture of its own."""
        return not self.spans and (self.settings.max_images > 0 or self.phase == DRAWING)


def read(
    config: LanguageConfig,
    space: TokenSpace,
    prompts: Sequence[Sequence[int]],
    settings: Settings | Sequence[Settings],
    unconditional: Sequence[Sequence[int]] | None = None,
    spans: Sequence[Sequence[int]] | None = None,
) -> list[Request]:
    """The requests of a call; ValueError for a prompt that cannot be continued, or lists of other lengths."""
    every = [settings] * len(prompts) if isinstance(settings, Settings) else list(settings)
    lists = {"settings": every, "unconditional prompts": unconditional, "spans": spans}
    for name, values in lists.items():
        if values is not None and len(values) != len(prompts):
            raise ValueError(f"there are {len(prompts)} prompts, but {len(values)} {name}: give one for each")
    requests = []
    for i, (prompt, mine) in enumerate(zip(prompts, every, strict=True)):
        gaps = tuple(spans[i]) if spans is not None else ()
        phase, place = _check_prompt(config, space, prompt, mine, gaps, i)
        prefix = tuple(unconditional[i]) if unconditional is not None else second_prefix(space, mine)
        limit = _limit(config, mine, prompt)
        requests.append(Request(tuple(prompt), mine, prefix, gaps, limit, phase, place))
    return requests


def second_prefix(space: TokenSpace, settings: Settings, context: Sequence[int] = ()) -> tuple[int, ...]:
    """What stands before the opening id in guidance's second stream; `context` is what was retrieved, as ids."""
    if settings.contrast == "retrieved" and context:
        return (space.start, *context)
    return (space.start,) if settings.contrast == "start" else space.blank


def owed(space: TokenSpace, settings: Settings) -> int:
    """Tokens of an answer with no more than its settings demand, its end included."""
    return settings.min_text + 1 + settings.min_images * (states.picture_room(space) - 1)


def needed(spans: Sequence[int]) -> int:
    """Tokens of an answer that fills these gaps, and writes nothing into those of text."""
    # Every gap ends with <eoss>, every one but the first begins with a sentinel.
    return sum(spans) + 2 * len(spans) - 1


def check(config: LanguageConfig, space: TokenSpace, requests: Sequence[Request]) -> None:
    """ValueError if the model, its vocabulary and the settings contradict each other."""
    if space.vocab_size != config.vocab_size:
        raise ValueError(
            f"the model has {config.vocab_size} vocabulary rows, its tokenizer {space.vocab_size}: "
            "they do not belong together"
        )
    room = states.picture_room(space)
    for request in requests:
        settings = request.settings
        most = settings.max_new_tokens
        if space.draws and request.phase == WRITING and settings.max_images and most is not None and most < room:
            raise ValueError(
                f"max_new_tokens {most} has no room for a picture, which takes {room}: raise it, or set max_images to 0"
            )
        if settings.min_images and not space.draws:
            space.require_pictures()
        least = owed(space, settings)
        if not request.spans and request.limit - len(request.prompt) < least:
            raise ValueError(
                f"min_text {settings.min_text} and min_images {settings.min_images} need {least} tokens, but there is "
                f"room for {request.limit - len(request.prompt)}: lower them, or raise max_new_tokens"
            )
        prefix = request.prefix
        if not prefix or len(prefix) + len(space.picture_layout) > config.max_positions:
            raise ValueError(
                f"an unconditional prompt must have 1 token or more and leave room for a picture: {prefix}"
            )
        _check_ids(space, prefix, "an unconditional prompt")


def _check_ids(space: TokenSpace, ids: Sequence[int], what: str) -> None:
    if wrong := [token for token in ids if not 0 <= token < space.vocab_size]:
        raise ValueError(f"{what} holds the id {wrong[0]}, but the vocabulary has {space.vocab_size}")


def _check_prompt(
    config: LanguageConfig,
    space: TokenSpace,
    prompt: Sequence[int],
    settings: Settings,
    spans: tuple[int, ...],
    index: int,
) -> tuple[int, int]:
    """(phase, place) that a prompt leaves its row in; ValueError if the row cannot be continued."""
    if not prompt:
        raise ValueError(f"prompt {index} is empty: begin it with the start of a document, {space.start}")
    if len(prompt) >= config.max_positions:
        raise ValueError(
            f"prompt {index} has {len(prompt)} tokens, but the model has {config.max_positions} positions for prompt "
            "and answer together: shorten it"
        )
    _check_ids(space, prompt, f"prompt {index}")
    room = _limit(config, settings, prompt) - len(prompt)
    if spans:
        _check_spans(space, prompt, spans, room, index)
        return FILLING, 0
    try:
        phase, place = states.read_prompt(space, prompt)
    except ValueError as error:
        raise ValueError(f"prompt {index} is malformed: {error}") from error
    least = states.picture_room(space) - place
    if phase == DRAWING and room < least:
        raise ValueError(
            f"prompt {index} opens a picture that needs {least} more tokens, but it has {len(prompt)} itself, "
            f"max_new_tokens is {settings.max_new_tokens} and the model has {config.max_positions} positions"
        )
    return phase, place


def _check_spans(space: TokenSpace, prompt: Sequence[int], spans: tuple[int, ...], room: int, index: int) -> None:
    space.require_infill()
    held = [space.sentinel(i) for i in range(len(spans))]
    if prompt[-1] != held[0] or any(prompt[:-1].count(i) != 1 for i in held):
        raise ValueError(
            f"prompt {index} has {len(spans)} gaps to fill: it must hold <mask:0> to <mask:{len(spans) - 1}> once each "
            "and end with <mask:0>"
        )
    if min(spans) < 0:
        raise ValueError(f"a gap is of so many codes, or 0 for text, got {min(spans)}")
    if max(spans) > 0 and IMAGE not in space.modality:
        space.require_pictures()
    if room < needed(spans):
        raise ValueError(
            f"prompt {index} has gaps that need {needed(spans)} more tokens, but there is room for {room}: shorten it, "
            "fill fewer at once, or raise max_new_tokens"
        )


def _limit(config: LanguageConfig, settings: Settings, prompt: Sequence[int]) -> int:
    """One past the last position that this row may fill."""
    wanted = config.max_positions if settings.max_new_tokens is None else len(prompt) + settings.max_new_tokens
    return min(wanted, config.max_positions)
