"""Interleaved documents: two lists of one length, of which one has something at every place."""

import pytest
from handmade import json_lines, parquet, parts, picture

from jam_jax.data import formats
from jam_jax.data.settings import ReadSettings


def test_texts_and_images_stand_in_their_order(tmp_path):
    (tmp_path / "1.png").write_bytes(picture(1))
    rows = [
        {"texts": [None, "a", "b", None], "images": ["1.png", None, None, "1.png"]},
        {"texts": [None, " a ", None], "images": [None, None, "1.png"]},
        {"texts": ["only text"], "images": [None]},
    ]
    found = [(picture(1), "a\nb", picture(1)), ("a", picture(1)), ("only text",)]
    for source in (json_lines(tmp_path / "a.jsonl", rows), parquet(tmp_path / "a.parquet", rows)):
        opened = formats.open_source(source, settings=ReadSettings(held_out=0))
        assert opened.taken_for.startswith("interleaved documents") and [d.parts for d in opened.documents()] == found
    in_bytes = [{"texts": [None, "a"], "images": [{"bytes": picture(3), "path": None}, None], "metadata": "[]"}]
    assert parts(parquet(tmp_path / "b.parquet", in_bytes)) == [(picture(3), "a")]


BAD = [
    {"texts": ["a"], "images": [None, None]},
    {"texts": ["a"], "images": ["1.png"]},
    {"texts": [], "images": []},
    {"texts": [None], "images": [None]},
    {"texts": [5], "images": [None]},
    {"texts": [None], "images": [5]},
    {"texts": [None], "images": ["https://example.com/1.png"]},
    {"texts": "a", "images": [None]},
    {"texts": None, "images": None},
    {},
]


@pytest.mark.parametrize("row", BAD, ids=str)
def test_lists_that_do_not_fit_are_damaged(tmp_path, row):
    (tmp_path / "1.png").write_bytes(picture(1))
    good = {"texts": ["a"], "images": [None]}
    source = json_lines(tmp_path / "a.jsonl", [good, row, good])
    assert parts(source, settings=ReadSettings(held_out=0, damaged=0.4)) == [("a",), ("a",)]


def test_what_has_no_such_lists_is_told(tmp_path):
    source = json_lines(tmp_path / "a.jsonl", [{"text": "plain"}])
    with pytest.raises(ValueError, match="these are no interleaved documents: expected"):
        formats.open_source(source, settings=ReadSettings(format="obelics"))
