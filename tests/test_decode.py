"""Laws of the interleaved decoder, against an uncached decoder in plain Python."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jam_jax.decode import engine, prefill, requests, weights
from jam_jax.decode import state as states
from jam_jax.decode.settings import Sampling, Settings
from jam_jax.decode.state import DRAWING, FILLING, WRITING, Numbers
from jam_jax.decode.step import Program
from jam_jax.models import few_rows
from jam_jax.tokens import CODE, IMAGE, TEXT, TokenSpace
from tests.uncached import (
    GREEDY,
    GUIDED,
    JAM,
    PAIRED,
    PARAMS,
    PLAIN,
    PROMPTS,
    ROWS,
    SPACES,
    TEXT_ONLY,
    TINY,
    WARM,
    WIDE,
    decode,
    ready,
    uncached,
)  # fmt: skip


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


PENALISED = dataclasses.replace(
    GUIDED,
    text=dataclasses.replace(WARM, repetition_penalty=1.5),
    image=Sampling(top_k=5, top_p=0.7, repetition_penalty=3.0),
)
CONTRASTED = dataclasses.replace(GUIDED, cd_k=3, cd_share=0.5)


@pytest.mark.parametrize(
    ("name", "space", "settings"),
    [
        ("decoder", "jam", GUIDED),
        ("decoder", "jam", dataclasses.replace(GUIDED, text=GREEDY, image=GREEDY)),
        ("decoder", "jam", dataclasses.replace(GUIDED, min_text=7, max_text=12, min_images=2, max_images=2)),
        ("decoder", "paired", dataclasses.replace(CONTRASTED, contrast="start")),
        ("rotary", "rows", PENALISED),
        ("cross", "own", dataclasses.replace(GUIDED, guidance=1.7)),
        pytest.param("cross", "rows", PLAIN, marks=pytest.mark.long),
        pytest.param("cross", "jam", PENALISED, marks=pytest.mark.long),
        pytest.param("rotary", "jam", CONTRASTED, marks=pytest.mark.long),
        pytest.param("decoder", "own", GUIDED, marks=pytest.mark.long),
    ],
)
def test_engine_equals_an_uncached_decoder(name: str, space: str, settings: Settings) -> None:
    drawn = 0
    for seed in range(2):
        keys = engine.row_keys(seed, len(PROMPTS))
        answers = decode(name, SPACES[space], PROMPTS, settings, seed)
        for prompt, key, answer in zip(PROMPTS, keys, answers, strict=True):
            assert answer == uncached(name, SPACES[space], prompt, settings, key)
            drawn += pictures(SPACES[space], prompt, answer)
    # Each seed draws the picture that a prompt opened; warm text opens more.
    assert drawn > 2 or (drawn == 2 and settings.text == GREEDY)


@pytest.mark.parametrize("settings", [PLAIN, GUIDED], ids=["plain", "guided"])
def test_one_row_equals_an_uncached_decoder(settings: Settings) -> None:
    """A CPU multiplies it, and guidance's beside it, in a way of its own."""
    assert few_rows.suit(2, ready("wide", 1)[1]["layers"][0]["attn"]["qkv"])
    for seed, prompt in enumerate(PROMPTS):
        keys = engine.row_keys(seed, 1)
        answer = decode("wide", JAM, [prompt], settings, keys=keys, few=True)
        assert answer == [uncached("wide", JAM, prompt, settings, keys[0])]


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_one_row_reads_narrow_weights_as_they_lie(
    precision: weights.Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Widened before the loop they would be read, and held, in float32; and they give what whole matrices give."""
    config, params = weights.prepare(WIDE, PARAMS["wide"], precision, rows=1)
    asked = requests.read(config, JAM, PROMPTS[2:3], GUIDED)
    sizes = prefill.Sizes(buffer=64, first=64, most=64, opened=64, longest=2)

    def compiled() -> int:
        program = Program(config, JAM)
        state = prefill.start(program, params, asked, engine.row_keys(0, 1), 1, sizes)
        lowered = engine.compiled(True).lower(program, params, Numbers.of([GUIDED]), state, jnp.int32(64))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    narrow = sum(leaf.nbytes for leaf in jax.tree.leaves(params["layers"]))
    assert compiled() < narrow / 2
    few = engine.generate(config, params, JAM, PROMPTS[2:3], GUIDED, seed=1)
    monkeypatch.setattr(few_rows, "MOST", 0)
    jax.clear_caches()
    assert few == engine.generate(config, params, JAM, PROMPTS[2:3], GUIDED, seed=1)
    jax.clear_caches()


def test_a_row_decodes_as_it_would_alone() -> None:
    prompts = PROMPTS[:3]
    keys = engine.row_keys(7, 3)
    together = decode("wide", JAM, prompts, GUIDED, keys=keys)
    for row, prompt in enumerate(prompts):
        alone = decode("wide", JAM, [prompt], GUIDED, keys=keys[row : row + 1], few=True)
        assert alone == [together[row]]
    assert len({len(answer) for answer in together}) > 1  # rows that ended early stayed ended


def test_padding_and_chunks_change_nothing() -> None:
    together = decode("decoder", JAM, PROMPTS, GUIDED)
    heard: list[int] = []
    chunks = decode("decoder", JAM, PROMPTS, GUIDED, keys=engine.row_keys(5, 4), rows=1, advance=heard.append)
    assert chunks == together
    assert heard == [1, 1, 1, 1]
    assert decode("decoder", JAM, PROMPTS[:3], GUIDED) == together[:3]  # padded to four rows


def run_whole(settings: Settings, limits: list[int], seed: int, guided: bool) -> states.State:
    """The last state of the four prompts, with a second stream or without whatever the settings say."""
    asked = requests.read(TINY, JAM, PROMPTS, settings)
    asked = [dataclasses.replace(r, limit=limit) for r, limit in zip(asked, limits, strict=True)]
    program, params = Program(TINY, JAM), ready("decoder")[1]
    sizes = prefill.Sizes(buffer=64, first=64, most=64, opened=64 if guided else 0, longest=2)
    state = prefill.start(program, params, asked, engine.row_keys(seed, 4), 4, sizes)
    return engine.run(program, params, Numbers.of([settings] * 4), state, jnp.int32(64))[0]


def test_many_rows_decode_as_few() -> None:
    """Beyond some rows a CPU multiplies with whole matrices."""
    keys = engine.row_keys(5, 4)
    few = engine.generate(TINY, PARAMS["decoder"], JAM, PROMPTS, GUIDED, keys=keys)
    many = engine.generate(TINY, PARAMS["decoder"], JAM, PROMPTS * 5, GUIDED, keys=keys[np.arange(20) % 4])
    assert few_rows.MOST < 20 and many == few * 5


def test_guidance_of_one_equals_no_guidance() -> None:
    one = dataclasses.replace(GUIDED, guidance=1.0)
    both = [run_whole(one, [48] * 4, 5, guided) for guided in (False, True)]
    np.testing.assert_array_equal(both[0].tokens, both[1].tokens)
    assert decode("decoder", JAM, PROMPTS, one) != decode("decoder", JAM, PROMPTS, GUIDED)
    sizes = prefill.sizes(TINY, JAM, requests.read(TINY, JAM, PROMPTS, one))
    assert sizes.opened == 0  # no second stream at all


def test_limits_and_pads() -> None:
    """No row passes its own limit, whatever its neighbours' are, and nothing but pads follows its end."""
    limits = [6, 48, 9, 20]
    for seed in range(4):
        state = run_whole(GUIDED, limits, seed, guided=True)
        for row, limit in enumerate(limits):
            end = int(state.length[row])
            assert len(PROMPTS[row]) < end <= limit
            assert state.tokens[row, end - 1] == JAM.end_of_document
            assert np.all(np.asarray(state.tokens)[row, end:] == JAM.pad)
    assert int(state.length[2]) == 9  # the opened picture, of 4 codes, closed by the end


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


def grammar(space: TokenSpace, least: tuple[int, int] = (0, 0), **fields: int) -> tuple[set[int], int]:
    """(allowed ids, forced id) of one row, which owes at least so much text and so many pictures."""
    values = {"length": 5, "limit": 40, "phase": WRITING, "place": 0, "images": 0, "texts": 0, "span": 0} | fields
    arrays = {name: jnp.array([value]) for name, value in values.items()}
    nothing = dict.fromkeys(("cache", "second", "seen", "prefix", "keys"))
    gaps = {"spans": jnp.array([[0, 2, -1]])} if arrays["phase"] == FILLING else {"spans": None}
    state = states.State(tokens=jnp.zeros((1, 48), jnp.int32), **nothing, **gaps, **arrays)  # type: ignore[arg-type]
    numbers = Numbers.of([Settings(min_text=least[0], max_text=9, min_images=least[1], max_images=2)])
    ids = np.flatnonzero(states.allowed(space, state, numbers)[0]).tolist()
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


def test_grammar_of_what_is_owed() -> None:
    text = set(range(4, 20))
    assert grammar(JAM, texts=9)[0] == {28, 2}  # no more text
    assert grammar(JAM, (3, 0), texts=2)[0] == text | {28}
    assert grammar(JAM, (3, 0), texts=3)[0] == text | {28, 2}
    assert grammar(JAM, (0, 2), images=1)[0] == text | {28}
    assert grammar(JAM, (0, 2), images=1, limit=10)[0] == text | {2}  # there is no room for what is owed
    assert grammar(JAM, (9, 2), texts=9, images=1)[0] == {28}
    # The end closes a picture only when nothing is owed after it; where nothing else can close it, it does.
    assert grammar(JAM, (3, 0), phase=DRAWING, place=5, texts=2)[0] == {28}
    only = dataclasses.replace(JAM, picture_closers=(2,))
    assert grammar(only, (3, 0), phase=DRAWING, place=5, texts=2)[0] == {2}


def test_grammar_of_gaps() -> None:
    text, codes, eoss = set(range(4, 20)), set(range(20, 28)), 29
    assert grammar(JAM, phase=FILLING) == (text | {eoss}, CODE)
    assert grammar(JAM, (3, 0), phase=FILLING, texts=2) == (text, CODE)
    assert grammar(JAM, phase=FILLING, texts=9) == ({eoss}, CODE)
    assert grammar(JAM, phase=FILLING, span=1, place=-1)[1] == 31  # <mask:1>
    assert grammar(JAM, phase=FILLING, span=1) == (codes, CODE)
    assert grammar(JAM, phase=FILLING, span=1, place=2)[1] == eoss
    assert grammar(JAM, phase=FILLING, limit=6)[1] == eoss


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
        ([2], {"min_images": 3, "min_text": 33}, "need 49 tokens, but there is room for 47"),
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
        lambda: Sampling(repetition_penalty=0),
        lambda: Settings(cd_k=-1),
        lambda: Settings(cd_share=0),
        lambda: Settings(min_text=-1),
        lambda: Settings(min_text=3, max_text=2),
        lambda: Settings(min_images=3, max_images=2),
    ],
)
def test_settings_out_of_range_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        make()  # type: ignore[operator]


