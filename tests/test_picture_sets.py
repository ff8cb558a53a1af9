"""Sets of pictures: the same pairs however the captions are written, and in one line whatever does not fit."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from jam_jax.data import world
from jam_jax.data.formats.pictures import png
from jam_jax.evaluate import samples
from jam_jax.evaluate.picture_sets import PictureSet, open_reference, open_set
from jam_jax.evaluate.samples import FEW, THREE, Sample

CAPTIONS = {"a.png": "a red, round thing", "b c.png": 'two "things"', "deep/d.png": "ein großes Ding"}


def picture(i: int) -> bytes:
    return png(np.full((4, 4, 3), i, np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures without captions."""
    (tmp_path / "pictures/deep").mkdir(parents=True)
    for i, name in enumerate(CAPTIONS):
        (tmp_path / "pictures" / name).write_bytes(picture(i))
    return tmp_path / "pictures"


def pairs(found: PictureSet) -> list[tuple[str, bytes]]:
    assert found.captioned
    return [(document.texts[0], document.pictures[0]) for document in found.source.documents()]


EXPECTED = [(caption, picture(i)) for i, caption in enumerate(CAPTIONS.values())]


def written(form: str) -> str:
    """The captions as a file, in another order than the pictures'."""
    lines = list(CAPTIONS.items())[::-1]
    if form == "jsonl":
        return "".join(json.dumps({"file_name": name, "text": text}) + "\n" for name, text in lines)
    if form == "csv":
        quoted = ['"{}","{}"'.format(*(part.replace('"', '""') for part in line)) for line in lines]
        return "image,caption\n" + "\n".join(quoted)
    return "".join(f"./{name}\t {text} \r\n" for name, text in lines) + "\n"


