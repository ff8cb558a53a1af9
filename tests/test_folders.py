"""Folders of pictures and of texts: what becomes a document, and what is held out."""

import hashlib
import json

import pytest
from handmade import csv_folder, image_folder, parts, picture, read_set, sidecar_folder, text_folder

from jam_jax.data import formats
from jam_jax.data.settings import Columns, ReadSettings

FOLDERS = [image_folder, csv_folder, sidecar_folder]


@pytest.mark.parametrize("make", FOLDERS)
def test_an_image_folder_gives_captions_and_pictures(tmp_path, make):
    source = make(tmp_path / "own")
    whole = read_set(source) | read_set(source, "test")
    assert whole == {("", (f"grey {i}", picture(i))) for i in range(40)}


def test_metadata_are_read_in_their_order(tmp_path):
    for make in (image_folder, csv_folder):
        found = [d.parts[0] for d in formats.read(make(tmp_path / make.__name__))]
        assert found == sorted(found, key=lambda text: int(text.split()[1]))


def test_the_captions_of_one_picture_are_in_one_split(tmp_path):
    source = image_folder(tmp_path / "own", 40)
    lines = [json.dumps({"file_name": f"{i}.png", "text": f"grey {i}, again {j}"}) for j in range(5) for i in range(40)]
    (source / "metadata.jsonl").write_text("\n".join(lines))
    train, test = read_set(source), read_set(source, "test")
    shown = [{parts[1] for _, parts in found} for found in (train, test)]
    assert len(shown[1]) >= 1 and not shown[0] & shown[1] and len(train) + len(test) == 200


def test_a_byte_order_mark_is_no_damage(tmp_path):
    for make, name in [(image_folder, "metadata.jsonl"), (csv_folder, "metadata.csv")]:
        source = make(tmp_path / make.__name__)
        before = read_set(source) | read_set(source, "test")
        (source / name).write_bytes(b"\xef\xbb\xbf" + (source / name).read_bytes())
        assert read_set(source) | read_set(source, "test") == before
    text = text_folder(tmp_path / "text", 2)
    (text / "0.txt").write_bytes(b"\xef\xbb\xbfmarked")
    assert any(parts == ("marked",) for split in ("train", "test") for _, parts in read_set(text, split))


def test_a_picture_without_a_text_stands_alone(tmp_path):
    source = image_folder(tmp_path / "own", 4, [(i, json.dumps({"file_name": f"{i}.png"})) for i in range(4)])
    assert all(d.parts == d.pictures and len(d.parts) == 1 for d in formats.read(source))
    (source / "metadata.jsonl").unlink()
    assert formats.open_source(source).taken_for.endswith("4 pictures, of which 0 have a caption in NAME.txt")
    assert parts(source) == [(picture(i),) for i in range(4)]
    (source / "2.txt").write_text(" two \n")
    assert parts(source)[2] == ("two", picture(2))


def test_the_columns_of_metadata_may_be_named(tmp_path):
    line = {"path": "0.png", "en": "grey", "de": "grau", "file_name": "1.png"}
    source = image_folder(tmp_path / "own", 2, [(0, json.dumps(line)), (1, json.dumps(line | {"path": "1.png"}))])
    named = ReadSettings(columns=Columns(text="de", picture="path"), held_out=0)
    said = "an image folder, text from 'de', picture from 'path' in metadata.jsonl"
    assert formats.open_source(source, settings=named).taken_for == said
    assert parts(source, settings=named) == [("grau", picture(0)), ("grau", picture(1))]
    with pytest.raises(ValueError, match="metadata.jsonl has no column 'fr' for --columns.text; there are 'de', 'en'"):
        formats.open_source(source, settings=ReadSettings(columns=Columns(text="fr")))


