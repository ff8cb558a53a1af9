"""The CM3 objective: spans of a block are moved behind it, so that a causal model learns to fill gaps (2201.07520).

JAM and CM3leon apply it to a packed block of tokens (arXiv 2309.15564 section 2.1, 2309.02591 section 2.2). Three
steps, each a pure function on NumPy arrays: `draw` spans anywhere, `clip` each to one segment between breaks, and
`layout` the block with `<mask:i>` in the gaps and `<mask:i> span <eoss>` at its end. `fill_in` lays out the prompt that
asks a trained model what stands in gaps.

The original loses tokens in three rare cases, which do not happen here: a span of length zero swallowed the token at
its start, a span over one `<break>` and nothing else masked that break, and spans that left less source than the room
they needed cut the source wrongly.
"""

import bisect
import itertools

import numpy as np

from jam_jax.tokens import TEXT, TokenSpace

Span = tuple[int, int]  # [start, end) in the block


def draw_number(rng: np.random.Generator, max_spans: int, mean: float = 1.0) -> int:
    """How many spans a block has: Poisson(mean), at most `max_spans`; often none."""
    return min(int(rng.poisson(mean)), max_spans)


def draw(rng: np.random.Generator, n: int, length: int) -> list[Span]:
    """Up to n spans of a block of `length` tokens, in the order drawn; a single one that is empty is not given.

    One span lies between two uniform draws; for n >= 2 spans n * n candidates are drawn and taken from the last on if
    they are disjoint from those taken, until there are n.
    """
    if n < 2:
        low, high = sorted(rng.random(2).tolist())  # drawn for n = 0 too
        span = (int(low * length), int(high * length + 0.5))
        return [span] if n and span[0] < span[1] else []
    points = rng.random((n * n, 2)) * length
    points[:, 1] += 0.5
    taken: list[Span] = []
    for a, b in points.astype(int)[::-1].tolist():
        low, high = min(a, b), max(a, b)  # rounded before they are ordered, as the original does
        if len(taken) == n:
            break
        if all(high <= start or end <= low for start, end in taken):
            taken.append((low, high))
    return taken


def draw_segments(rng: np.random.Generator, parts: list[Span], n: int) -> list[Span]:
    """Whole segments in place of n spans: one of them, or n where there are more than n; otherwise none.

    CM3leon's: a whole caption masked teaches captioning, a whole picture infilling.
    """
    if (n == 1 and parts) or 1 < n < len(parts):
        return [parts[i] for i in rng.choice(len(parts), n, replace=False)]
    return []


def stops(space: TokenSpace) -> tuple[int, ...]:
    """The ids that no span holds: the breaks, as in the original, and the ends and starts of documents [ours]."""
    named = (space.start_of_image, space.end_of_image, space.end_of_document, space.start_of_document)
    return tuple(i for i in named if i is not None)


def segments(tokens: np.ndarray, stops: tuple[int, ...]) -> list[Span]:
    """The parts of a block between `stops`, in order; the block's first token belongs to none."""
    found = tokens == stops[0]
    for stop in set(stops[1:]) - {stops[0]}:
        found |= tokens == stop
    at = np.flatnonzero(found).tolist()
    if not at or at[0] != 0:
        at.insert(0, 0)
    if at[-1] != len(tokens) - 1:
        at.append(len(tokens))
    return [(a + 1, b) for a, b in itertools.pairwise(at) if a + 1 < b]


def clip(tokens: np.ndarray, spans: list[Span], stops: tuple[int, ...]) -> list[Span]:
    """Cut every span to the segment that it overlaps most (the first of equals); sorted, empty ones left out."""
    clipped = []
    parts = segments(tokens, stops) if spans else []
    starts, ends = [a for a, _ in parts], [b for _, b in parts]
    for start, end in spans:
        touched = parts[bisect.bisect_right(ends, start) : bisect.bisect_left(starts, end)]
        cuts = [(max(start, a), min(end, b)) for a, b in touched]
        if cuts and start < end:
            clipped.append(max(cuts, key=lambda cut: cut[1] - cut[0]))
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
    behind: list[np.ndarray] = []
    for i, (start, end) in enumerate(spans):
        behind += [np.array([space.sentinel(i)]), tokens[start:end], np.array([space.end_of_infill])]
    tail = np.concatenate(behind)
    return np.concatenate([_with_gaps(tokens, spans, space)[: limit - len(tail)], tail]).astype(np.int32)


