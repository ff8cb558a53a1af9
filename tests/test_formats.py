"""What a user's data is taken for: by its files and keys, or by name; what could be several things is asked."""

import json

import pytest
from handmade import (
    ALL,
    article,
    coco,
    csv_folder,
    image_folder,
    json_lines,
    parquet,
    parts,
    picture,
    sidecar_folder,
    text_folder,
    tfds_texts,
    wikihow,
)

from jam_jax.data import formats
from jam_jax.data.formats.recognise import recognise
from jam_jax.data.formats.splits import split_of_file
from jam_jax.data.settings import FORMATS, Columns, ReadSettings, Wikihow

TURNS = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
ROWS = {
    "lima": {"conversations": ["q", "a"]},
    "llava": {"conversations": TURNS},
    "obelics": {"texts": ["a"], "images": [None]},
    "wikihow": article(1, pictures=0),
    "plain": {"text": "a"},
}
KINDS = {
    "tfds": lambda d: tfds_texts(d, [{"text": "a"}] * 2),
    "coco": lambda d: coco(d / "own"),
    "coco ": lambda d: coco(d / "own") / "annotations/captions_train2017.json",
    "coco  ": lambda d: coco(d / "own") / "annotations",
    "wikihow": lambda d: wikihow(d / "own", [article(1)]),
    "image_folder": lambda d: image_folder(d / "own"),
    "image_folder ": lambda d: csv_folder(d / "own"),
    "image_folder  ": lambda d: sidecar_folder(d / "own"),
    "text_folder": lambda d: text_folder(d / "own"),
    "jsonl": lambda d: json_lines(d / "own.jsonl", [ROWS["plain"]]),
    "jsonl ": lambda d: json_lines(d / "own/a.jsonl", [ROWS["plain"]]).parent,
    "jsonl  ": lambda d: json_lines(d / "own.json", [ROWS["plain"]] * 2),
    "jsonl   ": lambda d: json_lines(d / "own.json", [json.dumps([ROWS["plain"]])]),
    "parquet": lambda d: parquet(d / "own.parquet", [ROWS["plain"]]),
    "parquet ": lambda d: parquet(d / "own/data/train-00000-of-00001.parquet", [ROWS["plain"]]).parent.parent,
    "lima": lambda d: json_lines(d / "own.jsonl", [ROWS["lima"]]),
    "lima ": lambda d: parquet(d / "own.parquet", [ROWS["lima"]]),
    "llava": lambda d: json_lines(d / "own.json", [json.dumps([ROWS["llava"]], indent=1)]),
    "obelics": lambda d: parquet(d / "own.parquet", [{"texts": ["a", None], "images": [None, picture(1)]}]),
}


@pytest.mark.parametrize(("format", "make"), KINDS.items(), ids=KINDS)
def test_data_are_known_by_their_files_and_keys(tmp_path, format, make):
    path = make(tmp_path)
    assert recognise(path) == format.strip()
    source, named = formats.open_source(path), formats.open_source(path, settings=ReadSettings(format=format.strip()))
    assert source.taken_for == named.taken_for and "\n" not in source.taken_for
    assert [*source.documents()] == [*named.documents()] != []


def test_every_format_is_recognised_somewhere():
    assert {format.strip() for format in KINDS} | {"auto"} == set(FORMATS)


def test_what_could_be_several_things_is_asked(tmp_path):
    source = text_folder(tmp_path / "own")
    json_lines(source / "own.jsonl", [ROWS["plain"]])
    with pytest.raises(ValueError, match="could be jsonl or text_folder: say which with --format"):
        formats.open_source(source)
    assert len(parts(source, settings=ReadSettings(format="text_folder", held_out=0))) == 40
    assert parts(source, settings=ReadSettings(format="jsonl", held_out=0)) == [("a",)]
    two = parquet(tmp_path / "two/own.parquet", [ROWS["plain"]]).parent
    json_lines(two / "own.jsonl", [ROWS["plain"]])
    with pytest.raises(ValueError, match="could be jsonl or parquet"):
        formats.open_source(two)
    json_lines(two / "own.jsonl", [ROWS["lima"]])
    parquet(two / "own.parquet", [ROWS["lima"]])
    with pytest.raises(ValueError, match=r"has .jsonl and .parquet files: name one file"):
        formats.open_source(two)
    (image_folder(tmp_path / "both") / "annotations").mkdir()
    (tmp_path / "both/annotations/captions.json").write_text("{}")
    with pytest.raises(ValueError, match="could be image_folder or coco"):
        formats.open_source(tmp_path / "both")


def test_a_file_of_its_own_beats_what_lies_beside_it(tmp_path):
    source = image_folder(tmp_path / "own")
    (source / "README.txt").write_text("about")
    json_lines(source / "more.jsonl", [ROWS["plain"]])
    assert recognise(source) == "image_folder"
    published = parquet(tmp_path / "hub/data/train.parquet", [ROWS["plain"]]).parent.parent
    (published / "dataset_infos.json").write_text("{}")
    (published / "README.md").write_text("about")
    (published / ".cache").mkdir()
    json_lines(published / ".cache/x.jsonl", [ROWS["lima"]])
    assert recognise(published) == "parquet"


