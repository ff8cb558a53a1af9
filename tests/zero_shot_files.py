"""The six zero-shot tasks in miniature: records made up here, in the files and formats that the authors publish."""

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

GOALS = [
    ("keep a red kite dry", "put it under the old mat", "leave it in the rain", 0),
    ("find a lost cat", "paint the blue house", "call its name and listen for it", 1),
    ("see the sea from here", "climb up the hill.", "look at café walls", 0),
    ("warm a cup of tea", "add ice", "put it over the fire for a while", 1),
    ("sort old books", "by their colour, or by who wrote them", "by throwing them all away", 0),
]
ASKED = [
    ("What does a cat sit on?", ("A mat", "A cloud", "The wind", "Tea"), "ABCD", "A"),
    ("How many legs has a blue horse?", ("two", "four", "nine"), "123", "2"),
    ("Which of these is cold?", ("fire", "the sun", "snow", "a hot stone", "soup"), "ABCDE", "C"),
    ("What falls?", ("A stone that is let go", "A hill"), "AB", "A"),
]
STORIES = [
    ("Tom had a kite.", "It was red.", "He took it up the hill.", "The wind was strong.", "It flew.", "It ate.", 1),
    ('She said "no".', "Nobody heard.", "She said it again.", "They stopped.", "They ran on.", "They asked why.", 2),
    ("It rained.", "We had no roof, and no mat.", "A cat came.", "It was wet too.", "We all sat.", "It is two.", 1),
    ("The cup fell.", "It broke.", "He took some glue.", "It held.", "The cup is gone.", "He drank from it.", 2),
]
SCHEMAS = [
    ("The cat did not\n fit on the mat because", "it", "was too small.", "The cat", "The mat", "B"),
    ("A cat saw a dog.", "It", "ran.", "The cat", "The dog", "B."),
    ("The men feared the dogs, for", "they", "could bite.", "The men", "The dogs", " B "),
    ("Tom asked a friend for", "his", "book, and lent it on.", "Tom", "A friend", "B"),
]
SENTENCES = [
    ("The cat sat on the mat and not on the hat because the _ was soft.", "mat", "hat", "1"),
    ("Anna thanked Mary since _ had lent the kite.", "Anna", "Mary", "2"),
    ("_ was cold, so Tom gave Sam a hat.", "Tom", "Sam", "2"),
    ("The stone broke the cup as the _ , it seems, was hard.", "stone", "cup", "1"),
]


def write(root: Path) -> Path:
    """A folder a task, each with its files."""
    for folder in ("piqa", "arc_challenge", "arc_easy", "storycloze", "winograd", "winogrande"):
        (root / folder).mkdir(parents=True)
    lines(root / "piqa/valid.jsonl", [{"goal": g, "sol1": a, "sol2": b} for g, a, b, _ in GOALS])
    (root / "piqa/valid-labels.lst").write_text("".join(f"{right}\n" for *_, right in GOALS))
    arc = [
        {
            "id": f"Made_{i}",
            "question": {
                "stem": stem,
                "choices": [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)],
            },
            "answerKey": key,
        }
        for i, (stem, texts, labels, key) in enumerate(ASKED)
    ]
    lines(root / "arc_easy/ARC-Easy-Test.jsonl", arc[:2])
    lines(root / "arc_challenge/ARC-Challenge-Test.jsonl", arc)
    names = ("InputStoryid", *(f"InputSentence{i}" for i in range(1, 5)))
    names += ("RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2", "AnswerRightEnding")
    path = root / "storycloze/cloze_test_test__spring2016 - cloze_test_ALL_test.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *((f"story-{i}", *story) for i, story in enumerate(STORIES))])
    collection = ElementTree.Element("collection")
    for before, pronoun, rest, *answers, right in SCHEMAS:
        schema = ElementTree.SubElement(collection, "schema")
        text = ElementTree.SubElement(schema, "text")
        for name, value in (("txt1", before), ("pron", pronoun), ("txt2", rest)):
            ElementTree.SubElement(text, name).text = f"\n  {value}\n  "
        found = ElementTree.SubElement(schema, "answers")
        for answer in answers:
            ElementTree.SubElement(found, "answer").text = f" {answer} "
        ElementTree.SubElement(schema, "correctAnswer").text = right
    ElementTree.ElementTree(collection).write(root / "winograd/WSCollection.xml", encoding="utf-8")
    winogrande = [
        {"qID": f"made-{i}", "sentence": sentence, "option1": a, "option2": b, "answer": right}
        for i, (sentence, a, b, right) in enumerate(SENTENCES)
    ]
    lines(root / "winogrande/dev.jsonl", winogrande)
    return root


def lines(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
