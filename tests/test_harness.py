"""The adapter to EleutherAI's harness beside the harness' own Hugging Face backend, on the same model, exported."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_eval import tasks as theirs
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks._yaml_loader import load_yaml
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from jam_jax import checkpoint, sharding, tokens
from jam_jax.config import MeshConfig
from jam_jax.convert.__main__ import export_model, import_model
from jam_jax.data.tokenizers import open_tokenizer
from jam_jax.evaluate import batched, harness, task_files
from jam_jax.evaluate.batched import Batched
from jam_jax.evaluate.harness import Adapter
from jam_jax.evaluate.task_files import TASKS
from tests import vocabularies, zero_shot_files

POSITIONS = 80  # shorter than some records, in tokens
OPENED = {"opt": "</s>", "llama": "<s>"}  # what each tokenizer puts before a text


def tokenizer_json(family: str) -> dict:
    specials = {"opt": ["<s>", "<pad>", "</s>", "<unk>"], "llama": ["<unk>", "<s>", "</s>"]}[family]
    found = vocabularies.contents({"opt": "byte_level", "llama": "byte_fallback"}[family], specials, seed=None)
    start = OPENED[family]
    number = next(t["id"] for t in found["added_tokens"] if t["content"] == start)
    found["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": start, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {start: {"id": start, "ids": [number], "tokens": [start]}},
    }
    return found


def random_model(family: str, rows: int) -> torch.nn.Module:
    torch.manual_seed(0)
    common = {"vocab_size": rows, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    common |= {"max_position_embeddings": POSITIONS}
    if family == "opt":
        model = OPTForCausalLM(OPTConfig(**common, ffn_dim=32, word_embed_proj_dim=24))
    else:
        model = LlamaForCausalLM(LlamaConfig(**common, intermediate_size=32, tie_word_embeddings=False))
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(std=0.3).add_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return model


@pytest.fixture(scope="module", autouse=True)
def few_lengths() -> Iterator[None]:
    """Shorter rows are padded too, so that fewer programs are compiled; test_batched.py has all lengths."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batched, "LEAST", 64)
        yield


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Of each family a model directory of ours and the same exported again, with its tokenizer."""
    found = {}
    for family, start in OPENED.items():
        root = tmp_path_factory.mktemp(family)
        contents = tokenizer_json(family)
        random_model(family, len(contents["model"]["vocab"])).save_pretrained(root / "in")
        vocabularies.write(root / "in", contents)
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": start, "eos_token": "</s>"}
        settings |= {"pad_token": "<pad>" if family == "opt" else "<unk>", "clean_up_tokenization_spaces": False}
        (root / "in/tokenizer_config.json").write_text(json.dumps(settings))
        import_model(root / "in", root / "ours", grammar=family)
        export_model(root / "ours", root / "out", family)
        found[family] = root / "ours", root / "out"
    return found


def adapter(directory: Path, start: bool = True) -> Adapter:
    mesh = sharding.make_mesh(MeshConfig())
    config, params = checkpoint.load_model(directory)
    tokenizer = checkpoint.tokenizer_dir(directory)
    rows = Batched(config, params, tokens.load(tokenizer), mesh, batch_tokens=640)
    return Adapter(rows, open_tokenizer(tokenizer), start)


def peer(directory: Path, **options: bool) -> HFLM:
    return HFLM(pretrained=str(directory), device="cpu", dtype="float32", batch_size=4, **options)


@pytest.fixture(scope="module", params=OPENED)
def both(request: pytest.FixtureRequest, directories: dict) -> tuple[Adapter, HFLM]:
    ours, out = directories[request.param]
    return adapter(ours), peer(out)


@pytest.fixture(scope="module")
def unopened(directories: dict) -> tuple[Adapter, HFLM]:
    """Both without what opens a document."""
    ours, out = directories["opt"]
    return adapter(ours, start=False), peer(out, add_bos_token=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zero_shot_files.write(tmp_path_factory.mktemp("tasks") / "files")


def instances(kind: str, arguments: list[tuple]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=each, idx=i) for i, each in enumerate(arguments)]


def of_task(task: ConfigurableTask) -> list[Instance]:
    task.build_all_requests()
    return task.instances


def close(ours: list[tuple[float, bool]], wanted: list[tuple[float, bool]]) -> None:
    np.testing.assert_allclose([value for value, _ in ours], [value for value, _ in wanted], rtol=0, atol=1e-4)
    assert [likeliest for _, likeliest in ours] == [likeliest for _, likeliest in wanted]


def test_log_likelihoods_of_all_six_tasks_are_those_of_the_hugging_face_backend(both: tuple, root: Path) -> None:
    requests = [r for name in TASKS for r in of_task(harness.task(name, task_files.read(name, root)))]
    assert len(requests) == 2 * 5 + 14 + 7 + 2 * 12
    ours, hugging_face = both
    close(ours.loglikelihood(requests), hugging_face.loglikelihood(requests))


def test_accuracies_are_those_of_the_hugging_face_backend(both: tuple, root: Path) -> None:
    for name in ("arc_challenge", "winogrande"):
        items = task_files.read(name, root)
        found, wanted = (harness.measure(lm, name, items) for lm in both)
        assert found == wanted
        assert set(found) >= {"acc", "acc_stderr"} and ("acc_norm" in found) == (name == "arc_challenge")


LONG = " ".join(sentence for sentence, *_ in zero_shot_files.SENTENCES) + " and"
ODD = [
    ("", " A cat."),
    ("", "A"),
    (" ", "cat"),
    ("The cat  ", "sat"),
    ("The cat\n", "\n sat"),
    ("The c", "at sat"),  # as one text it is cut elsewhere
    ("A cat 日本", "語 é"),
    (LONG, " the mat."),
    (LONG + LONG, " " + LONG[:60]),
]


def test_odd_pairs_are_told_apart_and_cut_as_there(both: tuple, unopened: tuple) -> None:
    for ours, hugging_face in (both, unopened):
        for context, continuation in ODD:
            if context.strip():
                assert ours._encode_pair(context, continuation) == hugging_face._encode_pair(context, continuation)
        assert ours.prefix_token_id == hugging_face.prefix_token_id and ours.eot_token_id == hugging_face.eot_token_id
        assert len(ours.tok_encode(LONG)) > POSITIONS == hugging_face.max_length == ours.max_length
        # The peer knows no context of spaces where nothing opens it.
        pairs = [pair for pair in ODD if pair[0].strip() or not pair[0] or ours is both[0]]
        requests = instances("loglikelihood", pairs)
        close(ours.loglikelihood(requests), hugging_face.loglikelihood(requests))


def test_what_opens_a_document_stands_where_the_tokenizer_puts_it(both: tuple, unopened: tuple) -> None:
    for ours, hugging_face in (both, unopened):
        for text in ("A cat.", " and", "日本 \n"):
            assert ours.tok_encode(text) == hugging_face.tok_encode(text)
            assert ours.tok_encode(text, add_special_tokens=False) == hugging_face.tok_encode(
                text, add_special_tokens=False
            )
    assert both[0].tok_encode("a")[0] == both[0].prefix_token_id != unopened[0].tok_encode("a")[0]


def test_whole_texts_count_every_token_once(both: tuple, unopened: tuple) -> None:
    requests = instances("loglikelihood_rolling", [(text,) for text in ("A cat.", LONG, LONG + LONG, "")])
    ours, hugging_face = unopened
    found = ours.loglikelihood_rolling(requests)
    np.testing.assert_allclose(found[:3], hugging_face.loglikelihood_rolling(requests[:3]), rtol=0, atol=1e-4)
    assert found[3] == 0
    # Where the tokenizer puts what opens a document, the peer counts it as a token of the text; here it never is one.
    short = instances("loglikelihood", [("", "A cat.")])
    assert both[0].loglikelihood_rolling(requests[:1])[0] == pytest.approx(both[0].loglikelihood(short)[0][0], abs=1e-5)


@pytest.mark.long
def test_greedy_text_is_that_of_the_hugging_face_backend(both: tuple) -> None:
    ours, hugging_face = both
    contexts = ["The red cat", "A", LONG + LONG]
    written = ours.generate_until(
        instances("generate_until", [(c, {"until": [], "max_gen_toks": 12}) for c in contexts])
    )
    # A stop that comes in the middle of one of them.
    stop = written[0][len(written[0]) // 2 :][:2]
    for until in ([], ["never", stop]):
        requests = instances("generate_until", [(c, {"until": until, "max_gen_toks": 12}) for c in contexts])
        assert ours.generate_until(requests) == hugging_face.generate_until(requests)
    assert len(ours.generate_until(requests)[0]) < len(written[0])


def test_mistakes_end_in_one_line(unopened: tuple) -> None:
    ours, _ = unopened
    with pytest.raises(ValueError, match="continuation of 0 tokens cannot be scored"):
        ours.loglikelihood(instances("loglikelihood", [("A cat", "")]))
    with pytest.raises(ValueError, match=r"continuation of \d+ tokens .*1 to 80 can"):
        ours.loglikelihood(instances("loglikelihood", [("A cat", LONG)]))
    for settings, message in (({"do_sample": True}, "only greedy"), ({"max_gen_toks": 80}, "from 1 to 79, got 80")):
        with pytest.raises(ValueError, match=message):
            ours.generate_until(instances("generate_until", [("A cat", {"until": ["."], **settings})]))


def as_published_there(name: str) -> list[dict]:
    """The records of a task as the data set has them that the harness' own description downloads."""
    if name == "piqa":
        return [{"goal": g, "sol1": a, "sol2": b, "label": right} for g, a, b, right in zero_shot_files.GOALS]
    if name.startswith("arc"):
        asked = zero_shot_files.ASKED[: 2 if name == "arc_easy" else None]
        return [
            {"question": q, "choices": {"text": list(texts), "label": list(labels)}, "answerKey": key}
            for q, texts, labels, key in asked
        ]
    if name == "storycloze":
        names = [*(f"input_sentence_{i}" for i in range(1, 5)), "sentence_quiz1", "sentence_quiz2"]
        return [dict(zip([*names, "answer_right_ending"], story, strict=True)) for story in zero_shot_files.STORIES]
    if name == "winogrande":
        return [
            dict(zip(("sentence", "option1", "option2", "answer"), s, strict=True)) for s in zero_shot_files.SENTENCES
        ]
    return [
        {
            "text": f"{' '.join(before.split())} {pronoun} {rest}",
            "pronoun": pronoun,
            "pronoun_loc": len(" ".join(before.split())) + 1,
            "options": list(answers),
            "label": "AB".index(right.strip(" .")),
        }
        for before, pronoun, rest, *answers, right in zero_shot_files.SCHEMAS
    ]


