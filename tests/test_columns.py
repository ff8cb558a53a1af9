"""JSON lines and Parquet whose columns are named or known: what of a row becomes a document, and its split."""

import dataclasses

import pytest
from handmade import json_lines, parquet, parts, picture, read_set

from jam_jax.data import formats
from jam_jax.data.documents import Document
from jam_jax.data.formats import rows as rows_module
from jam_jax.data.formats.columns import at
from jam_jax.data.settings import Columns, ReadSettings

VALUE = {"a": {"b": [{"c": 1}, {"c": 2}, {}]}, "x.y": 3, "x": {"y": 4}, "n.m": {"o.p": 5}, "null": None, "empty": []}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a.b.c", [1, 2, "missing"]),
        ("a.b.0.c", 1),
        ("a.b.7.c", "missing"),
        ("a.b.2.c", "missing"),
        ("a.c", "missing"),
        ("x.y", 3),
        ("n.m.o.p", 5),
        ("null", None),
        ("null.a", "missing"),
        ("empty.a", "missing"),
        ("a.b.d", "missing"),
        ("", "missing"),
    ],
)
def test_a_dotted_name_goes_into_nested_columns(path, found):
    assert at(VALUE, path, "missing") == found


def settings(**columns):
    return ReadSettings(columns=Columns(**columns), held_out=0)


TABLES = {
    "jsonl": lambda path, rows: json_lines(path / "own.jsonl", rows),
    "parquet": lambda path, rows: parquet(path / "own.parquet", rows),
}


@pytest.fixture(params=TABLES)
def table(request, tmp_path):
    """Writes rows as a table of either kind, beside two pictures: 1.png and below/2.png."""
    (tmp_path / "below").mkdir()
    (tmp_path / "1.png").write_bytes(picture(1))
    (tmp_path / "below/2.png").write_bytes(picture(2))
    return lambda rows: TABLES[request.param](tmp_path, rows)


def test_a_caption_and_a_picture_by_its_path(table):
    rows = [{"say": " one ", "see": "1.png"}, {"say": "two", "see": "below/2.png"}, {"say": None, "see": "1.png"}]
    source = table([*rows, {"say": "alone", "see": None}, {"say": "", "see": "1.png"}])
    found = [("one", picture(1)), ("two", picture(2)), (picture(1),), ("alone",), (picture(1),)]
    assert parts(source, settings=settings(text="say", picture="see")) == found


def test_a_picture_as_hugging_face_writes_it(tmp_path):
    rows = [
        {"text": "bytes", "image": {"bytes": picture(5), "path": "../not/read.png"}},
        {"text": "path", "image": {"bytes": None, "path": "1.png"}},
        {"text": "neither", "image": {"bytes": None, "path": None}},
        {"text": "null", "image": None},
    ]
    (tmp_path / "1.png").write_bytes(picture(1))
    found = [("bytes", picture(5)), ("path", picture(1)), ("neither",), ("null",)]
    assert parts(parquet(tmp_path / "own.parquet", rows)) == found
    raw = [{"text": "raw", "image": picture(7)}]
    assert parts(parquet(tmp_path / "raw.parquet", raw)) == [("raw", picture(7))]
    lines = [{"text": "path", "image": {"path": "1.png"}}]
    assert parts(json_lines(tmp_path / "own.jsonl", lines)) == [("path", picture(1))]


def test_a_question_and_its_answer(table):
    source = table([{"q": "why?", "a": "because", "p": "1.png"}, {"q": "how?", "a": "so", "p": None}])
    found = list(formats.read(source, settings=settings(question="q", answer="a", picture="p")))
    assert found == [Document(("because", picture(1)), "why?"), Document(("so",), "how?")]


@pytest.mark.parametrize(
    ("captions", "found"),
    [
        ("each", [("one", picture(1)), ("two", picture(1))]),
        ("first", [("one", picture(1))]),
        ("joined", [("one\ntwo", picture(1))]),
    ],
)
def test_a_list_of_captions(table, captions, found):
    source = table([{"captions": ["one", "", "two"], "image": "1.png"}, {"captions": [], "image": "1.png"}])
    chosen = dataclasses.replace(settings(), captions=captions)
    assert parts(source, settings=chosen) == [*found, (picture(1),)]
    nested = table([{"said": [{"by": "a", "words": "one"}, {"by": "b", "words": "two"}], "image": "1.png"}])
    chosen = dataclasses.replace(settings(text="said.words", picture="image"), captions=captions)
    assert parts(nested, settings=chosen) == found


def test_a_list_of_pictures(table):
    source = table([{"text": "both", "images": ["1.png", "below/2.png"]}])
    assert parts(source, settings=settings(text="text", picture="images")) == [("both", picture(1), picture(2))]
    assert parts(source, settings=settings(picture="images.1")) == [(picture(2),)]


