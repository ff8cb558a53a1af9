"""Perplexity: equal to a plain float64 loop, one target at a time; every target counted once, in its group."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jam_jax import tokens
from jam_jax.data import store
from jam_jax.evaluate import __main__ as command
from jam_jax.evaluate import scoring, windows
from jam_jax.evaluate.documents import of_records
from jam_jax.evaluate.perplexity import Reading, perplexity
from tests import measured
from tests.measured import CROSS, SPACE, TOWER, agree, logits_of, plain, random_params, record, some_records, surprise


@pytest.mark.parametrize("config", [TOWER, CROSS], ids=["decoder", "cross"])
def test_equals_a_plain_loop_over_single_targets(config) -> None:
    params, records = random_params(config), some_records()
    agree(perplexity(config, params, SPACE, records), plain(config, params, records))


@pytest.mark.parametrize("batch_tokens", [48, *(pytest.param(n, marks=pytest.mark.long) for n in (1, 100))])
def test_batches_chunks_and_shapes_change_nothing(monkeypatch: pytest.MonkeyPatch, batch_tokens: int) -> None:
    monkeypatch.setattr(windows, "PROGRAM", 0)  # as many shapes as there are lengths
    monkeypatch.setattr(scoring, "CHUNK", 7)
    records = some_records(1)
    found = perplexity(TOWER, random_params(TOWER), SPACE, records, reading=Reading(batch_tokens=batch_tokens))
    agree(found, plain(TOWER, random_params(TOWER), records))


@pytest.mark.parametrize(
    ("context", "stride"),
    [(0, 24), (8, 3), *(pytest.param(*sizes, marks=pytest.mark.long) for sizes in ((0, 1), (9, 0), (1, 1)))],
)
def test_windows_are_as_the_settings_say(context: int, stride: int) -> None:
    records = some_records()[1:4]
    found = perplexity(TOWER, random_params(TOWER), SPACE, records, reading=Reading(context, stride))
    agree(found, plain(TOWER, random_params(TOWER), records, context, stride))


def test_a_start_of_its_own_takes_the_place_of_the_end_before() -> None:
    """The same ids, once with the end put before them and once with the start in the record: the same sums."""
    ids = record(np.random.default_rng(5), 40, 1)  # longer than the model's positions
    own = dataclasses.replace(SPACE, start_of_document=SPACE.end_of_document)
    params = random_params(TOWER)
    expected = perplexity(TOWER, params, SPACE, [ids])
    assert perplexity(TOWER, params, own, [np.array([SPACE.end_of_document, *ids])]) == expected


def test_what_is_retrieved_is_read_and_is_no_target() -> None:
    rng, params = np.random.default_rng(3), random_params(TOWER)
    records = [record(rng, 3, 1), record(rng, 5), record(rng, 4)]
    contexts = [record(rng, 6)[:-1], np.empty(0, np.int32), record(rng, 2, 1)]
    expected = []
    for ids, context in zip(records, contexts, strict=True):
        sequence, everything = [2, *context, *ids], np.ones(SPACE.vocab_size, bool)
        logits = logits_of(TOWER, params, sequence)
        places = range(1 + len(context), len(sequence))
        expected.append(sum(surprise(logits[i - 1], sequence[i], everything) for i in places))
    for space, start in ((SPACE, []), (dataclasses.replace(SPACE, start_of_document=2), [2])):
        documents = [np.array([*start, *ids], np.int32) for ids in records]
        got = perplexity(TOWER, params, space, of_records(documents, contexts.__getitem__))
        alone = perplexity(TOWER, params, space, documents)
        assert got.count == alone.count and got.nll != alone.nll
        np.testing.assert_allclose(sum(got.nll), sum(expected), rtol=1e-5)
    too_long = of_records([record(rng, 8)], lambda i: record(rng, 20)[:-1])
    with pytest.raises(ValueError, match="9 tokens and 20 retrieved ones do not fit the model's 24 positions"):
        perplexity(TOWER, params, SPACE, too_long)


def test_a_uniform_model_has_the_number_of_ids_as_perplexity() -> None:
    params = jax.tree.map(np.zeros_like, random_params(TOWER))
    got = perplexity(TOWER, params, SPACE, [record(np.random.default_rng(3), 7, 1)])
    assert (got.text, got.image, got.all) == pytest.approx((SPACE.vocab_size,) * 3)
    kinds = {"text": 16, "image": 8, "break": SPACE.vocab_size - 24, "end": SPACE.vocab_size - 24}
    for name, ids in kinds.items():
        assert got.over(name, softmax="modality") == pytest.approx(ids)


def test_logits_far_apart_do_not_vanish() -> None:
    """Where pictures are 500 nats less likely than text, float32 still tells one code from another."""
    params = jax.tree.map(np.zeros_like, random_params(TOWER))
    direction = np.ones(16, np.float32) * np.array([1, -1] * 8, np.float32)
    table = np.zeros((SPACE.vocab_size, 16), np.float32)
    table[4:20] = 500 / 16 * direction
    table[20:28] = np.arange(8)[:, None] / 16 * direction
    params["embed"] = {"tokens": table, "positions": np.tile(direction, (26, 1))}
    sequence = np.array([21, 25], np.int32)
    found = perplexity(TOWER, params, SPACE, [sequence])
    logits = logits_of(TOWER, params, [SPACE.end_of_document, 21])
    codes = SPACE.modality == tokens.IMAGE
    expected = [surprise(logits[i], target, codes) for i, target in enumerate(sequence)]
    assert logits[0, 4] - logits[0, 21] > 400
    np.testing.assert_allclose(found.within[1], sum(expected), rtol=1e-5)
    assert found.nll[1] > 800


def test_no_array_of_all_logits_is_made() -> None:
    batch = np.zeros((4, 25), np.int32)
    traced = scoring._score.trace(TOWER, 32, random_params(TOWER), batch, SPACE.modality)
    assert f"f32[32,{SPACE.vocab_size}]" in str(traced.jaxpr)
    assert f"f32[4,24,{SPACE.vocab_size}]" not in str(traced.jaxpr)


def test_the_likeliest_ids_are_known() -> None:
    params = random_params(TOWER)
    ids = record(np.random.default_rng(0), 20)
    likeliest = logits_of(TOWER, params, ids).argmax(axis=1)
    ids[5:9] = likeliest[4:8]  # the first of them follows from what stays
    (rows,) = scoring.scored(TOWER, params, SPACE, [len(ids)], lambda i: ids)
    expected = logits_of(TOWER, params, ids).argmax(axis=1)[:-1] == ids[1:]
    assert expected.any() and not expected.all()
    np.testing.assert_array_equal(rows.best[0, : len(expected)], expected)


def test_mistakes_end_in_one_line() -> None:
    params = random_params(TOWER)
    with pytest.raises(ValueError, match="no document"):
        perplexity(TOWER, params, SPACE, [])
    with pytest.raises(ValueError, match="holds id 40, but the model has 40 rows: .* another tokenizer"):
        perplexity(TOWER, params, SPACE, [np.array([SPACE.vocab_size, 2])])
    for reading, message in (
        (Reading(context=25), "context must be 1 to 24"),
        (Reading(9, 10), "stride must be 1 to 9"),
    ):
        with pytest.raises(ValueError, match=message):
            perplexity(TOWER, params, SPACE, some_records(), reading=reading)


def test_documents_without_a_target_are_left_out_and_counted() -> None:
    params, own = random_params(TOWER), dataclasses.replace(SPACE, start_of_document=2)
    nothing, full = np.empty(0, np.int32), record(np.random.default_rng(0), 5)
    expected = plain(TOWER, params, [full])
    found = perplexity(TOWER, params, SPACE, [full, nothing, nothing])
    agree(found, expected)
    assert (found.documents, found.empty, found.first_empty) == (1, 2, 1)
    # Where documents have a start of their own, that alone is nothing.
    found = perplexity(TOWER, params, own, [np.array([2]), np.array([2, *full])])
    agree(found, expected)
    assert (found.documents, found.empty, found.first_empty) == (1, 1, 0)


def test_no_number_is_told_with_its_document() -> None:
    params = jax.tree.map(np.copy, random_params(TOWER))
    params["embed"]["tokens"][19] = np.nan
    table = params["embed"]["tokens"].copy()
    untied = dataclasses.replace(TOWER, tied=False)
    table[19] = 0
    records = [record(np.random.default_rng(0), 0), np.array([19, 5, 2]), np.array([5, 2])]
    found = perplexity(untied, params | {"unembed": table}, SPACE, records)
    assert (found.lost, found.first_lost, found.documents) == (1, 1, 3)
    with pytest.raises(ValueError, match="here: the model gives document 1 of 3 a likelihood that is no finite number"):
        found.require_finite("here")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return measured.write_case(tmp_path_factory.mktemp("case"))


def test_the_command_measures_a_store(case: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out.json"
    command.main([*case, "--limit", "7", "--stride", "5", "--out", str(out)])
    found = json.loads(out.read_text())
    params, records = random_params(TOWER), some_records()[:7]
    expected = perplexity(TOWER, params, SPACE, records, reading=Reading(stride=5))
    assert (found["text"], found["image"], found["all"]) == pytest.approx((expected.text, expected.image, expected.all))
    assert (found["documents"], found["context"], found["stride"]) == (7, 24, 5)
    assert found["targets"] == dict(zip(("text", "image", "break", "end", "special"), expected.count, strict=True))
    assert found["standard_error"]["all"] == pytest.approx(expected.error(*measured.GROUPS), rel=1e-4)
    assert found["within_modality"]["image"] < found["image"]
    assert found["bits_per_byte"] is None and found["by_group"]["special"]["perplexity"] is None
    assert found["tokens_per_second"] > 0
    said = capsys.readouterr()
    assert f"7 documents): perplexity text {found['text']:.3f}" in said.out and "tokens/s" in said.out
    assert "bits per byte are left out" in said.err


def test_the_command_refuses_a_store_of_another_tokenizer(case: list[str], tmp_path: Path) -> None:
    other = tokens.jam(text=21, codes=7, codes_per_image=4, sentinels=3)
    store.write_ids(tmp_path / "other", [(np.array([5, 2]), 0)], other)
    with pytest.raises(ValueError, match="another tokenizer"):
        command.main([*case[:3], "--store", str(tmp_path / "other")])


def test_the_command_tells_of_empty_documents(case: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    records = [np.array([5, 2], np.int32), np.empty(0, np.int32)]
    store.write_ids(tmp_path / "some", [(ids, 0) for ids in records], SPACE)
    command.main([*case[:3], "--store", str(tmp_path / "some")])
    assert "1 documents hold no token to predict and are left out, the first is document 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --store, or --source for data that is not tokenized yet; got none"),
        (["--store", "a", "--source", "b"], "got both"),
        (["--source", "a", "--neighbours", "b"], "--neighbours is the table of a store"),
        (["--store", "a", "--limit", "-1"], "--limit must be 0 (the default) or more, got -1"),
        (["--store", "a", "--batch-tokens", "0"], "--batch-tokens must be at least 1, got 0"),
    ],
)
def test_options_that_contradict_are_refused(case, options, message, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        command.main([*case[:3], *options])
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