THERE = {
    "piqa": "piqa/piqa.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "storycloze": "storycloze/storycloze_2016.yaml",
    "winograd": "wsc273/default.yaml",
    "winogrande": "winogrande/default.yaml",
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_asks_what_the_harness_own_description_asks(name: str, root: Path) -> None:
    from datasets import Dataset

    description = load_yaml(Path(theirs.__file__).parent / THERE[name])
    split = description.get("test_split") or description["validation_split"]
    data = {split: Dataset.from_list(as_published_there(name))}
    keep = {
        k: v for k, v in description.items() if k not in ("training_split", "validation_split", "test_split", "tag")
    }
    own = ConfigurableTask(config=keep | {"custom_dataset": lambda **_: data, "test_split": split})
    task = harness.task(name, task_files.read(name, root))
    asked, wanted = ([r.args for r in of_task(each)] for each in (task, own))
    if name == "winograd":  # it puts two spaces before what follows the blank
        assert all(rest.startswith("  ") for _, rest in wanted)
        wanted = [(context, rest[1:]) for context, rest in wanted]
    assert asked == wanted
    results = [(float(-i % 3), False) for i in range(5)]
    for mine, its in zip(task.eval_docs, own.eval_docs, strict=True):
        count = len(task.doc_to_choice(mine))
        found, expected = task.process_results(mine, results[:count]), own.process_results(its, results[:count])
        assert {k: found[k] for k in expected} == expected
