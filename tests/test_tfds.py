"""TFDS datasets: which features make a document, by their kinds or by the columns that are named, and what is unfit."""

import resource

import numpy as np
import pytest
import tensorflow_datasets
from handmade import parts, picture, prepared, read_set
from tensorflow_datasets import features as f

from jam_jax.data import formats
from jam_jax.data.documents import Document
from jam_jax.data.formats import tfds
from jam_jax.data.settings import Columns, ReadSettings

IMAGE = f.Image(shape=(None, None, 3))


@pytest.mark.parametrize(
    "features, example, document",
    [
        ({"body": f.Text()}, {"body": "plain"}, Document(("plain",))),
        ({"image": IMAGE}, {"image": picture(3)}, Document((picture(3),))),
        (
            {"image": IMAGE, "a_name": f.Text(), "caption": f.Text(), "id": f.Scalar(np.int64)},
            {"image": picture(3), "a_name": "x.png", "caption": "grey", "id": 4},
            Document(("grey", picture(3))),
        ),
        (
            {"image": f.Image(shape=(8, 8, 3), encoding_format="jpeg"), "label": f.ClassLabel(names=["cat", "dog"])},
            {"image": picture(3, "JPEG"), "label": "dog"},
            Document(("dog", picture(3, "JPEG"))),
        ),
        (
            {"image": IMAGE, "captions": f.Sequence(f.Text())},
            {"image": picture(3), "captions": ["first", "second"]},
            Document(("first", picture(3))),
        ),
        (
            {"image": IMAGE, "captions": f.Sequence({"id": f.Scalar(np.int64), "text": f.Text()})},
            {"image": picture(3), "captions": [{"id": 1, "text": "first"}, {"id": 2, "text": "second"}]},
            Document(("first", picture(3))),
        ),
        (
            {"image": IMAGE, "captions": f.Sequence(f.Text())},
            {"image": picture(3), "captions": []},
            Document((picture(3),)),
        ),
        (
            {"question": f.Text(), "answer": f.Text(), "caption": f.Text()},
            {"question": "why?", "answer": "because", "caption": "not this"},
            Document(("because",), "why?"),
        ),
        (
            {"question": f.Text(), "steps": f.Sequence({"text": f.Text(), "image": IMAGE}), "ending": f.Text()},
            {
                "question": "how?",
                "steps": [{"text": "so", "image": picture(3)}, {"text": "", "image": picture(4)}],
                "ending": "done",
            },
            Document(("so", picture(3), picture(4), "done"), "how?"),
        ),
        (
            {"pages": f.Sequence({"picture": IMAGE})},
            {"pages": [{"picture": picture(3)}, {"picture": picture(4)}]},
            Document((picture(3), picture(4))),
        ),
    ],
    ids=[
        "text",
        "image",
        "caption",
        "label",
        "captions",
        "captions in dicts",
        "no captions",
        "answer",
        "steps",
        "pages",
    ],
)
def test_a_users_own_tfds_dataset_is_mapped_by_the_kinds_of_its_features(tmp_path, features, example, document):
    source = prepared(tmp_path, features, [example])
    assert list(formats.read(source)) == [document]
    assert list(formats.read(source / "2.1.0", "validation")) == [document]


def test_parts_of_a_tfds_split_are_splits(tmp_path):
    source = prepared(tmp_path, {"text": f.Text()}, [{"text": f"text {i}"} for i in range(10)])
    first, rest = read_set(source, "train[:30%]"), read_set(source, "train[30%:]")
    assert len(first) == 3 and len(rest) == 7 and len(first | rest) == 10


