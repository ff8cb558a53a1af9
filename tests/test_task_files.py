"""The tasks' published files: what each becomes, by hand, and every damage named in one line with its place."""

import pytest

from jam_jax.evaluate import task_files
from jam_jax.evaluate.task_files import TASKS, Blank, Choice
from tests import zero_shot_files


@pytest.fixture
def root(tmp_path):
    return zero_shot_files.write(tmp_path)


def test_every_task_by_hand(root):
    read = {name: task_files.read(name, root) for name in TASKS}
    assert read["piqa"][1] == Choice(
        "Question: find a lost cat\nAnswer:", ("paint the blue house", "call its name and listen for it"), 1
    )
    assert read["arc_challenge"][:2] == read["arc_easy"]
    assert read["arc_easy"][1] == Choice(
        "Question: How many legs has a blue horse?\nAnswer:", ("two", "four", "nine"), 1
    )
    assert read["storycloze"][1] == Choice(
        'She said "no". Nobody heard. She said it again. They stopped.', ("They ran on.", "They asked why."), 1
    )
    mat = "The cat did not fit on the mat because"
    assert read["winograd"] == [
        Blank((f"{mat} the cat", f"{mat} the mat"), "was too small.", 1),
        Blank(("A cat saw a dog. The cat", "A cat saw a dog. The dog"), "ran.", 1),
        Blank(("The men feared the dogs, for the men", "The men feared the dogs, for the dogs"), "could bite.", 1),
        Blank(("Tom asked a friend for Tom's", "Tom asked a friend for a friend's"), "book, and lent it on.", 1),
    ]
    assert read["winogrande"][2] == Blank(("Tom", "Sam"), "was cold, so Tom gave Sam a hat.", 1)
    assert read["winogrande"][3].rest == ", it seems, was hard."
    assert [len(read[name]) for name in TASKS] == [5, 4, 2, 4, 4, 4]


def test_of_a_longer_collection_the_first_schemas_are_read(root, monkeypatch):
    monkeypatch.setattr(task_files, "SCHEMAS", 3)
    assert len(task_files.read("winograd", root)) == 3


STORY = "cloze_test_test__spring2016 - cloze_test_ALL_test.csv"
DAMAGES = [
    ("piqa/valid.jsonl", lambda text: text.split("\n", 1)[1], "has 4 records, but .*valid-labels.lst 5 labels"),
    ("piqa/valid-labels.lst", lambda text: text.replace("1", "2"), "valid-labels.lst, line 2: .* one of 0, 1, got '2'"),
    ("piqa/valid.jsonl", lambda text: text.replace('"sol2"', '"other"', 1), "line 1: sol2 should be a text, got None"),
    ("arc_easy/ARC-Easy-Test.jsonl", lambda text: text[:-20], "line 2 is no JSON"),
    ("arc_easy/ARC-Easy-Test.jsonl", lambda text: "[1]\n" + text, "line 1: expected an object"),
    ("arc_easy/ARC-Easy-Test.jsonl", lambda text: text.replace('y": "2"', 'y": "4"'), "line 2: .* 1, 2, 3, got '4'"),
    ("arc_easy/ARC-Easy-Test.jsonl", lambda text: text.replace('"choices"', '"c"'), "stem and choices"),
    ("arc_challenge/ARC-Challenge-Test.jsonl", lambda text: "\n", "holds no record"),
    (f"storycloze/{STORY}", lambda text: text.replace("InputSentence3", "x"), "line 2: InputSentence3 should be"),
    (f"storycloze/{STORY}", lambda text: text[:-3], "line 5: the right answer should be one of 1, 2, got None"),
    ("winograd/WSCollection.xml", lambda text: text[:-5], "WSCollection.xml is no XML"),
    ("winograd/WSCollection.xml", lambda text: "<?xml version='1.0' encoding='foo'?>" + text, "is no XML: .*foo"),
    ("winograd/WSCollection.xml", lambda text: "<?xml version='1.0' encoding='utf-7'?>" + text, "is no XML"),
    ("winogrande/dev.jsonl", lambda text: "[" * 100_000, "line 1 is no JSON"),
    ("winograd/WSCollection.xml", lambda text: text.replace("pron>", "p>"), "schema 1: expected text with pron"),
    ("winogrande/dev.jsonl", lambda text: text.replace("the _ was", "it was"), "line 1: sentence should hold a blank"),
    ("winogrande/dev.jsonl", lambda text: text.replace('r": "1"', 'r": 1'), "line 1: .* one of 1, 2, got 1"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGES)
def test_damages_are_named_in_one_line(root, name, damage, message):
    path = root / name
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        task_files.read(name.split("/")[0], root)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_no_text_is_named(root):
    (root / "winogrande/dev.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="winogrande is damaged: .*utf-8"):
        task_files.read("winogrande", root)
    (root / "piqa/valid-labels.lst").unlink()
    with pytest.raises(ValueError, match="there is no .*piqa/valid-labels.lst: put the published file there"):
        task_files.read("piqa", root)