@pytest.mark.parametrize("form", ["jsonl", "csv", "txt"])
def test_captions_in_a_file_are_those_beside_the_pictures(form: str, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / f"captions.{form}"
    file.write_text(written(form), encoding="utf-8")
    assert pairs(open_set(folder, 0, captions=str(file))) == EXPECTED
    plain = open_set(folder, 0)
    assert not plain.captioned and [d.pictures[0] for d in plain.source.documents()] == [p for _, p in EXPECTED]
    if form != "txt":
        (folder / f"metadata.{form}").write_text(written(form).replace("image,", "file_name,"), encoding="utf-8")
    else:
        for name, text in CAPTIONS.items():
            (folder / name).with_suffix(".txt").write_text(text, encoding="utf-8")
    assert pairs(open_set(folder, 0)) == EXPECTED
    assert not open_set(folder, 0, captioned=False).captioned


def test_of_several_captions_the_first_counts(folder: Path) -> None:
    rows = [{"file_name": name, "text": [text, "another"]} for name, text in CAPTIONS.items()]
    rows.append({"file_name": "a.png", "text": "a third"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert pairs(open_set(folder, 0)) == EXPECTED
    assert open_reference(folder, "test", 0).count == 3


def test_what_was_drawn_has_its_prompts_and_marks(tmp_path: Path) -> None:
    drawn = [
        Sample("one", (picture(0),), right=True, kind=FEW, reference=picture(9)),
        Sample("none", (), right=False, kind=FEW),
        Sample("two", ("text", picture(1), picture(2)), right=False, kind=THREE),
    ]
    samples.save(drawn, tmp_path / "drawn", model="m")
    found = open_set(tmp_path / "drawn", 0)
    assert pairs(found) == [("one", picture(0)), ("two", picture(1)), ("two", picture(2))]
    assert found.undrawn == 1 and [samples.percent_right(found.drawn, k) for k in (FEW, THREE)] == [50, 0]
    assert open_reference(tmp_path / "drawn", "test", 0).count == 3
    with pytest.raises(ValueError, match="holds the prompts of its pictures in samples.json: leave --captions out"):
        open_set(tmp_path / "drawn", 0, captions="x.csv")
    samples.save(drawn[1:2], tmp_path / "none", model="m")
    with pytest.raises(ValueError, match="has no pictures: none came of its 1 prompts"):
        open_set(tmp_path / "none", 0)


def test_a_reference_is_a_whole_folder_or_a_split(folder: Path, tmp_path: Path) -> None:
    (folder / "a.txt").write_text("only one has a caption, which says nothing here")
    assert [d.pictures for d in open_reference(folder, "test", 0).documents()] == [(p,) for _, p in EXPECTED]
    counts = {"train": world.Counts(1, 1, 1), "test": world.Counts(1, 4, 1)}
    world.write(tmp_path / "world", 0, counts)
    of_split = {split: open_reference(tmp_path / "world/captions", split, 0).count for split in counts}
    assert of_split["test"] > of_split["train"] > 0
    with pytest.raises(ValueError, match="has no split 'validation'"):
        open_reference(tmp_path / "world/captions", "validation", 0)
    with pytest.raises(ValueError, match="no file or directory nowhere, nor a TFDS dataset"):
        open_reference("nowhere", "test", 0)


def test_shares_are_the_whole(folder: Path) -> None:
    source = open_set(folder, 0).source
    found = [d.pictures[0] for i in range(2) for d in source.documents(i, 2)]
    assert found == [p for _, p in EXPECTED]


def test_a_damaged_picture_is_named_and_skipped_up_to_a_share(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "b c.png").write_bytes(picture(1)[:40])
    tally: Counter[str] = Counter()
    assert len(list(open_set(folder, 0.4).source.documents(tally=tally))) == 2
    assert tally["damaged"] == 1 and "skipped b c.png: " in capsys.readouterr().err
    with pytest.raises(ValueError, match="at least 1 of 3 records are damaged.* first b c.png: "):
        list(open_set(folder, 0.3).source.documents())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "x.jsonl",
            written("jsonl").split("\n")[0],
            r"has 2 pictures \(the first 'a.png'\) without a capt",
        ),
        ("x.jsonl", written("jsonl") + '{"file_name": "e.png", "text": "e"}', r"captions of 1 picture \(the first 'e"),
        ("x.jsonl", written("jsonl") + "{", "x.jsonl:4: no JSON"),
        ("x.jsonl", '{"file_name": "a.png"}', "x.jsonl needs columns of the pictures' names and of captions"),
        ("x.jsonl", written("jsonl") + '{"text": "e"}', "x.jsonl:4: the line names no picture: it has no file_name"),
        ("x.jsonl", written("jsonl").replace("ein gro\\u00dfes Ding", " "), "1 picture .*deep/d.png.* without a capt"),
        ("x.csv", written("csv") + "\na,b,c", "x.csv:5: the row has more columns"),
        ("x.txt", written("txt") + "e.png", "x.txt:5: expected the name of a picture, a tab and its caption"),
        ("x.txt", "\n", "x.txt holds no captions"),
        ("x.json", "[]", "x.json is no file of captions: expected .jsonl, .csv, .txt"),
    ],
)
def test_captions_that_do_not_fit_are_one_line(
    name: str, text: str, message: str, folder: Path, tmp_path: Path
) -> None:
    file = folder.parent / name
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        open_set(folder, 0, captions=str(file))
    assert "\n" not in str(error.value)


def test_folders_that_hold_nothing_are_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty has no pictures"):
        open_set(tmp_path / "empty", 0)
    with pytest.raises(ValueError, match="there is no directory of pictures .*nowhere"):
        open_set(tmp_path / "nowhere", 0)
    with pytest.raises(ValueError, match="there is no file of captions .*nowhere.csv"):
        open_set(folder, 0, captions=str(tmp_path / "nowhere.csv"))
    (folder / "a.txt").write_text("words")
    with pytest.raises(ValueError, match=r"has 2 pictures \(the first 'b c.png'\) without a caption in NAME.txt"):
        open_set(folder, 0)
    (folder / "a.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="a.txt: the caption is no UTF-8"):
        open_set(folder, 0)
    (tmp_path / "x.txt").write_bytes(b"a.png\t\xff\n")
    with pytest.raises(ValueError, match="x.txt:1: the line is no UTF-8"):
        open_set(folder, 0, captions=str(tmp_path / "x.txt"))