def test_a_csv_row_or_file_that_is_none_is_told(tmp_path, capsys):
    source = csv_folder(tmp_path / "own", 3)
    table = 'file_name,text\n0.png,"a, ""b""\nc"\n1.png,\xff\n2.png,x,y\n'
    (source / "metadata.csv").write_bytes(table.encode("latin-1"))
    settings = ReadSettings(held_out=0, damaged=0.7)
    assert parts(source, settings=settings) == [('a, "b"\nc', picture(0))]
    told = capsys.readouterr().err
    assert "metadata.csv:4: the row is no UTF-8" in told and "metadata.csv:5: the row has more columns" in told
    (source / "metadata.csv").write_text('file_name,text\n0.png,"never closed')
    with pytest.raises(ValueError, match=r"metadata.csv:\d is no CSV") as raised:
        formats.open_source(source)
    assert "\n" not in str(raised.value)


def test_a_long_caption_is_kept(tmp_path):
    source = csv_folder(tmp_path / "own", 2)
    with (source / "metadata.csv").open("a") as file:
        file.write(f"1.png,{'x' * 200_000}\n")
    assert [len(caption) for caption, _ in parts(source)] == [6, 6, 200_000]


def test_a_text_folder_gives_one_document_a_file(tmp_path):
    source = text_folder(tmp_path / "own")
    whole = read_set(source) | read_set(source, "test")
    assert whole == {("", (f"text {i}\n\nsecond paragraph of {i}, naïve",)) for i in range(40)}


@pytest.mark.parametrize("make", [*FOLDERS, text_folder])
@pytest.mark.parametrize("count", [2, 5, 40, 100])
def test_a_folder_holds_out_every_twentieth_document_and_at_least_one(tmp_path, make, count):
    source = make(tmp_path / "own", count)
    train, test = read_set(source), read_set(source, "test")
    assert len(test) == max(1, count // 20) and len(train) + len(test) == count and not train & test
    assert read_set(source, "test") == test


def test_the_lowest_hashes_of_the_names_are_held_out(tmp_path):
    """Pinned: a folder that was divided once is divided so by every later version."""
    lowest = sorted((f"{i}.png" for i in range(40)), key=lambda name: hashlib.sha256(name.encode()).digest())[:2]
    for make in (image_folder, csv_folder):
        found = {text for _, (text, _) in read_set(make(tmp_path / make.__name__), "test")}
        assert found == {f"grey {name.removesuffix('.png')}" for name in lowest}
    texts = sorted(text_folder(tmp_path / "texts").rglob("*.txt"))
    names = [path.relative_to(tmp_path / "texts").as_posix() for path in texts]
    lowest = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[:2]
    found = {text for _, (text,) in read_set(tmp_path / "texts", "test")}
    assert found == {(tmp_path / "texts" / name).read_text().strip() for name in lowest}


def test_the_share_that_is_held_out_is_an_option(tmp_path):
    source = text_folder(tmp_path / "own", 10)
    assert [len(read_set(source, "test", ReadSettings(held_out=share))) for share in (0.01, 0.5, 0.99)] == [1, 5, 9]
    nothing = ReadSettings(held_out=0)
    assert len(read_set(source, "train", nothing)) == 10
    with pytest.raises(ValueError, match=r"has no split test: nothing is held out of it \(--held-out 0\)"):
        formats.read(source, "test", nothing)


def test_what_is_held_out_does_not_hang_on_the_order_of_the_lines(tmp_path):
    source = image_folder(tmp_path / "own", 100)
    before = read_set(source, "test")
    lines = (source / "metadata.jsonl").read_text().split("\n")
    (source / "metadata.jsonl").write_text("\n".join(reversed(lines)))
    assert read_set(source, "test") == before


@pytest.mark.parametrize("content", [b"", b" \n ", b"\xff\xfe\x00", b"a\0b"])
def test_a_text_file_without_text_is_damaged(tmp_path, content):
    source = text_folder(tmp_path / "own", 10)
    for path in source.rglob("*.txt"):
        path.write_bytes(content)
    with pytest.raises(ValueError, match="1 of 9 records are damaged"):
        list(formats.read(source))


def test_a_folder_that_is_too_small_or_another_split_is_told(tmp_path):
    with pytest.raises(ValueError, match="has the splits train and test, got 'validation'"):
        formats.read(text_folder(tmp_path / "own"), "validation")
    with pytest.raises(ValueError, match="too few for a train split"):
        formats.read(text_folder(tmp_path / "one", 1))
