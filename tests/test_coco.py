"""COCO captions: five to a picture, which stay together."""

import json

import pytest
from handmade import coco, parts, picture, read_set

from jam_jax.data import formats
from jam_jax.data.settings import ReadSettings


@pytest.mark.parametrize(
    ("captions", "count", "first"),
    [
        ("each", 30, ("0 by 0", picture(0))),
        ("first", 6, ("0 by 0", picture(0))),
        ("joined", 6, ("0 by 0\n0 by 6\n0 by 12\n0 by 18\n0 by 24", picture(0))),
    ],
)
def test_captions_are_documents_each_or_one_a_picture(tmp_path, captions, count, first):
    source = formats.open_source(coco(tmp_path / "own"), settings=ReadSettings(captions=captions))
    found = [d.parts for d in source.documents()]
    assert source.taken_for == "COCO captions of captions_train2017.json"
    assert len(found) == count == source.documents_expected and found[0] == first


def test_a_directory_has_the_splits_of_its_files(tmp_path):
    coco(coco(tmp_path / "own"), 4, split="val2017")
    assert len(parts(tmp_path / "own", "train")) == 30 and len(parts(tmp_path / "own", "validation")) == 20
    with pytest.raises(ValueError, match="has no split 'test'; its files hold train, validation"):
        formats.open_source(tmp_path / "own", "test")
    coco(tmp_path / "own", split="train2014")
    with pytest.raises(
        ValueError, match=r"several files of captions \(captions_train2014.json, captions_train2017.json\)"
    ):
        formats.open_source(tmp_path / "own")


def test_the_captions_of_a_picture_are_in_one_split(tmp_path):
    file = coco(tmp_path / "own", 60, 3) / "annotations/captions_train2017.json"
    chosen = ReadSettings(held_out=0.3)
    train, test = read_set(file, "train", chosen), read_set(file, "test", chosen)
    assert len(train) + len(test) == 180 and len(test) % 3 == 0
    assert test and not {p[1] for _, p in train} & {p[1] for _, p in test}
    assert len(parts(file)) == 180
    with pytest.raises(ValueError, match="the splits train and test, got 'validation'"):
        formats.open_source(file, "validation")


@pytest.mark.parametrize("place", ["images/train2017", "images", "."])
def test_pictures_are_found_where_people_keep_them(tmp_path, place):
    source = coco(tmp_path / "own")
    (source / "train2017").rename(tmp_path / "moved")
    target = source / place
    target.mkdir(parents=True, exist_ok=True)
    for path in (tmp_path / "moved").iterdir():
        path.rename(target / path.name)
    assert len(parts(source, settings=ReadSettings())) == 30


def test_pictures_may_be_elsewhere_if_it_is_said(tmp_path):
    source = coco(tmp_path / "own")
    (source / "train2017").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="the pictures of .* are not in .*: name --images"):
        formats.open_source(source)
    assert len(parts(source, settings=ReadSettings(images=str(tmp_path / "moved")))) == 30
    (source / "train2017").symlink_to(tmp_path / "moved")  # out of the dataset, and nobody said so
    with pytest.raises(ValueError, match="lies outside the folder .*--images"):
        parts(source, settings=ReadSettings())


@pytest.mark.parametrize(
    ("damage", "lost"),
    [
        (lambda v: v["images"][2].update(file_name="missing.png"), 5),
        (lambda v: v["images"][2].update(file_name="../../outside.png"), 5),
        (lambda v: v["images"][2].update(file_name=5), 5),
        (lambda v: v["images"][2].update(id=None), 5),
        (lambda v: v["images"].append(7), 0),
        (lambda v: v["annotations"].append(7), 0),
        (lambda v: v["annotations"].append({"image_id": 999, "caption": "of none"}), 0),
        (lambda v: v["annotations"][2].update(caption=5), 5),
        (lambda v: v["annotations"][2].update(caption=""), 1),
        (lambda v: v["images"].append({"id": 999, "file_name": "without a caption"}), 0),
    ],
)
def test_what_is_damaged_spoils_no_other_picture(tmp_path, damage, lost):
    (tmp_path / "outside.png").write_bytes(picture(1))
    source = coco(tmp_path / "own")
    file = source / "annotations/captions_train2017.json"
    values = json.loads(file.read_text())
    damage(values)
    file.write_text(json.dumps(values))
    assert len(parts(source, settings=ReadSettings(damaged=0.9))) == 30 - lost


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"images": [], "annotations": []}', '{"images": 1, "annotations": [{"caption": "a"}]}']
)
def test_a_file_without_captions_is_told(tmp_path, text):
    (tmp_path / "captions.json").write_text(text)
    with pytest.raises(ValueError, match="is no JSON|has no COCO captions") as raised:
        formats.open_source(tmp_path, settings=ReadSettings(format="coco"))
    assert "\n" not in str(raised.value)
