"""wikiHow: which articles are taken, from which categories, and how they answer."""

import dataclasses
from collections import Counter

import pytest
from handmade import article, json_lines, parts, picture, wikihow

from jam_jax.data import formats
from jam_jax.data.documents import Document
from jam_jax.data.formats.wikihow import choose
from jam_jax.data.settings import ReadSettings, Wikihow

EVERY = Wikihow(rating=0, articles=0)


def settings(**options):
    return ReadSettings(held_out=0, wikihow=dataclasses.replace(EVERY, **options))


def test_an_article_is_an_illustrated_answer(tmp_path):
    source = wikihow(tmp_path / "own", [article(7, pictures=2)])
    shown = picture(len("Method 0"))
    first = "The following answer teaches you.\nMethod 0\nBegin.\nThe following answer says how."
    second = "End.\nMethod 1\nBegin.\nThe following answer says how."
    opened = formats.open_source(source, settings=settings())
    assert opened.taken_for == "wikiHow articles, JSON lines"
    assert list(opened.documents()) == [Document((first, shown, second, shown, "End."), "How to Do 7")]


def test_how_an_article_is_worded_is_a_setting(tmp_path):
    said = "This article is long. In this article, and THIS ARTICLE."
    source = wikihow(tmp_path / "own", [article(7, pictures=0, goal_description=said)])
    assert [p[0].split("\n")[0] for p in parts(source, settings=settings())] == [
        "The following answer is long. In the following answer, and THIS ARTICLE."
    ]
    assert parts(source, settings=settings(this_article=""))[0][0].startswith(said)
    (document,) = formats.read(source, settings=settings(asks=False))
    assert not document.question and document.parts[0].startswith("How to Do 7\nThe following")


@pytest.mark.parametrize(
    ("more", "most", "shown"),
    [("leave_out", 3, [0, 2, 3]), ("cut", 3, [0, 2, 3, 3]), ("leave_out", 0, [0]), ("cut", 0, [0, 0, 0, 0])],
)
def test_an_article_has_at_most_so_many_pictures(tmp_path, more, most, shown):
    source = wikihow(tmp_path / "own", [article(i, pictures=n) for i, n in enumerate([0, 2, 3, 5])])
    found = formats.read(source, settings=settings(more=more, pictures=most))
    assert [len(document.pictures) for document in found] == shown


def test_articles_are_rated_above(tmp_path):
    ratings = [90, 90.5, 100, 0, None]
    source = wikihow(tmp_path / "own", [article(i, rating=rating) for i, rating in enumerate(ratings)])
    assert [d.question[-1] for d in formats.read(source, settings=settings(rating=90))] == ["1", "2"]
    assert len(parts(source, settings=settings())) == 5
    unrated = wikihow(tmp_path / "unrated", [article(i, rating=None) for i in range(3)])
    with pytest.raises(ValueError, match="no wikiHow article states a `rating`: .* --wikihow.rating 0"):
        parts(unrated, settings=settings(rating=90))


TABLE = {"A": 10, "B": 3, "C": 1, "": 2}  # category → articles


@pytest.mark.parametrize(
    ("articles", "taken"),
    [
        (4, {"A": 1, "B": 1, "C": 1, "": 1}),
        (7, {"A": 2, "B": 2, "C": 1, "": 2}),
        (9, {"A": 3, "B": 3, "C": 1, "": 2}),
        (12, {"A": 6, "B": 3, "C": 1, "": 2}),
        (99, TABLE),
        (0, TABLE),
    ],
)
def test_categories_give_equally_as_far_as_they_have(articles, taken):
    rows = [article(f"{name}{i}", category=name, pictures=0) for name, n in TABLE.items() for i in range(n)]
    for order in (rows, rows[::-1]):
        chosen = choose(Wikihow(articles=articles), order)
        assert Counter(row["category_hierarchy"][0] for row in rows if chosen(row)) == taken


def test_the_choice_hangs_on_no_order_and_may_be_unbalanced(tmp_path):
    rows = [article(f"{name}{i}", category=name, pictures=0) for name, n in TABLE.items() for i in range(n)]
    for balanced in (True, False):
        options = Wikihow(articles=8, balanced=balanced)
        one, other = choose(options, rows), choose(options, rows[::-1])
        assert [one(row) for row in rows] == [other(row) for row in rows] and sum(map(one, rows)) == 8
    lone = [article(i, "AB"[i == 0], pictures=0) for i in range(200)]
    assert choose(Wikihow(articles=5), lone)(lone[0]) and not choose(Wikihow(articles=5, balanced=False), lone)(lone[0])


def test_the_held_out_articles_are_others(tmp_path):
    source = wikihow(tmp_path / "own", [article(i, "ABC"[i % 3], pictures=0) for i in range(60)])
    chosen = ReadSettings(held_out=0.3, wikihow=Wikihow(articles=9))
    asked = [{d.question for d in formats.read(source, split, chosen)} for split in ("train", "test")]
    assert [len(questions) for questions in asked] == [9, 9] and not asked[0] & asked[1]


STEP = {"headline": "h", "description": "d"}
BAD = [
    {"goal": ""},
    {"goal": 5},
    {"rating": 101},
    {"rating": "95"},
    {"rating": True},
    {"methods": []},
    {"methods": None},
    {"methods": ["m"]},
    {"methods": [{"name": "m"}]},
    {"methods": [{"name": "m", "steps": [5]}]},
    {"methods": [{"name": 5, "steps": [STEP]}]},
    {"methods": [{"name": "m", "steps": [STEP | {"headline": 5}]}]},
    {"methods": [{"name": "m", "steps": [STEP | {"img": "x"}]}]},
    {"methods": [{"name": "m", "steps": [STEP | {"img": "x", "step_id": "missing"}]}]},
    {"methods": [{"name": "m", "steps": [STEP | {"img": "x", "step_id": "../../outside"}]}]},
    {"category_hierarchy": [5]},
    {"goal_description": ["a"]},
]


@pytest.mark.parametrize("change", BAD, ids=str)
def test_an_article_that_is_laid_out_otherwise_is_damaged(tmp_path, capsys, change):
    (tmp_path / "outside.png").write_bytes(picture(1))
    good = article(1)
    rows = [good, article(2) | change, good]
    source = wikihow(tmp_path / "own", [good])
    json_lines(source / "WikihowText_data.json", rows)
    found = parts(source, settings=dataclasses.replace(settings(), damaged=0.4))
    assert len(found) == 2 and "skipped WikihowText_data.json:2: " in capsys.readouterr().err


def test_pictures_may_be_elsewhere(tmp_path):
    source = wikihow(tmp_path / "own", [article(1)])
    (source / "wiki_images").rename(tmp_path / "pictures")
    elsewhere = dataclasses.replace(settings(), images=str(tmp_path / "pictures"))
    (document,) = formats.read(source, settings=elsewhere)
    assert len(document.pictures) == 1


def test_what_is_no_article_is_told(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "plain"}\n')
    with pytest.raises(ValueError, match="these are no wikiHow articles: expected"):
        formats.open_source(tmp_path / "a.jsonl", settings=ReadSettings(format="wikihow"))
    for wrong in ({"rating": 100}, {"rating": -1}, {"articles": -1}, {"pictures": -1}):
        with pytest.raises(ValueError, match="--wikihow"):
            Wikihow(**wrong)
