"""Laws of the interleaved decoder, against an uncached decoder in plain Python."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jam_jax import tokens
from jam_jax.config import CrossConfig, DecoderConfig
from jam_jax.decode import engine
from jam_jax.decode import state as states
from jam_jax.decode.settings import Sampling, Settings
from jam_jax.decode.state import DRAWING, WRITING
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
CONFIGS = {"decoder": TINY, "rotary": ROTARY, "cross": CrossConfig(llm=TINY, img=TINY, every=2)}

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


# An uncached decoder: one row, the whole sequence through the model for every token, decisions in numpy.


def reference(name: str, space: TokenSpace, prompt: Sequence[int], settings: Settings, key: jax.Array) -> list[int]:
    config, params = CONFIGS[name], PARAMS[name]

    def logits_after(ids: list[int]) -> np.ndarray:
        padded = np.zeros((1, config.max_positions), np.int32)
        padded[0, : len(ids)] = ids
        return np.asarray(FULL[name](params, padded, len(ids)), np.float64)

    ids, n = list(prompt), len(space.picture_layout)
    limit = min(config.max_positions, len(prompt) + (settings.max_new_tokens or config.max_positions))
    room = n + (1 if space.end_of_document in space.picture_closers else 2)
    place = 1 if prompt[-1] == space.start_of_image else 0  # 0: text; else the place of the next token in the picture
    images = place
    while True:
        inside = 0 < place < n
        if len(ids) == limit - 1:
            token = space.end_of_document
        elif inside and space.picture_layout[place] != CODE:
            token = space.picture_layout[place]
        else:
            logits = logits_after(ids)
            if inside:
                may = [i for i in range(space.vocab_size) if space.modality[i] == IMAGE]
                mask = [30] if space is JAM else []
                if settings.guidance != 1:
                    u = logits_after([*(space.unconditional or [2, *mask]), *ids[len(ids) - place :]])
                    logits = u + settings.guidance * (logits - u)
            elif place == n:
                may = list(space.picture_closers)
            else:
                may = [i for i in range(space.vocab_size) if space.modality[i] == TEXT] + [space.end_of_document]
                may += [space.start_of_image] * (images < settings.max_images and limit - len(ids) >= room)
            how = settings.image if inside else settings.text
            token = choose(logits, may, how, np.asarray(NOISE(key, len(ids))))
        ids.append(token)
        if token == space.end_of_document and not inside:
            return ids[len(prompt) :]
        opens = place == 0 and token == space.start_of_image
        images += opens
        place = 1 if opens else place + 1 if inside else 0


def choose(logits: np.ndarray, may: list[int], how: Sampling, noise: np.ndarray) -> int:
    order = sorted(set(may), key=lambda i: -logits[i])
    if how.temperature == 0:
        return order[0]
    order = order[: how.top_k or None]
    p = np.exp((logits[order] - logits[order[0]]) / how.temperature)
    p /= p.sum()
    keep = [i for i, before in zip(order, np.cumsum(p) - p, strict=True) if before < how.top_p or how.top_p == 1]
    return max(keep, key=lambda i: logits[i] / how.temperature + noise[i])


FULL = {
    name: jax.jit(lambda p, t, n, c=config: model.forward(c, p, t)[0][0, n - 1]) for name, config in CONFIGS.items()
}
NOISE = jax.jit(lambda key, n: jax.random.gumbel(jax.random.fold_in(key, n), (JAM.vocab_size,), jnp.float32))


def decode(
    name: str, space: TokenSpace, prompts: list[list[int]], settings: Settings, seed: int = 5
) -> list[list[int]]:
    return engine.generate(CONFIGS[name], PARAMS[name], space, prompts, settings, seed=seed)


def pictures(space: TokenSpace, prompt: list[int], ids: list[int]) -> int:
    """Pictures of an answer, checked token by token against the layout; AssertionError where one is broken."""
    row, count, layout = ids, 0, space.picture_layout
    at = 0
    if prompt[-1] == space.start_of_image:
        row = [space.start_of_image, *ids]
    while at < len(row):
        if row[at] == space.start_of_image:
            found = row[at : at + len(layout)]
            assert len(found) == len(layout)
            for token, wanted in zip(found, layout, strict=True):
                assert space.modality[token] == IMAGE if wanted == CODE else token == wanted
            count, at = count + 1, at + len(layout)
            assert row[at] in space.picture_closers
            at += row[at] != space.end_of_document
        else:
            assert space.modality[row[at]] == TEXT or (row[at] == space.end_of_document and at == len(row) - 1)
            at += 1
    assert row[-1] == space.end_of_document
    return count


@pytest.mark.parametrize(
    ("name", "space", "settings"),
    [
        ("decoder", "jam", PLAIN),
        ("decoder", "jam", GUIDED),
        ("decoder", "jam", dataclasses.replace(GUIDED, text=GREEDY, image=GREEDY)),
        ("decoder", "own", GUIDED),
        ("rotary", "rows", GUIDED),
        ("cross", "jam", dataclasses.replace(GUIDED, guidance=1.7)),
        ("cross", "rows", PLAIN),
    ],
)
def test_engine_equals_an_uncached_decoder(name: str, space: str, settings: Settings) -> None:
    drawn = 0
    for seed in range(2):
        keys = engine.row_keys(seed, len(PROMPTS))
        answers = decode(name, SPACES[space], PROMPTS, settings, seed)
        for prompt, key, answer in zip(PROMPTS, keys, answers, strict=True):
            assert answer == reference(name, SPACES[space], prompt, settings, key)
            drawn += pictures(SPACES[space], prompt, answer)
    # Each seed draws the picture that a prompt opened; warm text opens more.
    assert drawn > 2 or (drawn == 2 and settings.text == GREEDY)


def test_a_row_decodes_as_it_would_alone() -> None:
    prompts = PROMPTS[:3]
    together = engine.generate(TINY, PARAMS["decoder"], JAM, prompts, GUIDED, keys=engine.row_keys(7, 3))
    for row, prompt in enumerate(prompts):
        key = engine.row_keys(7, 3)[row : row + 1]
        assert engine.generate(TINY, PARAMS["decoder"], JAM, [prompt], GUIDED, keys=key) == [together[row]]
    assert len({len(answer) for answer in together}) > 1  # rows that ended early stayed ended


def test_padding_and_chunks_change_nothing() -> None:
    together = decode("decoder", JAM, PROMPTS, GUIDED)
    heard: list[int] = []
    chunks = engine.generate(
        TINY, PARAMS["decoder"], JAM, PROMPTS, GUIDED, keys=engine.row_keys(5, 4), rows=1, advance=heard.append
    )
    assert chunks == together
    assert heard == [1, 1, 1, 1]
    assert decode("decoder", JAM, PROMPTS[:3], GUIDED) == together[:3]  # padded to four rows


def test_guidance_of_one_equals_no_guidance() -> None:
    params, values = PARAMS["decoder"], engine.steps.numbers(dataclasses.replace(GUIDED, guidance=1.0))
    phases = [states.read_prompt(JAM, prompt) for prompt in PROMPTS]
    state = engine._start(JAM, PROMPTS, phases, [48] * 4, engine.row_keys(5, 4), 4, 64)
    prefix = jnp.array(JAM.blank)
    both = [engine._decode(TINY, JAM, 16, guided, params, values, prefix, state) for guided in (False, True)]
    np.testing.assert_array_equal(both[0][0], both[1][0])
    assert decode("decoder", JAM, PROMPTS, dataclasses.replace(GUIDED, guidance=1.0)) != decode(
        "decoder", JAM, PROMPTS, GUIDED
    )


def test_limits_and_pads() -> None:
    """No row passes its own limit, whatever its neighbours' are, and nothing but pads follows its end."""
    phases = [states.read_prompt(JAM, prompt) for prompt in PROMPTS]
    limits = [6, 48, 9, 20]
    state = engine._start(JAM, PROMPTS, phases, limits, engine.row_keys(1, 4), 4, 64)
    prefix = jnp.array(JAM.blank)
    for seed in range(4):
        state = dataclasses.replace(state, keys=engine.row_keys(seed, 4))
        found, lengths = engine._decode(
            TINY, JAM, 16, True, PARAMS["decoder"], engine.steps.numbers(GUIDED), prefix, state
        )
        for row, limit in enumerate(limits):
            end = int(lengths[row])
            assert len(PROMPTS[row]) < end <= limit
            assert found[row, end - 1] == JAM.end_of_document
            assert np.all(np.asarray(found)[row, end:] == JAM.pad)
    assert int(lengths[2]) == 9  # the opened picture, of 4 codes, closed by the end


