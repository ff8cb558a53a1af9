"""Perplexity: equal to a plain float64 loop, one document at a time; every target counted once, in its group."""

import dataclasses
import functools
import json
import math

import jax
import numpy as np
import pytest

from jam_jax import checkpoint, tokens
from jam_jax.config import CrossConfig, DecoderConfig
from jam_jax.data import store
from jam_jax.evaluate import __main__ as command
from jam_jax.evaluate.perplexity import GROUPS, Perplexity, perplexity
from jam_jax.models import model

SPACE = tokens.jam(text=20, codes=8, codes_per_image=4, sentinels=3)
TOWER = DecoderConfig(SPACE.vocab_size, 2, 16, 2, 8, 32, max_positions=24)

forward = jax.jit(model.forward, static_argnums=0)


@functools.cache
def random_params(config):
    # Output projections start at zero; drawn ones let every layer take part.
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), model.shapes(config))


def record(rng, words, pictures=0):
    ids = list(rng.integers(*SPACE.text, words))
    for _ in range(pictures):
        ids += [SPACE.start_of_image, *(SPACE.image_ids[c] for c in rng.integers(0, 8, 4))]
    return np.array([*ids, SPACE.end_of_document], np.int32)


def nll_of(config, params, sequence):
    """float64 nll of sequence[1:] read from position 0; padded behind (causal: without effect) to one shape."""
    tokens = np.full((1, config.max_positions), SPACE.pad)
    tokens[0, : len(sequence) - 1] = sequence[:-1]
    logits = np.asarray(forward(config, params, tokens)[0][0], np.float64)
    rows = zip(logits, sequence[1:], strict=False)
    return [row.max() + math.log(np.exp(row - row.max()).sum()) - row[target] for row, target in rows]


def plain(config, params, records):
    """The definition, without batches or buckets: sums of nll and counts by group."""
    nll, count = dict.fromkeys(GROUPS, 0.0), dict.fromkeys(GROUPS, 0)
    for ids in records:
        sequence = [SPACE.end_of_document, *ids.tolist()]
        for target, value in zip(sequence[1:], nll_of(config, params, sequence), strict=True):
            name = {tokens.TEXT: "text", tokens.IMAGE: "image", tokens.SPECIAL: "special"}[int(SPACE.modality[target])]
            name = "end" if target == SPACE.end_of_document else name
            nll[name] += value
            count[name] += 1
    return nll, count


def test_a_start_of_its_own_takes_the_place_of_the_end_before():
    """The same ids, once with the end put before them and once with the start in the record: the same sums."""
    ids = record(np.random.default_rng(5), 40, 1)  # longer than the model's positions
    own = dataclasses.replace(SPACE, start_of_document=SPACE.end_of_document)
    params = random_params(TOWER)
    expected = perplexity(TOWER, params, SPACE, [ids])
    assert perplexity(TOWER, params, own, [np.array([SPACE.end_of_document, *ids])]) == expected


def test_what_is_retrieved_is_read_and_is_no_target():
    rng, params = np.random.default_rng(3), random_params(TOWER)
    records = [record(rng, 3, 1), record(rng, 5), record(rng, 4)]
    contexts = [record(rng, 6)[:-1], np.empty(0, np.int32), record(rng, 2, 1)]
    for space, start in ((SPACE, [2]), (dataclasses.replace(SPACE, start_of_document=2), [])):
        documents = [np.array([*([] if start else [2]), *ids], np.int32) for ids in records]
        got = perplexity(TOWER, params, space, documents, contexts=contexts, batch_tokens=48)
        alone = perplexity(TOWER, params, space, documents)
        assert got.count == alone.count and got.nll != alone.nll
        expected = [
            nll_of(TOWER, params, [2, *context, *ids])[len(context) :]
            for ids, context in zip(records, contexts, strict=True)
        ]
        np.testing.assert_allclose(sum(got.nll), sum(map(sum, expected)), rtol=1e-5)
    with pytest.raises(ValueError, match="9 tokens and 20 retrieved ones do not fit the model's 24 positions"):
        perplexity(TOWER, params, SPACE, [record(rng, 8)], contexts=[record(rng, 20)[:-1]])


