"""Shards and damage, whatever the format: every document is in one shard, and a few damaged records stop nothing."""

import json
import os

import pytest
from handmade import (
    article,
    coco,
    csv_folder,
    image_folder,
    json_lines,
    parquet,
    picture,
    sidecar_folder,
    text_folder,
    tfds_texts,
    wikihow,
)

from jam_jax.data import formats
from jam_jax.data.formats.source import Record, Source, numbered
from jam_jax.data.settings import ReadSettings


def rows(count=40):
    return [{"caption": f"grey {i}" * (1 + i % 7), "image": picture(i), "n": i} for i in range(count)]


def lines(count=40):
    return [{"text": f"line {i}" * (1 + i % 7)} for i in range(count)]


def several(directory, make, counts):
    """A directory of tables with so many rows."""
    for i, count in enumerate(counts):
        make(directory / str(i), count)
    return directory


MAKERS = {
    "tfds": lambda d: tfds_texts(d, [{"text": f"text {i}"} for i in range(20)]),
    "jsonl": lambda d: json_lines(d / "own.jsonl", lines()),
    "jsonl of several files": lambda d: several(
        d / "own", lambda path, n: json_lines(path.with_suffix(".jsonl"), lines(n)), [0, 3, 6, 9, 12]
    ),
    "json list": lambda d: json_lines(d / "own.json", [json.dumps(lines())]),
    "parquet": lambda d: several(
        d / "own", lambda path, n: parquet(path.with_suffix(".parquet"), rows(n), 5), [1, 8, 15]
    ),
    "coco": lambda d: coco(d / "own"),
    "lima": lambda d: json_lines(d / "own.jsonl", [{"conversations": [f"q {i}", "a"]} for i in range(9)]),
    "wikihow": lambda d: wikihow(d / "own", [article(i, "ABC"[i % 3]) for i in range(12)]),
    "image_folder": lambda d: image_folder(d / "own"),
    "csv": lambda d: csv_folder(d / "own"),
    "sidecars": lambda d: sidecar_folder(d / "own"),
    "text_folder": lambda d: text_folder(d / "own"),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_shards_one_after_another_are_the_whole(tmp_path, make):
    source = formats.open_source(make(tmp_path))
    whole = list(source.documents())
    assert len(whole) > 2
    for of in (1, 2, 3, 7, 100):
        assert [d for shard in range(of) for d in source.documents(shard, of)] == whole
    assert list(source.documents()) == whole


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_shard_is_a_fair_part(tmp_path, make):
    source = formats.open_source(make(tmp_path), settings=ReadSettings())
    sizes = [len(list(source.documents(shard, 3))) for shard in range(3)]
    assert min(sizes) > 0 and max(sizes) <= sum(sizes) * 2 / 3


def test_there_is_no_shard_beyond_the_last(tmp_path):
    source = formats.open_source(text_folder(tmp_path / "own"))
    for shard, of in [(3, 3), (-1, 3), (0, 0)]:
        with pytest.raises(ValueError, match=f"of {of}, got shard {shard}"):
            source.documents(shard, of)


DAMAGE = [
    (7, '{"file_name": "7.png", "te'),  # cut short
    (7, '["7.png", "grey 7"]'),
    (7, '{"file_name": "none.png", "text": "missing"}'),
    (7, '{"file_name": "metadata.jsonl", "text": "no picture"}'),
    (7, '{"file_name": "../outside.png", "text": "outside"}'),
    (7, '{"file_name": null, "text": "grey 7"}'),
    (7, '{"file_name": ["7.png", 7], "text": "grey 7"}'),
]


@pytest.mark.parametrize("damage", DAMAGE, ids=[line for _, line in DAMAGE])
def test_one_damaged_record_in_two_hundred_is_skipped_and_told(tmp_path, capsys, damage):
    (tmp_path / "outside.png").write_bytes(picture(1))
    source = image_folder(tmp_path / "own", 210, [damage])
    whole = list(formats.read(source)) + list(formats.read(source, "test"))
    assert len(whole) == 209 and "grey 7" not in {d.parts[0] for d in whole}
    told = capsys.readouterr().err
    assert told.count("\n") == 2 and "skipped 1 of" in told and "skipped metadata.jsonl:8: " in told


def test_more_than_one_damaged_record_in_a_hundred_stops_the_reading(tmp_path):
    source = image_folder(tmp_path / "own", 100)
    for i in range(10, 20):
        (source / f"{i}.png").write_bytes(picture(i)[:40])
    match = r"1 of 95 .* damaged, more than 1% \(--damaged\); first metadata.jsonl:1\d: "
    with pytest.raises(ValueError, match=match) as raised:
        list(formats.read(source))
    assert "\n" not in str(raised.value)


def stream(damaged, count, tolerated, known=False):
    """A source of numbers, of which some are damaged; how many there are is known or not."""

    def read(i):
        if i in damaged:
            raise ValueError(f"bad\n{i}")
        return [i]

    def record(i):
        return Record(lambda: f"row {i}", lambda: read(i))

    if known:
        return numbered("own", "numbers", count, record, tolerated)
    return Source(
        "own",
        "numbers",
        lambda shard, of: map(record, range(count * shard // of, count * (shard + 1) // of)),
        tolerated,
    )


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("damaged", "count", "tolerated", "stops_after"),
    [
        ({5}, 100, 0.01, None),
        ({5}, 99, 0.01, "the end"),
        ({5, 6}, 100, 0.01, "the end"),
        (set(range(100)), 100, 1.0, None),
        ({0}, 1, 0.0, 0),
        (set(range(5000)), 5000, 0.01, 0),
        ({4999}, 5000, 0.0, 4999),
    ],
)
def test_the_tolerated_share_is_kept(known, damaged, count, tolerated, stops_after):
    found = []
    reading = stream(damaged, count, tolerated, known).documents()
    if stops_after is None:
        assert list(reading) == [i for i in range(count) if i not in damaged]
        return
    with pytest.raises(ValueError, match="records are damaged, more than") as raised:
        for i in reading:
            found.append(i)
    assert "\n" not in str(raised.value) and f"first row {min(damaged)}: bad {min(damaged)}" in str(raised.value)
    if stops_after != "the end":
        assert len(found) == stops_after


def test_a_stream_that_is_all_damaged_stops_soon():
    with pytest.raises(ValueError, match="at least 11 of the first 11 records are damaged"):
        list(stream(set(range(5000)), 5000, 0.01).documents())


@pytest.mark.parametrize("known", [True, False])
def test_a_shard_goes_on_where_the_whole_goes_on(known):
    source = stream({5}, 100, 0.01, known)
    assert [i for shard in range(20) for i in source.documents(shard, 20)] == list(source.documents())


def test_damaged_records_are_told_one_by_one_and_then_counted(capsys):
    list(stream(set(range(8)), 100, 0.1).documents())
    told = capsys.readouterr().err.splitlines()
    assert told == [*(f"own: skipped row {i}: bad {i}" for i in range(5)), "own: skipped 8 of 100 records, damaged"]


def test_only_a_few_places_are_looked_for():
    """The place of a line is found by counting all lines before it."""
    asked = []

    def read():
        raise ValueError("bad")

    records = [Record(lambda: asked.append(1) or "here", read)] * 100
    assert list(Source("own", "numbers", lambda shard, of: records, 1.0).documents()) == []
    assert len(asked) == 5


def test_a_source_without_records_is_told():
    with pytest.raises(ValueError, match="own has no records"):
        list(stream(set(), 0, 0.01).documents())


def test_a_pipe_in_the_folder_is_damaged_and_not_waited_for(tmp_path):
    source = image_folder(tmp_path / "own", 4)
    (source / "1.png").unlink()
    os.mkfifo(source / "1.png")
    (source / "2.png").unlink()
    (source / "2.png").mkdir()
    (source / "3.png").unlink()
    (source / "3.png").symlink_to("3.png")
    settings = ReadSettings(held_out=0, damaged=0.8)
    assert [d.parts[0] for d in formats.read(source, settings=settings)] == ["grey 0"]


TURNS = [{"from": "human", "value": "<image> q"}, {"from": "gpt", "value": "a"}]
ROWS = {
    "jsonl": {"text": ["one", "two"], "image": {"path": "1.png", "bytes": None}},
    "lima": {"conversations": ["q", "a"], "source": "s"},
    "llava": {"id": "1", "image": ["1.png"], "conversations": TURNS},
    "obelics": {"texts": ["a", None], "images": [None, "1.png"]},
    "wikihow": article(1),
    "image_folder": {"file_name": "1.png", "text": "a"},
}
WRONG = [
    None,
    5,
    -1.5,
    True,
    "",
    "x",
    "\ud800",
    "\0",
    "../1.png",
    [],
    {},
    [None],
    [[]],
    [["x"]],
    {"": ""},
    {"path": {}},
    1e400,
]


def changed(value):
    """The value with something wrong in place of it, or of any part of it."""
    yield from WRONG
    for name, inner in list(
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        for other in changed(inner):
            copy = value.copy()
            copy[name] = other
            yield copy
        copy = value.copy()
        del copy[name]
        yield copy


@pytest.mark.parametrize(("format", "row"), ROWS.items(), ids=ROWS)
def test_whatever_stands_in_a_record_is_a_document_or_damage(tmp_path, format, row):
    """Nothing else is raised, and the good records around it are kept."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own/wiki_images").mkdir()
    for path in (tmp_path / "own/1.png", tmp_path / "own/wiki_images/1_0_0.png"):
        path.write_bytes(picture(1))
    cases = list(changed(row))
    name = "metadata.jsonl" if format == "image_folder" else "own.jsonl"
    path = json_lines(tmp_path / "own" / name, [row, row])
    source = path.parent if format == "image_folder" else path
    turns = "first" if format in ("lima", "llava") else "single"

    def read(split="train", share=0.0):
        return list(formats.read(source, split, ReadSettings(format=format, damaged=1, held_out=share, turns=turns)))

    good = read()
    half = len(good) // 2
    json_lines(path, [row, *(json.dumps(case) for case in cases), row])
    found = read()
    assert len(cases) > 20 and found[:half] == good[:half] and found[-half:] == good[half:]
    assert len(found) < 2 * len(cases) and len(read("train", 0.5)) + len(read("test", 0.5)) == len(found)