@pytest.mark.parametrize(
    ("row", "taken_for"),
    [
        ({"text": "a", "title": "b"}, "text from 'text'"),
        ({"title": "b", "caption": "c", "image": "1.png"}, "text from 'caption', picture from 'image'"),
        ({"label": 3, "description": "d", "image": "1.png"}, "text from 'description', picture from 'image'"),
        ({"instruction": "q", "output": "a", "text": "not this"}, "question from 'instruction', answer from 'output'"),
        ({"prompt": "p", "text": "t"}, "text from 'text'"),
        ({"prompt": "q", "completion": "a"}, "question from 'prompt', answer from 'completion'"),
        ({"jpg": "1.png"}, "picture from 'jpg'"),
    ],
)
def test_known_names_need_not_be_named(table, row, taken_for):
    assert formats.open_source(table([row])).taken_for.startswith(taken_for + ", ")


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"text": "txet"}, "has no column 'txet' for --columns.text; there are 'body', 'deep', 'see'"),
        ({"text": "deep.b"}, "has no column 'deep.b' for --columns.text"),
        ({"text": "body", "key": "id"}, "has no column 'id' for --columns.key"),
        ({}, "name the columns of the text or the picture .*; there are 'body', 'deep', 'see'"),
    ],
)
def test_a_column_that_is_not_there_is_told_in_one_line(table, columns, says):
    source = table([{"body": "a", "see": "1.png", "deep": [{"a": "x"}]}])
    with pytest.raises(ValueError, match=says) as raised:
        formats.open_source(source, settings=settings(**columns))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "columns", [{"question": "q"}, {"answer": "a"}, {"question": "q", "answer": "a", "text": "t"}, {"key": "k"}]
)
def test_columns_that_make_no_document_are_refused(columns):
    with pytest.raises(ValueError, match="--columns"):
        Columns(**columns)


BAD = [
    {"text": 5},
    {"text": {"a": "b"}},
    {"text": ["one", 5]},
    {"text": "", "image": None},
    {"other": "x"},
    {"text": "a", "image": 5},
    {"text": "a", "image": "none.png"},
    {"text": "a", "image": "own.jsonl"},
    {"text": "a", "image": {"url": "1.png"}},
    {"text": "a", "image": "https://example.com/1.png"},
    {"text": "a", "image": "x" * 5000},
    {"text": "a", "image": "a\0b"},
]


@pytest.mark.parametrize("row", BAD, ids=str)
def test_a_row_that_makes_no_document_is_damaged(tmp_path, capsys, row):
    rows = [{"text": "good", "image": None}, row, {"text": "good", "image": None}]
    source = json_lines(tmp_path / "own.jsonl", rows)
    chosen = dataclasses.replace(settings(text="text", picture="image"), damaged=0.4)
    assert parts(source, settings=chosen) == [("good",), ("good",)]
    assert "skipped own.jsonl:2: " in capsys.readouterr().err


def test_an_empty_question_is_damaged(table):
    source = table(
        [{"question": "q", "answer": "a"}, {"question": " ", "answer": "a"}, {"question": "q", "answer": ""}]
    )
    assert len(parts(source, settings=ReadSettings(held_out=0, damaged=0.7))) == 1


def test_the_split_hangs_on_the_picture_and_not_on_the_order(tmp_path):
    rows = [{"caption": f"grey {i}, again {j}", "image": f"{i}.png"} for j in range(3) for i in range(60)]
    for i in range(60):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
    source = json_lines(tmp_path / "own.jsonl", rows)
    chosen = ReadSettings(held_out=0.2)
    train, test = read_set(source, "train", chosen), read_set(source, "test", chosen)
    assert len(train) + len(test) == 180 and 3 * 3 <= len(test) <= 3 * 24
    assert not {found[1] for _, found in train} & {found[1] for _, found in test}
    json_lines(source, reversed(rows))
    assert read_set(source, "test", chosen) == test
    as_bytes = [{"caption": row["caption"], "image": (tmp_path / row["image"]).read_bytes()} for row in rows]
    source = parquet(tmp_path / "own.parquet", as_bytes)
    train, test = read_set(source, "train", chosen), read_set(source, "test", chosen)
    assert train and test and not {found[1] for _, found in train} & {found[1] for _, found in test}


def test_a_damaged_line_is_in_one_split_and_its_place_is_not_looked_for(tmp_path, monkeypatch):
    source = json_lines(tmp_path / "own.jsonl", ["{"] * 200 + [{"text": f"text {i}"} for i in range(200)])
    asked = []
    monkeypatch.setattr(rows_module, "_line_number", lambda path, offset: asked.append(offset) or f"{offset}")
    chosen = ReadSettings(held_out=0.5, damaged=0.7, columns=Columns(text="text"))
    monkeypatch.setattr(rows_module, "PEEKED", 400)
    assert len(parts(source, "train", chosen)) + len(parts(source, "test", chosen)) == 200
    assert len(asked) == len(set(asked)) == 10


def test_the_split_may_hang_on_a_named_column(table):
    rows = [{"text": f"text {i}", "book": f"book {i % 30}"} for i in range(300)]
    chosen = ReadSettings(columns=Columns(text="text", key="book"), held_out=0.3)
    books = [
        {int(found[0].split()[1]) % 30 for found in parts(table(rows), split, chosen)} for split in ("train", "test")
    ]
    assert books[0] and books[1] and not books[0] & books[1]


def test_a_split_that_nothing_is_held_out_for_is_told(table):
    source = table([{"text": "one"}])
    with pytest.raises(ValueError, match="has the splits train and test, got 'validation'"):
        formats.open_source(source, "validation")
    with pytest.raises(ValueError, match="has no split test: nothing is held out"):
        formats.open_source(source, "test", settings())
    with pytest.raises(ValueError, match="has no records; --held-out is the share that the split test has"):
        list(formats.read(source, "test", ReadSettings(held_out=1e-9)))


def test_pictures_may_be_in_a_directory_of_their_own(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/1.png").write_bytes(picture(1))
    source = json_lines(tmp_path / "data/own.jsonl", [{"text": "a", "image": "1.png"}])
    assert parts(source, settings=ReadSettings(images=str(tmp_path / "elsewhere"), held_out=0)) == [("a", picture(1))]
    with pytest.raises(ValueError, match="--images: there is no directory"):
        formats.open_source(source, settings=ReadSettings(images=str(tmp_path / "nowhere")))