@pytest.mark.parametrize("config", [TOWER, CrossConfig(TOWER, TOWER, every=1)], ids=["decoder", "cross"])
def test_equals_a_plain_loop_over_single_documents(config):
    rng, params = np.random.default_rng(0), random_params(config)
    records = [
        record(rng, words, pictures) for words, pictures in [(3, 1), (22, 0), (0, 2), (1, 0), (16, 1), (5, 0), (12, 0)]
    ]
    nll, count = plain(config, params, records)
    got = perplexity(config, params, SPACE, records, batch_tokens=48)
    assert got.count == tuple(count[g] for g in GROUPS)
    np.testing.assert_allclose(got.nll, [nll[g] for g in GROUPS], rtol=1e-5)
    assert got.all == pytest.approx(math.exp(sum(nll.values()) / sum(count.values())), rel=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 100])
def test_batches_change_nothing(batch_tokens):
    rng, params = np.random.default_rng(1), random_params(TOWER)
    records = [record(rng, int(n)) for n in rng.integers(0, 22, 30)]
    expected = perplexity(TOWER, params, SPACE, records)
    got = perplexity(TOWER, params, SPACE, records, batch_tokens=batch_tokens)
    assert got.count == expected.count
    np.testing.assert_allclose(got.nll, expected.nll, rtol=1e-5)


@pytest.mark.parametrize("words", [23, 24, 35, 36, 100])
def test_a_long_document_counts_every_target_once(words):
    rng, params = np.random.default_rng(2), random_params(TOWER)
    ids = record(rng, words)
    got = perplexity(TOWER, params, SPACE, [ids])
    assert dict(zip(GROUPS, got.count, strict=True)) == {"text": words, "image": 0, "end": 1, "special": 0}
    # By hand: the first 24 targets from the beginning, then 12 at a time with the 12 before them in front.
    sequence, nll = [SPACE.end_of_document, *ids.tolist()], 0.0
    for start in [0, *range(12, max(words + 1 - 12, 0), 12)]:
        window = sequence[start : start + 25]
        nll += sum(nll_of(TOWER, params, window)[12 if start else 0 :])
    assert sum(got.nll) == pytest.approx(nll, rel=1e-5)


def test_perplexities_by_hand():
    sums = Perplexity(nll=(3 * math.log(2), 4 * math.log(8), math.log(32), 2 * math.log(4)), count=(3, 4, 1, 2))
    assert sums.text == pytest.approx(2 ** ((3 + 5) / 4))
    assert sums.image == pytest.approx(8)
    assert sums.all == pytest.approx(2 ** ((3 + 12 + 5 + 4) / 10))
    assert math.isnan(Perplexity((0.0,) * 4, (0,) * 4).image)


def test_a_uniform_model_has_the_vocabulary_as_perplexity():
    params = jax.tree.map(np.zeros_like, random_params(TOWER))
    got = perplexity(TOWER, params, SPACE, [record(np.random.default_rng(3), 7, 1)])
    assert (got.text, got.image, got.all) == pytest.approx((SPACE.vocab_size,) * 3)


def test_mistakes_end_in_one_line():
    params = random_params(TOWER)
    with pytest.raises(ValueError, match="no document"):
        perplexity(TOWER, params, SPACE, [])
    with pytest.raises(ValueError, match="another tokenizer"):
        perplexity(TOWER, params, SPACE, [np.array([SPACE.vocab_size, 2])])


def test_the_command_measures_a_store_and_refuses_one_of_another_tokenizer(tmp_path, capsys):
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokens.json").write_text(SPACE.to_json())
    params = random_params(TOWER)
    checkpoint.save_model(tmp_path / "model", TOWER, params, tokenizer=tokenizer)
    rng = np.random.default_rng(4)
    records = [record(rng, 5, i % 2) for i in range(6)]
    store.write_ids(tmp_path / "store", [(ids, 0) for ids in records], SPACE)
    options = ["perplexity", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out.json")]
    command.main([*options, "--store", str(tmp_path / "store"), "--limit", "4"])
    found, expected = json.loads((tmp_path / "out.json").read_text()), perplexity(TOWER, params, SPACE, records[:4])
    assert (found["text"], found["image"], found["all"]) == pytest.approx((expected.text, expected.image, expected.all))
    assert "4 documents" in capsys.readouterr().out
    other = tokens.jam(text=21, codes=7, codes_per_image=4, sentinels=3)
    store.write_ids(tmp_path / "other", [(records[0], 0)], other)
    with pytest.raises(ValueError, match="another tokenizer"):
        command.main([*options, "--store", str(tmp_path / "other")])