def test_an_empty_file_before_the_others_hides_nothing(tmp_path):
    json_lines(tmp_path / "own/a.jsonl", [])
    source = json_lines(tmp_path / "own/b.jsonl", [ROWS["lima"]]).parent
    assert recognise(source) == "lima" and parts(source) == [("a",)]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00002.parquet", "train"),
        ("captions_val2017.json", "validation"),
        ("my-valid.jsonl", "validation"),
        ("test.jsonl", "test"),
        ("Train.jsonl", "train"),
        ("contest.jsonl", ""),
        ("training.jsonl", ""),
        ("train_and_test.jsonl", ""),
        ("data.jsonl", ""),
    ],
)
def test_a_files_name_says_its_split(tmp_path, name, split):
    assert split_of_file(tmp_path / name) == split


def test_a_directory_whose_files_are_splits_has_those(tmp_path):
    for name in ("train-0", "train-1", "validation"):
        json_lines(tmp_path / f"own/{name}.jsonl", [{"text": f"{name} {i}"} for i in range(30)])
    source = tmp_path / "own"
    assert len(parts(source, "train", ReadSettings())) == 60
    assert parts(source, "validation", ReadSettings()) == [(f"validation {i}",) for i in range(30)]
    with pytest.raises(ValueError, match="has no split 'test'; its files hold train, validation"):
        formats.open_source(source, "test")
    json_lines(source / "more.jsonl", [{"text": "more"}])
    with pytest.raises(ValueError, match="that of more.jsonl does not: rename it, or name one file"):
        formats.open_source(source)
    one = ReadSettings(held_out=0.3)
    by_hash = [len(parts(source / "train-0.jsonl", split, one)) for split in ("train", "test")]
    assert sum(by_hash) == 30 and min(by_hash) > 0


def test_what_is_no_data_is_told_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "own.csv").write_text("text\na\n")
    (tmp_path / "own.jsonl.gz").write_bytes(b"\x1f\x8b")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "bad.jsonl").write_text("{\n[\n")
    (tmp_path / "bad.json").write_text("[{]")
    (tmp_path / "bad.parquet").write_text("PAR1")
    for source, says in [
        ("none", "there is no file or directory .*none, nor a TFDS dataset"),
        ("empty", "is no data: expected a TFDS dataset .*; formats are tfds, jsonl, parquet, coco, lima"),
        ("own.csv", "own.csv is no table: expected a file .jsonl, .parquet or .json, decompressed"),
        ("own.jsonl.gz", "decompressed"),
        ("empty.jsonl", "empty.jsonl: there are no records"),
        ("bad.jsonl", r"none of the first 64 records can be read, the first \(bad.jsonl:1\) because of no JSON"),
        ("bad.json", "bad.json is no JSON"),
        ("bad.parquet", "is no Parquet file"),
    ]:
        with pytest.raises(ValueError, match=says) as raised:
            formats.read(tmp_path / source)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("format", "make", "says"),
    [
        ("text_folder", image_folder, r"has no \*.txt files"),
        ("image_folder", text_folder, "has no pictures"),
        ("coco", text_folder, r"has no captions\*.json"),
        ("tfds", text_folder, "should hold one TFDS dataset, found none"),
        ("jsonl", text_folder, "has no .jsonl or .json files"),
        ("parquet", text_folder, "has no .parquet files"),
        ("lima", text_folder, "has no .jsonl or .parquet or .json files"),
        ("parquet", lambda path: json_lines(path, [ROWS["plain"]]), "is no file of the format parquet"),
        (
            "text_folder",
            lambda path: json_lines(path, [ROWS["plain"]]),
            "is a file: the format text_folder is a directory",
        ),
    ],
)
def test_data_that_are_not_in_the_named_format_are_told(tmp_path, format, make, says):
    with pytest.raises(ValueError, match=says) as raised:
        formats.open_source(make(tmp_path / "own"), settings=ReadSettings(format=format))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("make", "option", "says"),
    [
        (text_folder, {"columns": Columns(text="a")}, "is text_folder data, to which --columns says nothing"),
        (text_folder, {"captions": "first"}, "--captions says nothing: it is for tfds, jsonl"),
        (image_folder, {"images": "elsewhere"}, "--images says nothing"),
        (image_folder, {"turns": "each"}, "--turns says nothing: it is for lima, llava"),
        (coco, {"wikihow": Wikihow(rating=0)}, "--wikihow says nothing"),
    ],
)
def test_an_option_that_says_nothing_is_refused(tmp_path, make, option, says):
    with pytest.raises(ValueError, match=says):
        formats.open_source(make(tmp_path / "own"), settings=ReadSettings(**option))


@pytest.mark.parametrize("wrong", [{"held_out": 1}, {"held_out": -0.1}, {"damaged": 1.1}, {"damaged": -1}])
def test_a_share_is_a_share(wrong):
    with pytest.raises(ValueError, match="is a share from 0 to"):
        ReadSettings(**wrong)


def test_nothing_held_out_is_everything(tmp_path):
    assert len(parts(json_lines(tmp_path / "a.jsonl", [{"text": str(i)} for i in range(99)]), settings=ALL)) == 99