def test_settings_bound_the_answer() -> None:
    most = 0
    for images in (0, 1, 2):
        settings = dataclasses.replace(GUIDED, max_images=images, max_new_tokens=20)
        for seed in range(3):
            for prompt, answer in zip(PROMPTS, decode("decoder", JAM, PROMPTS, settings, seed), strict=True):
                count = pictures(JAM, prompt, answer)
                assert count <= max(images, prompt[-1] == JAM.start_of_image)
                assert len(answer) <= 20
                most = max(most, count)
    assert most == 2  # else the bound was never reached


def grammar(space: TokenSpace, **fields: int) -> tuple[set[int], int]:
    """(allowed ids, forced id) of one row."""
    values = {"length": 5, "limit": 40, "phase": WRITING, "place": 0, "images": 0} | fields
    arrays = {name: jnp.array([value]) for name, value in values.items()}
    state = states.State(
        jnp.zeros((1, 48), jnp.int32), keys=jax.random.split(jax.random.key(0), 1), cache=None, **arrays
    )
    ids = np.flatnonzero(states.allowed(space, state, jnp.int32(2))[0]).tolist()
    return set(ids), int(states.forced(space, state)[0])


def test_grammar_table() -> None:
    text, codes = set(range(4, 20)), set(range(20, 28))
    assert grammar(JAM) == (text | {28, 2}, CODE)
    assert grammar(JAM, images=2) == (text | {2}, CODE)  # no more pictures
    assert grammar(JAM, limit=11)[0] == text | {28, 2}  # six tokens: <break>, four codes, </s>
    assert grammar(JAM, limit=10)[0] == text | {2}  # no room
    assert grammar(PAIRED, limit=12)[0] == text | {28, 2}  # seven: its end of image is no end of document
    assert grammar(PAIRED, limit=11)[0] == text | {2}
    assert grammar(JAM, limit=6)[1] == 2  # the last token
    assert grammar(JAM, phase=DRAWING, place=4) == (codes, CODE)
    assert grammar(JAM, phase=DRAWING, place=5) == ({28, 2}, CODE)
    assert grammar(PAIRED, phase=DRAWING, place=5) == ({29}, CODE)
    assert grammar(ROWS, phase=DRAWING, place=3)[1] == 31
    assert grammar(ROWS, phase=DRAWING, place=4) == (set(range(12, 20)), CODE)
    assert grammar(TEXT_ONLY) == (text | {2}, CODE)  # none to open, whatever the settings say
    assert grammar(ROWS)[0] == set(range(4, 12)) | set(range(20, 28)) | {28, 2}


