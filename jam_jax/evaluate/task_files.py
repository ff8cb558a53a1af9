"""The zero-shot tasks of Table 1 (arXiv 2309.15564), read from the files that their authors publish.

Every record becomes an item of one of two kinds: which of some answers is likeliest after one text (`Choice`), or after
which of some texts another one is likeliest (`Blank`; the partial evaluation of arXiv 1806.02847). The words around
them are those of EleutherAI's harness, so that figures compare with others'.
"""

import csv
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

SCHEMAS = 273  # of the Winograd collection, which has grown since; the first ones are wsc273
POSSESSIVE = ("my", "his", "her", "our", "their")  # pronouns that an answer replaces with an 's
# What an answer may begin with that is written small inside a sentence; names are not.
CAPITALS = ("A", "An", "The", "She", "He", "It", "They", "My", "His", "Her", "Their")


@dataclasses.dataclass(frozen=True)
class Choice:
    """One text and the answers of which the right one should follow it, after a space."""

    text: str
    answers: tuple[str, ...]
    right: int  # index of an answer


@dataclasses.dataclass(frozen=True)
class Blank:
    """Texts that end where a blank was filled, of which the right one should be followed by `rest`, after a space."""

    texts: tuple[str, ...]
    rest: str
    right: int  # index of a text


Item = Choice | Blank
TaskName = Literal["piqa", "arc_challenge", "arc_easy", "storycloze", "winograd", "winogrande"]


@dataclasses.dataclass(frozen=True)
class Task:
    """One column of Table 1."""

    column: str  # as the table has it
    files: tuple[str, ...]  # in the task's folder, under their published names
    read: Callable[..., Iterator[Item]]  # their paths → items
    metric: Literal["acc", "acc_norm"]  # acc_norm: log-likelihoods are divided by the answers' lengths in characters


def read(name: TaskName, directory: str | Path) -> list[Item]:
    """The items of a task, from `directory`/`name`/, in order; ValueError in one line says what is wrong where."""
    task = TASKS[name]
    paths = [Path(directory) / name / file for file in task.files]
    for path in paths:
        if not path.is_file():
            raise ValueError(f"there is no {path}: put the published file there")
    try:
        items = list(task.read(*paths))
    except UnicodeDecodeError as error:
        raise ValueError(f"{paths[0].parent} is damaged: {error}") from error
    if not items:
        raise ValueError(f"{paths[0]} holds no record")
    return items


def _piqa(records: Path, labels: Path) -> Iterator[Choice]:
    rights = labels.read_text(encoding="utf-8").split()
    questions = list(_json_lines(records))
    if len(rights) != len(questions):
        raise ValueError(f"{records} has {len(questions)} records, but {labels} {len(rights)} labels")
    for n, ((where, values), label) in enumerate(zip(questions, rights, strict=True), 1):
        goal, *answers = (_text(values, name, where) for name in ("goal", "sol1", "sol2"))
        yield Choice(_question(goal), tuple(answers), _one_of(("0", "1"), label, f"{labels}, line {n}"))


def _arc(records: Path) -> Iterator[Choice]:
    for where, values in _json_lines(records):
        asked = values.get("question")
        choices = asked.get("choices") if isinstance(asked, dict) else None
        if asked is None or not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise ValueError(f"{where}: question should be an object with stem and choices")
        labels = tuple(_text(choice, "label", where) for choice in choices)
        right = _one_of(labels, values.get("answerKey"), where)
        answers = tuple(_text(choice, "text", where) for choice in choices)
        yield Choice(_question(_text(asked, "stem", where)), answers, right)


def _story_cloze(records: Path) -> Iterator[Choice]:
    with records.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        try:
            for values in rows:
                where = f"{records}, line {rows.line_num}"
                story = " ".join(_text(values, f"InputSentence{i}", where) for i in range(1, 5))
                answers = tuple(_text(values, f"RandomFifthSentenceQuiz{i}", where) for i in (1, 2))
                yield Choice(story, answers, _one_of(("1", "2"), values.get("AnswerRightEnding"), where))
        except csv.Error as error:
            raise ValueError(f"{records}, line {rows.line_num}: {error}") from error


def _winograd(records: Path) -> Iterator[Blank]:
    try:
        schemas = ElementTree.parse(records).getroot().findall("schema")[:SCHEMAS]
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two of its encoding
        raise ValueError(f"{records} is no XML: {error}") from error
    for n, schema in enumerate(schemas, 1):
        where = f"{records}, schema {n}"
        before, pronoun, rest = (_words(schema.findtext(f"text/{part}")) for part in ("txt1", "pron", "txt2"))
        answers = [_words(answer.text) for answer in schema.findall("answers/answer")]
        if not pronoun or not rest or len(answers) != 2 or not all(answers):
            raise ValueError(f"{where}: expected text with pron and txt2, and two answers")
        right = _one_of(("A", "B"), _words(schema.findtext("correctAnswer")).strip("."), where)
        filled = (_in_place(answer, pronoun, before) for answer in answers)
        yield Blank(tuple(f"{before} {name}".strip() for name in filled), rest, right)


def _in_place(answer: str, pronoun: str, before: str) -> str:
    """An answer as it stands in its sentence where the pronoun stood."""
    answer += "'s" if pronoun.lower() in POSSESSIVE else ""
    first, _, others = answer.partition(" ")
    if first not in CAPITALS or not before or before.endswith("."):
        return answer
    return f"{first.lower()} {others}".strip()


def _winogrande(records: Path) -> Iterator[Blank]:
    for where, values in _json_lines(records):
        before, blank, rest = _text(values, "sentence", where).partition("_")
        if not blank or not rest.strip():
            raise ValueError(f"{where}: sentence should hold a blank, _, and go on after it")
        texts = tuple(before + _text(values, f"option{i}", where) for i in (1, 2))
        yield Blank(texts, rest.strip(), _one_of(("1", "2"), values.get("answer"), where))


def _question(asked: str) -> str:
    return f"Question: {asked}\nAnswer:"


def _words(text: str | None) -> str:
    """Text on one line, with one space between words."""
    return " ".join((text or "").split())


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every line of a file as an object, with where it stands."""
    for n, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {n}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is no JSON: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{where}: expected an object")
        yield where, values


def _text(values: dict[str, Any], name: str, where: str) -> str:
    found = values.get(name)
    if not isinstance(found, str) or not found.strip():
        raise ValueError(f"{where}: {name} should be a text, got {found!r:.60}")
    return found


def _one_of(known: tuple[str, ...], found: Any, where: str) -> int:
    if found not in known:
        raise ValueError(f"{where}: the right answer should be one of {', '.join(known)}, got {found!r:.60}")
    return known.index(found)


# By folder, in the order of Table 1. The paper does not say how it compares answers that differ in length: here per
# character, as LLaMA does, where the harness does too; after a blank it is one text that is compared with itself.
TASKS: dict[TaskName, Task] = {
    "piqa": Task("PIQA", ("valid.jsonl", "valid-labels.lst"), _piqa, "acc_norm"),
    "arc_challenge": Task("ARC-C", ("ARC-Challenge-Test.jsonl",), _arc, "acc_norm"),
    "arc_easy": Task("ARC-E", ("ARC-Easy-Test.jsonl",), _arc, "acc_norm"),
    "storycloze": Task("StoryCloze", ("cloze_test_test__spring2016 - cloze_test_ALL_test.csv",), _story_cloze, "acc"),
    "winograd": Task("Winograd", ("WSCollection.xml",), _winograd, "acc"),
    "winogrande": Task("Winogrande", ("dev.jsonl",), _winogrande, "acc"),
}