def _with_gaps(tokens: np.ndarray, spans: list[Span], space: TokenSpace) -> np.ndarray:
    """The source with `<mask:i>` in place of span i."""
    parts: list[np.ndarray] = []
    done = 0
    for i, (start, end) in enumerate(spans):
        parts += [tokens[done:start], np.array([space.sentinel(i)])]
        done = end
    return np.concatenate([*parts, tokens[done:]])


def fill_in(tokens: np.ndarray, gaps: list[Span], space: TokenSpace) -> np.ndarray:
    """The prompt that asks what stands in `gaps`, int32: as `layout` up to the first `<mask:0>` behind the source.

    A gap [start, end) covers what is to be written anew, and may be empty. The model goes on with the first gap's
    tokens and `<eoss>`; for the next gap `<mask:1>` is put behind that. ValueError if there is no gap, if gaps overlap,
    are not in order, or lie outside of `tokens`, or if the vocabulary has no sentinels or no end of infill.
    """
    space.require_infill()
    edges = [edge for gap in gaps for edge in gap]
    if not gaps or edges != sorted(edges) or edges[0] < 0 or edges[-1] > len(tokens):
        raise ValueError(f"gaps must lie in order inside the {len(tokens)} tokens, without overlap; got {gaps}")
    return np.append(_with_gaps(tokens, gaps, space), space.sentinel(0)).astype(np.int32)


def choose(
    rng: np.random.Generator,
    tokens: np.ndarray,
    stops: tuple[int, ...],
    max_spans: int,
    mean: float = 1.0,
    whole: float = 0.0,
) -> list[Span]:
    """The spans of a block that are masked, in order, none of them empty; often there are none.

    `whole` is the share of the blocks in which whole segments are masked in place of spans.
    """
    n = draw_number(rng, max_spans, mean)
    if whole and rng.random() < whole and (chosen := draw_segments(rng, segments(tokens, stops), n)):
        return sorted(chosen)
    return clip(tokens, draw(rng, n, len(tokens)), stops)


def mask(
    rng: np.random.Generator,
    tokens: np.ndarray,
    space: TokenSpace,
    limit: int,
    mean: float = 1.0,
    whole: float = 0.0,
) -> np.ndarray:
    """The whole objective: int32 [T] → int32 [at most limit], drawn from `rng` (`choose`).

    ValueError if the vocabulary has no sentinels or no end of infill.
    """
    space.require_infill()
    spans = choose(rng, tokens, stops(space), len(space.sentinel_ids), mean, whole)
    return layout(tokens, spans, space, limit)


def caption_end(tokens: np.ndarray, space: TokenSpace) -> int:
    """Where the caption of a pair `</s> caption <break> picture </s>` ends; 0 if the block is anything else."""
    opened = np.flatnonzero(tokens == space.start_of_image)
    if not space.draws or not len(opened) or tokens[0] != space.start or tokens[-1] != space.end_of_document:
        return 0
    start = int(opened[0])
    whole = start + len(space.picture_layout)  # where the picture is closed
    one_picture = len(tokens) - 1 - whole in (0, 1) and tokens[whole] in space.picture_closers
    return start if start > 1 and one_picture and (space.modality[tokens[1:start]] == TEXT).all() else 0


def last_caption(tokens: np.ndarray, space: TokenSpace) -> slice | None:
    """Where the caption stands in `</s> retrieved documents, caption <break> picture </s>`; None for anything else."""
    if not space.draws or tokens[0] != space.start or tokens[-1] != space.end_of_document:
        return None
    for closed in (len(tokens) - 1, len(tokens) - 2):  # the end of the document may close its picture
        end = closed - len(space.picture_layout)
        if end > 1 and tokens[end] == space.start_of_image and tokens[closed] in space.picture_closers:
            others = np.flatnonzero(space.modality[tokens[1:end]] != TEXT)
            start = int(others[-1]) + 2 if len(others) else 1
            return slice(start, end) if start < end else None
    return None


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
