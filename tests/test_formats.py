"""The kinds of data a user brings: what becomes a document, what is held out, and what happens to damaged records."""

import io
import json
import resource

import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image
from tensorflow_datasets import features as f

from jam_jax.data import formats
from jam_jax.data.documents import Document
from jam_jax.data.formats import tfds


def picture(value, kind="PNG", side=8):
    file = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(file, kind)
    return file.getvalue()


def image_folder(directory, count=40, damage=()):
    """`count` pictures with captions; damage: (number, what stands in its line or its file)."""
    directory.mkdir()
    lines = []
    for i in range(count):
        (directory / f"{i}.png").write_bytes(picture(i))
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"grey {i}"}))
    for i, line in damage:
        lines[i] = line
    (directory / "metadata.jsonl").write_text("\n".join(lines) + "\n\n")
    return directory


def text_folder(directory, count=40):
    (directory / "below").mkdir(parents=True)
    for i in range(count):
        folder = directory / "below" if i % 2 else directory
        (folder / f"{i}.txt").write_text(f"text {i}\n\nsecond paragraph of {i}, naïve\n")
    return directory


def prepared(directory, features, examples):
    """A dataset as a user has it: prepared by TFDS itself, from a builder of the user's own, and shuffled by it."""

    class Mine(tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tensorflow_datasets.core.Version("2.1.0")

        def _info(self):
            return self.dataset_info_from_configs(features=f.FeaturesDict(features))

        def _split_generators(self, download_manager):
            return {"train": self._generate_examples(examples), "validation": self._generate_examples(examples[:1])}

        def _generate_examples(self, chosen):
            yield from enumerate(chosen)

    Mine.name = "mine"
    Mine.pkg_dir_path = directory
    builder = Mine(data_dir=directory, file_format="array_record")
    builder.download_and_prepare()
    return directory / "mine"


def read_set(source, split="train"):
    return {(d.question, d.parts) for d in formats.read(source, split)}


# Folders


def test_an_image_folder_gives_captions_and_pictures(tmp_path):
    source = image_folder(tmp_path / "own")
    whole = read_set(source) | read_set(source, "test")
    assert whole == {("", (f"grey {i}", picture(i))) for i in range(40)}
    assert [d.parts[0] for d in formats.read(source)] == sorted(
        (d.parts[0] for d in formats.read(str(source))), key=lambda text: int(text.split()[1])
    )


def test_the_captions_of_one_picture_are_in_one_split(tmp_path):
    source = image_folder(tmp_path / "own", 40)
    lines = [json.dumps({"file_name": f"{i}.png", "text": f"grey {i}, again {j}"}) for j in range(5) for i in range(40)]
    (source / "metadata.jsonl").write_text("\n".join(lines))
    train, test = read_set(source), read_set(source, "test")
    shown = [{parts[1] for _, parts in found} for found in (train, test)]
    assert len(shown[1]) >= 1 and not shown[0] & shown[1] and len(train) + len(test) == 200


def test_a_byte_order_mark_is_no_damage(tmp_path):
    source = image_folder(tmp_path / "own")
    before = read_set(source) | read_set(source, "test")
    metadata = source / "metadata.jsonl"
    metadata.write_bytes(b"\xef\xbb\xbf" + metadata.read_bytes())
    assert read_set(source) | read_set(source, "test") == before
    text = text_folder(tmp_path / "text", 2)
    (text / "0.txt").write_bytes(b"\xef\xbb\xbfmarked")
    assert any(parts == ("marked",) for split in ("train", "test") for _, parts in read_set(text, split))


def test_a_picture_without_a_text_stands_alone(tmp_path):
    source = image_folder(tmp_path / "own", 4, [(i, json.dumps({"file_name": f"{i}.png"})) for i in range(4)])
    assert all(d.parts == d.pictures and len(d.parts) == 1 for d in formats.read(source))


def test_a_text_folder_gives_one_document_a_file(tmp_path):
    source = text_folder(tmp_path / "own")
    whole = read_set(source) | read_set(source, "test")
    assert whole == {("", (f"text {i}\n\nsecond paragraph of {i}, naïve",)) for i in range(40)}


@pytest.mark.parametrize("make", [image_folder, text_folder])
@pytest.mark.parametrize("count", [2, 5, 40, 100])
def test_a_folder_holds_out_every_twentieth_document_and_at_least_one(tmp_path, make, count):
    source = make(tmp_path / "own", count)
    train, test = read_set(source), read_set(source, "test")
    assert len(test) == max(1, count // 20) and len(train) + len(test) == count and not train & test
    assert read_set(source, "test") == test


def test_what_is_held_out_does_not_hang_on_the_order_of_the_lines(tmp_path):
    source = image_folder(tmp_path / "own", 100)
    before = read_set(source, "test")
    lines = (source / "metadata.jsonl").read_text().split("\n")
    (source / "metadata.jsonl").write_text("\n".join(reversed(lines)))
    assert read_set(source, "test") == before


DAMAGE = [
    (7, '{"file_name": "7.png", "te'),  # cut short
    (7, '["7.png", "grey 7"]'),
    (7, '{"file_name": "none.png", "text": "missing"}'),
    (7, '{"file_name": "metadata.jsonl", "text": "no picture"}'),
    (7, '{"file_name": "../outside.png", "text": "outside"}'),
]


@pytest.mark.parametrize("damage", DAMAGE, ids=[line for _, line in DAMAGE])
def test_one_damaged_record_in_two_hundred_is_skipped_and_told(tmp_path, capsys, damage):
    (tmp_path / "outside.png").write_bytes(picture(1))
    source = image_folder(tmp_path / "own", 210, [damage])
    whole = list(formats.read(source)) + list(formats.read(source, "test"))
    assert len(whole) == 209 and "grey 7" not in {d.parts[0] for d in whole}
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "skipped 1 of" in told and "metadata.jsonl line 8" in told


def test_more_than_one_damaged_record_in_a_hundred_stops_the_reading(tmp_path):
    source = image_folder(tmp_path / "own", 100)
    for i in range(10, 20):
        (source / f"{i}.png").write_bytes(picture(i)[:40])
    with pytest.raises(
        ValueError, match=r"1 of 95 .* damaged, more than 1%; first metadata.jsonl line 1\d: "
    ) as raised:
        list(formats.read(source))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b" \n ", b"\xff\xfe\x00", b"a\0b"])
