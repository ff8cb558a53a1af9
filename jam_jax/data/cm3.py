"""The CM3 objective: spans of a block are moved behind it, so that a causal model learns to fill gaps (2201.07520).

JAM and CM3leon apply it to a packed block of tokens (arXiv 2309.15564 section 2.1, 2309.02591 section 2.2). Three
steps, each a pure function on NumPy arrays: `draw` spans anywhere, `clip` each to one segment between breaks, and
`layout` the block with `<mask:i>` in the gaps and `<mask:i> span <eoss>` at its end.

The original loses tokens in three rare cases, which do not happen here: a span of length zero swallowed the token at
its start, a span over one `<break>` and nothing else masked that break, and spans that left less source than the room
they needed cut the source wrongly.
"""

import itertools

import numpy as np

from jam_jax.tokens import TEXT, TokenSpace

Span = tuple[int, int]  # [start, end) in the block


def draw(rng: np.random.Generator, length: int, max_spans: int, mean: float = 1.0) -> list[Span]:
    """Spans of a block of `length` tokens, in the order drawn; often none.

    Their number is Poisson(mean), at most `max_spans`. One span lies between two uniform draws; for n >= 2 spans n * n
    candidates are drawn and taken from the last on if they are disjoint from those taken, until there are n.
    """
    n = min(int(rng.poisson(mean)), max_spans)
    if n < 2:
        low, high = np.sort(rng.random(2))
        span = (int(low * length), int(high * length + 0.5))
        return [span] if n and span[0] < span[1] else []
    points = rng.random((n * n, 2))
    pairs = np.stack([(points[:, 0] * length).astype(int), (points[:, 1] * length + 0.5).astype(int)], axis=1)
    taken: list[Span] = []
    for low, high in np.sort(pairs, axis=1)[::-1].tolist():  # rounded before they are ordered, as the original does
        if len(taken) == n:
            break
        if all(high <= start or end <= low for start, end in taken):
            taken.append((low, high))
    return taken


def stops(space: TokenSpace) -> tuple[int, ...]:
    """The ids that no span holds: the breaks, as in the original, and the ends and starts of documents [ours]."""
    named = (space.start_of_image, space.end_of_image, space.end_of_document, space.start_of_document)
    return tuple(i for i in named if i is not None)


def segments(tokens: np.ndarray, stops: tuple[int, ...]) -> list[Span]:
    """The parts of a block between `stops`, in order; the block's first token belongs to none."""
    at = np.flatnonzero((tokens[:, None] == np.array(stops)).any(1)).tolist()
    if not at or at[0] != 0:
        at.insert(0, 0)
    if at[-1] != len(tokens) - 1:
        at.append(len(tokens))
    return [(a + 1, b) for a, b in itertools.pairwise(at) if a + 1 < b]


def clip(tokens: np.ndarray, spans: list[Span], stops: tuple[int, ...]) -> list[Span]:
    """Cut every span to the segment that it overlaps most (the first of equals); sorted, empty ones left out."""
    parts = segments(tokens, stops)
    clipped = []
    for start, end in spans:
        best = max(((max(start, a), min(end, b)) for a, b in parts), key=lambda s: s[1] - s[0], default=(0, 0))
        if best[0] < best[1]:
            clipped.append(best)
    return sorted(clipped)


def layout(tokens: np.ndarray, spans: list[Span], space: TokenSpace, limit: int) -> np.ndarray:
    """The masked block, int32, at most `limit` tokens: source with `<mask:i>` for span i, then `<mask:i> span <eoss>`.

    `spans` are sorted, disjoint and not empty. The result is 3 tokens a span longer than `tokens`; where that passes
    `limit` the end of the source is cut and the spans stay whole. Spans for which there is no room are left in place,
    the last first.
    """
    while spans:
        moved = sum(end - start for start, end in spans)
        if moved + 2 * len(spans) <= limit:
            break
        spans = spans[:-1]
    if not spans:
        return np.asarray(tokens[:limit], np.int32)
    source: list[np.ndarray] = []
    behind: list[np.ndarray] = []
    done = 0
    for i, (start, end) in enumerate(spans):
        mask = [space.sentinel(i)]
        source += [tokens[done:start], np.array(mask)]
        behind += [np.array(mask), tokens[start:end], np.array([space.end_of_infill])]
        done = end
    tail = np.concatenate(behind)
    head = np.concatenate([*source, tokens[done:]])[: limit - len(tail)]
    return np.concatenate([head, tail]).astype(np.int32)


def mask(rng: np.random.Generator, tokens: np.ndarray, space: TokenSpace, limit: int, mean: float = 1.0) -> np.ndarray:
    """The whole objective: int32 [T] → int32 [at most limit], drawn from `rng`; often the block as it is.

    ValueError if the vocabulary has no sentinels or no end of infill.
    """
    space.require_infill()
    spans = draw(rng, len(tokens), len(space.sentinel_ids), mean)
    return layout(tokens, clip(tokens, spans, stops(space)), space, limit)


def caption_end(tokens: np.ndarray, space: TokenSpace) -> int:
    """Where the caption of a pair `</s> caption <break> picture </s>` ends; 0 if the block is anything else."""
    opened = np.flatnonzero(tokens == space.start_of_image)
    if not space.draws or not len(opened) or tokens[0] != space.start or tokens[-1] != space.end_of_document:
        return 0
    start = int(opened[0])
    whole = start + len(space.picture_layout)  # where the picture is closed
    one_picture = len(tokens) - 1 - whole in (0, 1) and tokens[whole] in space.picture_closers
    return start if start > 1 and one_picture and (space.modality[tokens[1:start]] == TEXT).all() else 0


def mask_caption(tokens: np.ndarray, space: TokenSpace, limit: int) -> np.ndarray:
    """`</s> caption <break> picture </s>` → `</s> <mask:0> <break> picture </s> <mask:0> caption <eoss>` [ours].

    It teaches the unconditional stream that guidance contrasts with; where a vocabulary has a form of its own for that
    stream, the caption gives way to it and is left out. Beyond `limit` the end is cut, so that the picture stays whole.
    ValueError if the block is no pair (`caption_end`).
    """
    end = caption_end(tokens, space)
    if not end:
        raise ValueError("only a caption with its picture, between two ends of document, can have its caption masked")
    if space.unconditional is not None:
        return np.array([*space.unconditional, *tokens[end:]], np.int32)[:limit]
    space.require_infill()
    return layout(tokens, [(1, end)], space, len(tokens) + 3)[:limit]