def test_a_model_and_a_tokenizer_must_belong_together() -> None:
    with pytest.raises(ValueError, match="do not belong together"):
        decode("decoder", dataclasses.replace(JAM, vocab_size=48), PROMPTS, PLAIN)


def test_rows_with_their_own_settings_decode_as_alone() -> None:
    """Strength, sampling and limits are a row's own, whatever its neighbours ask for."""
    every = [
        GUIDED,
        dataclasses.replace(GUIDED, guidance=1.0, min_text=4),
        dataclasses.replace(GUIDED, guidance=6.0, cd_k=2),
        dataclasses.replace(PLAIN, max_images=0, text=dataclasses.replace(WARM, repetition_penalty=2.0)),
    ]
    keys = engine.row_keys(3, 4)
    together = decode("decoder", JAM, PROMPTS, every, keys=keys)
    for row, (prompt, settings) in enumerate(zip(PROMPTS, every, strict=True)):
        assert together[row] == uncached("decoder", JAM, prompt, settings, keys[row])


def test_text_does_not_depend_on_its_neighbours_pictures() -> None:
    writes = dataclasses.replace(GUIDED, max_images=0, min_text=20)
    alone = decode("decoder", JAM, PROMPTS[:1], writes, keys=engine.row_keys(2, 1))
    for draws in (GUIDED, dataclasses.replace(GUIDED, guidance=9.0), PLAIN):
        settings = [writes, draws, draws, draws]
        assert decode("decoder", JAM, PROMPTS, settings, keys=engine.row_keys(2, 4))[:1] == alone