def test_prompts_are_read_by_the_same_grammar() -> None:
    picture = [28, 20, 21, 22, 23]
    assert states.read_prompt(JAM, [2, 5, *picture]) == (DRAWING, 5)
    assert states.read_prompt(JAM, [2, 5, *picture, 28, 6]) == (WRITING, 0)
    assert states.read_prompt(JAM, [2, *picture, 28, *picture[:3]]) == (DRAWING, 3)  # one picture after another
    assert states.read_prompt(JAM, [2, 5, 30, 2]) == (WRITING, 0)  # an instruction
    assert states.read_prompt(ROWS, [2, 28, 12, 13]) == (DRAWING, 3)
    with pytest.raises(ValueError, match="no image tokenizer yet"):
        states.read_prompt(dataclasses.replace(JAM, picture_layout=(), picture_closers=()), [2, 28])
    for broken in ([2, 20], [2, 28, 5], [2, *picture, 5]):
        with pytest.raises(ValueError, match="token"):
            states.read_prompt(JAM, broken)


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        ([], {}, "prompt 0 is empty"),
        ([2] * 48, {}, "prompt 0 has 48 tokens, but the model has 48 positions"),
        ([2, 99], {}, "holds the id 99"),
        ([2, 20], {}, "prompt 0 is malformed"),
        ([2, *[5] * 42, 28], {}, "opens a picture that needs 5 more tokens"),
        ([2, 28], {"max_new_tokens": 4}, "max_new_tokens is 4"),
        ([2], {"max_new_tokens": 5}, "has no room for a picture, which takes 6"),
    ],
)
def test_users_mistakes_are_named(prompt: list[int], settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        decode("decoder", JAM, [prompt], Settings(**settings))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sampling(temperature=-1),
        lambda: Sampling(temperature=float("nan")),
        lambda: Sampling(top_p=0),
        lambda: Sampling(top_p=1.5),
        lambda: Sampling(top_k=-1),
        lambda: Settings(guidance=-0.5),
        lambda: Settings(guidance=float("inf")),
        lambda: Settings(max_images=-1),
        lambda: Settings(max_new_tokens=0),
    ],
)
def test_settings_out_of_range_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        make()  # type: ignore[operator]


def test_a_model_and_a_tokenizer_must_belong_together() -> None:
    with pytest.raises(ValueError, match="do not belong together"):
        decode("decoder", dataclasses.replace(JAM, vocab_size=48), PROMPTS, PLAIN)
