"""The decoder again, uncached and in plain Python: one row, the whole sequence through the model for every token.

Beside it the tiny models, vocabularies and settings that tests of decoding share.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jam_jax import tokens
from jam_jax.config import CrossConfig, DecoderConfig
from jam_jax.decode import engine, weights
from jam_jax.decode.settings import Sampling, Settings
from jam_jax.models import model
from jam_jax.tokens import CODE, IMAGE, TEXT, TokenSpace

JAM = tokens.jam(text=20, codes=8, codes_per_image=4, sentinels=3, pad_to=8)
# Chameleon's: an opening and a closing id of their own, no sentinels.
PAIRED = dataclasses.replace(
    JAM,
    end_of_image=29,
    end_of_infill=29,
    sentinels=(30, 30),
    picture_layout=(28, CODE, CODE, CODE, CODE),
    picture_closers=(29,),
)
# Lumina's: rows of codes, each closed by a newline token; the text range lies around the codes.
ROWS = dataclasses.replace(
    PAIRED, text=(4, 28), image_ids=tuple(range(12, 20)), picture_layout=(28, CODE, CODE, 31, CODE, CODE, 31)
)
# Liquid's: a start of its own, and a form of its own for a picture of nothing.
OWN = dataclasses.replace(PAIRED, start_of_document=3, unconditional=(3, 30))
SPACES = {"jam": JAM, "paired": PAIRED, "rows": ROWS, "own": OWN}
TEXT_ONLY = dataclasses.replace(
    PAIRED, image_ids=(), start_of_image=None, end_of_image=None, picture_layout=(), picture_closers=()
)

TINY = DecoderConfig(
    vocab_size=JAM.vocab_size, layers=3, width=16, heads=2, head_size=8, ffn_width=32, max_positions=48
)
ROTARY = dataclasses.replace(TINY, positions="rope", norm="rmsnorm", ffn="silu_gated", kv_heads=1, tied=False)
# Its matrices are large enough for a CPU to multiply one or two rows with them in a way of its own (`few_rows`).
WIDE = dataclasses.replace(TINY, layers=2, width=256, heads=4, head_size=64, ffn_width=512)
CONFIGS = {"decoder": TINY, "wide": WIDE, "rotary": ROTARY, "cross": CrossConfig(llm=TINY, img=TINY, every=2)}

GREEDY = Sampling(temperature=0.0, top_p=1.0)
WARM = Sampling(temperature=4.0, top_k=14, top_p=0.95)
PLAIN = Settings(text=Sampling(top_p=1.0), image=Sampling(top_k=3, top_p=1.0), guidance=1.0)
GUIDED = Settings(text=WARM, image=Sampling(temperature=0.7, top_p=0.8), guidance=3.0, max_images=2)


def random_params(config: model.LanguageConfig) -> dict:
    """Parameters far from zero, so that logits differ and the text opens pictures."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: rng.normal(0, 0.5, s.shape).astype(s.dtype), model.shapes(config))


PARAMS = {name: random_params(config) for name, config in CONFIGS.items()}
PROMPTS = [[2, 5, 9, 7], [2, 11], [2, 4, 6, 28], [2, 8, 8, 8, 8, 8, 8, 8, 10]]  # the third has opened a picture

FULL = {
    name: jax.jit(lambda p, t, n, c=config: model.forward(c, p, t)[0][0, n - 1]) for name, config in CONFIGS.items()
}
FOLD = jax.jit(jax.random.fold_in)
SHARE = jax.jit(lambda key, number: jax.random.uniform(jax.random.fold_in(key, number)))


@functools.cache
def ready(name: str, rows: int | None = None) -> tuple[model.LanguageConfig, dict]:
    """One of the tiny models as it decodes."""
    return weights.prepare(CONFIGS[name], PARAMS[name], rows=rows)


def decode(
    name: str,
    space: TokenSpace,
    prompts: Sequence[list[int]],
    settings: Settings | Sequence[Settings],
    seed: int = 5,
    *,
    few: bool = False,
    **how: Any,
) -> list[list[int]]:
    """The engine on one of the tiny models."""
    return engine.generate(*ready(name, len(prompts) if few else None), space, prompts, settings, seed=seed, **how)


def logits_after(name: str, ids: list[int]) -> np.ndarray:
    padded = np.zeros((1, CONFIGS[name].max_positions), np.int32)
    padded[0, : len(ids)] = ids
    return np.asarray(FULL[name](PARAMS[name], padded, len(ids)), np.float64)