def test_second_streams_may_begin_with_something_else_in_every_row() -> None:
    prefixes = [[2], [2, 5, 9], [2, 30], [2, 8, 8, 8, 8]]
    keys = engine.row_keys(4, 4)
    settings = dataclasses.replace(GUIDED, min_images=1)
    answers = decode("decoder", JAM, PROMPTS, settings, keys=keys, unconditional=prefixes)
    for prompt, prefix, key, answer in zip(PROMPTS, prefixes, keys, answers, strict=True):
        assert answer == uncached("decoder", JAM, prompt, settings, key, prefix)


@pytest.mark.parametrize("name", ["decoder", pytest.param("cross", marks=pytest.mark.long)])
def test_small_caches_that_grow_and_prompts_read_in_chunks_change_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    together = decode(name, JAM, PROMPTS, GUIDED)
    monkeypatch.setattr(prefill, "SLOTS", 4)
    monkeypatch.setattr(prefill, "CHUNK", 4)
    monkeypatch.setattr(engine, "TURN", 5)
    assert decode(name, JAM, PROMPTS, GUIDED) == together


def test_samples_of_one_prompt_share_its_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    inner = prefill._read_chunk
    monkeypatch.setattr(prefill, "_read_chunk", lambda *args: read.append(args[2].shape) or inner(*args))
    answers = decode("decoder", JAM, PROMPTS[:1] * 4, PLAIN)
    assert read == [(1, 16)]  # one row
    assert len({tuple(answer) for answer in answers}) == 4
    for answer, key in zip(answers, engine.row_keys(5, 4), strict=True):
        assert answer == uncached("decoder", JAM, PROMPTS[0], PLAIN, key)