def test_a_full_disk_ends_in_one_line_and_leaves_nothing(tmp_path):
    rng = np.random.default_rng(0)  # what does not compress
    noise = [{"text": rng.bytes(10_000).hex()} for _ in range(40)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # a write beyond it fails as one to a full disk
    try:
        with pytest.raises(OSError, match="cannot write .*noise") as error:
            tfds.write(tmp_path, "noise", {"text": "text"}, {"train": iter(noise)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


def test_a_written_dataset_reads_back(tmp_path):
    kinds = {"caption": "text", "picture": "image", "steps": {"text": "text", "picture": "image"}}
    example = {"caption": "é", "picture": picture(1), "steps": [{"text": "", "picture": picture(2)}]}
    tfds.write(tmp_path, "own", kinds, {"train": [example] * 3, "test": []})
    stored = {**example, "steps": {"text": [""], "picture": [picture(2)]}}
    assert list(tfds.examples(tmp_path / "own")) == [stored] * 3
    with pytest.raises(ValueError, match="the split 'test' of .* has no examples"):
        tfds.examples(tmp_path / "own", "test")
    loaded = tensorflow_datasets.builder("own", data_dir=tmp_path).as_data_source("train")
    assert loaded[0]["picture"].shape == (8, 8, 3)  # TFDS itself knows the dataset by its name and decodes it


def corrupt_features(source):
    next(source.rglob("features.json")).write_text("{")


def remove_records(source):
    next(source.rglob("*train.array_record*")).unlink()


def cut_records(source):
    path = next(source.rglob("*train.array_record*"))
    path.write_bytes(path.read_bytes()[:100])


def store_otherwise(source):
    path = next(source.rglob("dataset_info.json"))
    path.write_text(path.read_text().replace('"array_record"', '"tfrecord"'))


def add_version(source):
    (source / "3.0.0").mkdir()
    (source / "3.0.0/features.json").write_text("{}")


@pytest.mark.parametrize(
    "damage, split, says",
    [
        (corrupt_features, "train", "is no readable TFDS dataset"),
        (remove_records, "train", "cannot be read"),
        (cut_records, "train", "cannot be read"),
        (store_otherwise, "train", "is stored as tfrecord; prepare it with file_format='array_record'"),
        (add_version, "train", "found 2.1.0, 3.0.0; name the directory of one version"),
        (lambda source: None, "test", "has no split 'test'; it has train, validation"),
        (lambda source: None, "train[oops]", "Error parsing split"),
    ],
)
def test_a_damaged_or_unfit_tfds_dataset_is_told_in_one_line(tmp_path, damage, split, says):
    source = prepared(tmp_path, {"text": f.Text()}, [{"text": f"text {i}"} for i in range(10)])
    damage(source)
    with pytest.raises(ValueError, match=says) as raised:
        list(formats.read(source, split))
    assert "\n" not in str(raised.value)


def test_a_tfds_dataset_without_text_and_pictures_is_refused(tmp_path):
    source = prepared(tmp_path, {"number": f.Scalar(np.int64)}, [{"number": 1}])
    with pytest.raises(ValueError, match="neither a text nor an image feature; it has number"):
        formats.read(source)


def test_a_damaged_picture_of_a_tfds_dataset_is_told_with_its_place(tmp_path):
    examples = [{"text": "broken", "image": b"no picture"}]
    source = prepared(tmp_path, {"text": f.Text(), "image": IMAGE}, examples)
    with pytest.raises(ValueError, match=r"1 of 1 records are damaged, more than 1% .*; first record 0: 10 bytes"):
        list(formats.read(source))


NESTED = {
    "photo": IMAGE,
    "meta": {"by": f.Text(), "said": f.Sequence({"words": f.Text(), "n": f.Scalar(np.int64)})},
    "title": f.Text(),
    "tags": f.Tensor(shape=(), dtype=np.str_),
}


@pytest.mark.parametrize(
    ("columns", "captions", "found"),
    [
        (Columns(text="meta.by", picture="photo"), "each", [("me", picture(5))]),
        (Columns(text="meta.said.words", picture="photo"), "each", [("one", picture(5)), ("two", picture(5))]),
        (Columns(text="meta.said.words", picture="photo"), "first", [("one", picture(5))]),
        (Columns(text="meta.said.words"), "joined", [("one\ntwo",)]),
        (Columns(text="tags"), "each", [("grey",)]),
    ],
)
def test_the_features_that_make_a_document_may_be_named(tmp_path, columns, captions, found):
    said = [{"words": "one", "n": 1}, {"words": "two", "n": 2}]
    example = {"photo": picture(5), "meta": {"by": "me", "said": said}, "title": "not this", "tags": "grey"}
    source = prepared(tmp_path, NESTED, [example])
    assert parts(source, settings=ReadSettings(columns=columns, captions=captions)) == found


def test_a_question_may_have_any_name(tmp_path):
    source = prepared(tmp_path, {"q": f.Text(), "a": f.Text()}, [{"q": "why?", "a": "because"}])
    settings = ReadSettings(columns=Columns(question="q", answer="a"))
    assert list(formats.read(source, settings=settings)) == [Document(("because",), "why?")]
    with pytest.raises(ValueError, match="has no column 'answer' for --columns.answer; there are 'a', 'q'"):
        formats.open_source(source, settings=ReadSettings(columns=Columns(question="q", answer="answer")))


def test_white_space_and_an_empty_question_are_as_in_other_formats(tmp_path):
    examples = [{"question": question, "answer": " because\n"} for question in (" why? ", " ")]
    source = prepared(tmp_path, {"question": f.Text(), "answer": f.Text()}, examples)
    assert list(formats.read(source, settings=ReadSettings(damaged=0.5))) == [Document(("because",), "why?")]


def test_a_prepared_dataset_is_known_by_its_name(tmp_path, monkeypatch):
    prepared(tmp_path, {"text": f.Text()}, [{"text": "by name"}])
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for name in ("mine", "mine:2.1.0"):
        assert parts(name, settings=ReadSettings()) == [("by name",)]
        assert parts(name, settings=ReadSettings(format="tfds")) == [("by name",)]
    for name in ("mine:9.9.9", "other", "../mine"):
        with pytest.raises(ValueError, match="there is no file or directory .*, nor a TFDS dataset"):
            formats.read(name)