def test_a_text_file_without_text_is_damaged(tmp_path, content):
    source = text_folder(tmp_path / "own", 10)
    for path in source.rglob("*.txt"):
        path.write_bytes(content)
    with pytest.raises(ValueError, match="1 of 9 records are damaged"):
        list(formats.read(source))


def test_what_is_no_data_is_told_in_one_line(tmp_path):
    for source, says in [
        (tmp_path / "none", "there is no directory"),
        (tmp_path, "is no data: expected a TFDS dataset"),
    ]:
        with pytest.raises(ValueError, match=says) as raised:
            formats.read(source)
        assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="the splits train and test, got 'validation'"):
        formats.read(text_folder(tmp_path / "own"), "validation")
    with pytest.raises(ValueError, match="too few for a train split"):
        formats.read(text_folder(tmp_path / "one", 1))


# TFDS


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
    with pytest.raises(ValueError, match="1 of 1 records are damaged, more than 1%; first record 0: 10 bytes"):
        list(formats.read(source))


# Documents


@pytest.mark.parametrize("parts", [(), ("",), (b"",), (3,)])
def test_a_document_is_made_of_texts_and_pictures(parts):
    with pytest.raises(ValueError, match=r"a document needs|a part of a document"):
        Document(parts)


def test_a_document_knows_its_texts_and_pictures():
    document = Document(("a", b"1", b"2", "b"), "why?")
    assert document.texts == ("a", "b") and document.pictures == (b"1", b"2")