def test_a_stream_gives_what_is_there_and_ends_with_the_answer() -> None:
    whole = decode("decoder", JAM, PROMPTS, GUIDED)
    so_far: dict[int, engine.Part] = {}
    turns = engine.stream(*ready("decoder"), JAM, PROMPTS, GUIDED, seed=5, every=3)
    for turn, found in enumerate(turns, 1):
        for row, part in found.items():
            assert not so_far[row].ended if row in so_far else True
            assert part.ids == whole[row][: len(part.ids)]
            assert part.ended == (part.ids == whole[row])
            assert part.ended or len(part.ids) == 3 * turn
            so_far[row] = part
    assert [so_far[row].ids for row in range(4)] == whole


def test_the_loop_copies_no_cache() -> None:
    """A token may write its slot; a copy of the cache for each token would take longer than the model."""
    asked = requests.read(TINY, JAM, PROMPTS, GUIDED)
    program, params = Program(TINY, JAM), ready("decoder")[1]
    sizes = prefill.Sizes(buffer=64, first=64, most=64, opened=64, longest=2)
    state = prefill.start(program, params, asked, engine.row_keys(0, 4), 4, sizes)
    text = (
        engine.compiled(False)
        .lower(program, params, Numbers.of([GUIDED] * 4), state, jnp.int32(64))
        .compile()
        .as_text()
    )
    shapes = {f"f32[{','.join(map(str, leaf.shape))}]" for leaf in jax.tree.leaves(state.cache)}
    assert len(shapes) == 2 and all(f"= {shape}" in text for shape in shapes)
    assert not shapes & set(re.findall(r"= (f32\[[\d,]*\])\S* (?:copy|transpose)\(", text))


@pytest.mark.parametrize("lists", [{"settings": [PLAIN]}, {"unconditional": [[2]]}, {"spans": [[]] * 3}])
def test_lists_of_another_length_are_refused(lists: dict) -> None:
    with pytest.raises(ValueError, match="there are 4 prompts, but"):
        engine.generate(TINY, PARAMS["decoder"], JAM, PROMPTS, **lists)
