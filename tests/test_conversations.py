"""Conversations: LIMA's turns become questions and answers, LLaVA's with pictures become interleaved documents."""

import json

import pytest
from handmade import json_lines, parquet, picture

from jam_jax.data import formats
from jam_jax.data.documents import Document
from jam_jax.data.settings import ReadSettings

LIMA = [
    {"conversations": ["How?", " So. "], "source": "stackexchange"},
    {"conversations": ["Who?", "I.", "Really?", "Yes."], "source": "multi_turn"},
]


@pytest.mark.parametrize(
    ("turns", "found"),
    [
        ("single", [Document(("So.",), "How?")]),
        ("first", [Document(("So.",), "How?"), Document(("I.",), "Who?")]),
        (
            "each",
            [Document(("So.",), "How?"), Document(("I.",), "Who?"), Document(("Yes.",), "Who?\n\nI.\n\nReally?")],
        ),
    ],
)
def test_limas_odd_turns_are_answers(tmp_path, turns, found):
    settings = ReadSettings(turns=turns, held_out=0)
    for source in (json_lines(tmp_path / "a.jsonl", LIMA), parquet(tmp_path / "a.parquet", LIMA)):
        opened = formats.open_source(source, settings=settings)
        assert opened.taken_for.startswith("LIMA conversations") and list(opened.documents()) == found


def test_lima_as_it_is_published_has_its_own_splits(tmp_path):
    json_lines(tmp_path / "lima/train.jsonl", LIMA * 60)
    json_lines(tmp_path / "lima/test.jsonl", [{"conversations": ["Only asked?"], "source": "test"}])
    assert len(list(formats.read(tmp_path / "lima"))) == 60
    with pytest.raises(ValueError, match="first test.jsonl:1: a conversation of 1 turns does not end with an answer"):
        list(formats.read(tmp_path / "lima", "test"))


def test_conversations_that_begin_alike_are_in_one_split(tmp_path):
    rows = [{"conversations": [f"q {i % 40}", f"a {i}"]} for i in range(120)]
    source = json_lines(tmp_path / "a.jsonl", rows)
    asked = [
        {d.question for d in formats.read(source, split, ReadSettings(held_out=0.3))} for split in ("train", "test")
    ]
    assert asked[0] and asked[1] and not asked[0] & asked[1]


BAD_LIMA = [[], ["q"], ["q", ""], ["", "a"], ["q", None], ["q", 5], ["q", "a", "q"], ["q", ["a"]], "q", None]


@pytest.mark.parametrize("turns", BAD_LIMA, ids=str)
@pytest.mark.parametrize("setting", ["single", "each"])
def test_a_conversation_without_its_turns_is_damaged(tmp_path, turns, setting):
    source = json_lines(tmp_path / "a.jsonl", [LIMA[0], {"conversations": turns}, LIMA[0]])
    found = list(formats.read(source, settings=ReadSettings(format="lima", held_out=0, damaged=0.4, turns=setting)))
    assert found == [Document(("So.",), "How?")] * 2


def turn(who, words):
    return {"from": who, "value": words}


def llava(tmp_path, *records):
    for i in (1, 2):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
    return json_lines(tmp_path / "a.json", [json.dumps(records)])


CASES = {
    "a picture in a question": (
        {"image": "1.png", "conversations": [turn("human", "<image>\nWhat?"), turn("gpt", "Grey.")]},
        [Document((picture(1), "What?\nGrey."))],
    ),
    "turn after turn": (
        {
            "image": "1.png",
            "conversations": [
                turn("human", "Look: <image>"),
                turn("gpt", "A."),
                turn("human", "More?"),
                turn("gpt", "B."),
            ],
        },
        [Document(("Look:", picture(1), "A.\nMore?\nB."))],
    ),
    "several pictures": (
        {"images": ["1.png", "2.png"], "conversations": [turn("human", "<image> or <image>?"), turn("gpt", "2.")]},
        [Document((picture(1), "or", picture(2), "?\n2."))],
    ),
    "a picture in an answer": (
        {"image": ["2.png"], "conversations": [turn("human", "Draw."), turn("gpt", "Here: <image> done.")]},
        [Document(("Here:", picture(2), "done."), "Draw.")],
    ),
    "no picture": (
        {"conversations": [turn("human", "What is <image>?"), turn("gpt", "A tag.")]},
        [Document(("A tag.",), "What is <image>?")],
    ),
    "other names": (
        {"conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        [Document(("a",), "q")],
    ),
    "a system turn": (
        {"conversations": [turn("system", "Be kind."), turn("human", "q"), turn("gpt", "a")]},
        [Document(("a",), "Be kind.\nq")],
    ),
    "left out": ({"conversations": [turn("human", "q"), turn("gpt", "a")] * 2}, []),
}


@pytest.mark.parametrize(("record", "found"), CASES.values(), ids=CASES)
def test_llavas_marks_become_pictures(tmp_path, record, found):
    opened = formats.open_source(llava(tmp_path, record), settings=ReadSettings(held_out=0))
    assert opened.taken_for == "LLaVA conversations, a JSON list"
    assert list(opened.documents()) == found


def test_what_was_shown_before_is_not_in_a_later_question(tmp_path):
    turns = [turn("human", "Draw."), turn("gpt", "Here: <image>"), turn("human", "Again."), turn("gpt", "<image>")]
    source = llava(tmp_path, {"image": ["1.png", "2.png"], "conversations": turns})
    found = list(formats.read(source, settings=ReadSettings(turns="each", held_out=0)))
    assert found[1] == Document((picture(2),), "Draw.\n\nHere:\n\nAgain.")


BAD_LLAVA = [
    {"image": "1.png", "conversations": [turn("human", "no mark"), turn("gpt", "a")]},
    {"image": "1.png", "conversations": [turn("human", "<image><image>"), turn("gpt", "a")]},
    {"image": "none.png", "conversations": [turn("human", "<image>"), turn("gpt", "a")]},
    {"image": 5, "conversations": [turn("human", "<image>"), turn("gpt", "a")]},
    {"conversations": [turn("gpt", "a"), turn("human", "q")]},
    {"conversations": [turn("human", "q")]},
    {"conversations": [turn("human", "q"), turn("robot", "a")]},
    {"conversations": [turn("human", "q"), turn(["gpt"], "a")]},
    {"conversations": [turn("human", "q"), turn("gpt", None)]},
    {"conversations": [turn("human", 5), turn("gpt", "a")]},
    {"conversations": [turn("system", "s")]},
    {"conversations": ["q", "a"]},
    {"conversations": {"from": "human"}},
    {"conversations": []},
    {"conversations": None},
]


@pytest.mark.parametrize("record", BAD_LLAVA, ids=str)
def test_a_record_that_does_not_fit_its_pictures_or_turns_is_damaged(tmp_path, record):
    good = {"image": "1.png", "conversations": [turn("human", "<image>"), turn("gpt", "a")]}
    source = llava(tmp_path, good, record, good)
    found = list(formats.read(source, settings=ReadSettings(format="llava", held_out=0, damaged=0.4)))
    assert found == [Document((picture(1), "a"))] * 2


def test_what_has_no_conversations_is_told(tmp_path):
    source = json_lines(tmp_path / "a.jsonl", [{"text": "plain"}])
    for format, says in [("lima", "expected LIMA's lists of turns"), ("llava", "expected LLaVA's turns")]:
        with pytest.raises(ValueError, match=says):
            formats.open_source(source, settings=ReadSettings(format=format))