def uncached(
    name: str,
    space: TokenSpace,
    prompt: Sequence[int],
    settings: Settings,
    key: jax.Array,
    prefix: Sequence[int] | None = None,
    spans: Sequence[int] = (),
) -> list[int]:
    """What the engine should give for one prompt."""
    ids, n, end, eoss = list(prompt), len(space.picture_layout), space.end_of_document, space.end_of_infill
    limit = min(CONFIGS[name].max_positions, len(prompt) + (settings.max_new_tokens or 10**6))
    room = n + (1 if end in space.picture_closers else 2)
    blank = [space.start] if settings.contrast == "start" else list(space.blank)
    place = 1 if prompt[-1] == space.start_of_image else 0  # 0: text; else the place of the next token in the picture
    images, texts, span, at = place, 0, 0, 0  # `at`: of the next token in the span that is being filled
    while True:
        inside = 0 < place < n and not spans
        code = inside or bool(spans and 0 <= at < spans[span])
        starts = space.draws and images < settings.max_images and limit - len(ids) >= room
        done = texts >= settings.min_text and (images >= settings.min_images or not starts)
        text = [i for i in range(space.vocab_size) if space.modality[i] == TEXT]
        text = text if settings.max_text is None or texts < settings.max_text else []
        if len(ids) == limit - 1:
            token = eoss if spans else end
        elif spans and at < 0:
            token = space.sentinel(span)
        elif spans and spans[span] and at == spans[span]:
            token = eoss
        elif inside and space.picture_layout[place] != CODE:
            token = space.picture_layout[place]
        else:
            logits = logits_after(name, ids)
            if code:
                may = [i for i in range(space.vocab_size) if space.modality[i] == IMAGE]
            elif spans:
                may = text + [eoss] * (texts >= settings.min_text)
            elif place == n and place:
                may = [i for i in space.picture_closers if i != end or done or space.picture_closers == (end,)]
            else:
                may = text + [end] * done + [space.start_of_image] * starts
            if inside and (settings.guidance != 1 or settings.cd_k):
                u = logits_after(name, [*(blank if prefix is None else prefix), *ids[len(ids) - place :]])
                logits = contrasted(logits, u, may, settings) if settings.cd_k else u + settings.guidance * (logits - u)
            how = settings.image if code else settings.text
            own = {i for i in ids if space.modality[i] == (IMAGE if code else TEXT)}
            factor = how.repetition_penalty
            logits = np.array([(v / factor if v > 0 else v * factor) if i in own else v for i, v in enumerate(logits)])
            token = choose(logits, may, how, FOLD(key, len(ids)))
        ids.append(token)
        texts += int(space.modality[token] == TEXT)
        if spans:
            at = -1 if token == eoss else at + 1
            span += token == eoss
            if span == len(spans) or len(ids) == limit:
                return ids[len(prompt) :]
            continue
        if token == end and not inside:
            return ids[len(prompt) :]
        opens = place == 0 and token == space.start_of_image
        images += opens
        place = 1 if opens else place + 1 if inside else 0


def contrasted(c: np.ndarray, u: np.ndarray, may: list[int], settings: Settings) -> np.ndarray:
    """CD-K: log p - log q where p is at least a share of the k-th likeliest."""
    p, q = (np.exp(x[may] - x[may].max()) / np.exp(x[may] - x[may].max()).sum() for x in (c, u))
    least = settings.cd_share * np.sort(p)[::-1][min(settings.cd_k, len(may)) - 1]
    found = np.full(len(c), -np.inf)
    found[may] = np.where(p >= least, np.log(p) - np.log(q), -np.inf)
    return found


def choose(logits: np.ndarray, may: Sequence[int], how: Sampling, key: jax.Array) -> int:
    """One of the allowed ids: drawn from all that are left, in their order, until it is within the limits."""
    left = np.array([i for i in sorted(set(may)) if logits[i] > -np.inf])
    order = left[np.argsort(-logits[left], kind="stable")]
    if how.temperature == 0:
        return int(order[0])
    mass = np.exp((logits - logits[order[0]]) / how.temperature)
    order = order[: how.top_k or None]
    p = mass[order] / mass[order].sum()
    keep = order[(np.cumsum(p) - p < how.top_p) | (how.top_p == 1)]
    for number in itertools.count():
        ends = np.cumsum(mass[left])
        token = left[np.searchsorted(ends, float(SHARE(key, number)) * ends[-1], side="right")]
        if token in keep:
            break
        left = left[logits[left] > logits[token]]
    return int(token)
