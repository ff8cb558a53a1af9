"""A mapped archive's table, headers and tensors fit each other, or the file is refused before a byte of it is used."""

import shutil
import struct
import zipfile

import numpy as np
import pytest
import torch

from jam_jax.convert import pickles
from jam_jax.convert.readers import open_file

VALUES = {"a": torch.arange(40.0).reshape(5, 8), "b": torch.ones(3, dtype=torch.bfloat16), "c": torch.zeros(0)}


@pytest.fixture
def path(tmp_path):
    torch.save(VALUES, tmp_path / "x.pt")
    return tmp_path / "x.pt"


def record(path, ending):
    with zipfile.ZipFile(path) as archive:
        return next(info for info in archive.infolist() if info.filename.endswith(ending))


def change(path, at, new):
    whole = bytearray(path.read_bytes())
    whole[at : at + len(new)] = new
    path.write_bytes(whole)


def refused(path, message):
    with pytest.raises(ValueError, match=rf"x\.pt is damaged: {message}") as caught:
        pickles.load(path)
    assert "\n" not in str(caught.value)


def test_what_torch_writes_is_taken_and_its_tensors_are_mapped(path):
    weights = open_file(path)
    assert sorted(weights.names()) == ["a", "b", "c"]
    np.testing.assert_array_equal(weights.read("a"), VALUES["a"])
    assert weights.shape("c") == (0,)


def test_an_archive_whose_writer_left_out_the_sums_is_taken(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(VALUES, tmp_path / "x.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    np.testing.assert_array_equal(open_file(tmp_path / "x.pt").read("a"), VALUES["a"])


def test_tensors_that_share_their_bytes_and_views_of_a_part_are_taken(tmp_path):
    whole = torch.arange(12.0)
    torch.save({"whole": whole, "again": whole, "part": whole[3:7], "turned": whole.view(3, 4).T}, tmp_path / "x.pt")
    weights = open_file(tmp_path / "x.pt")
    np.testing.assert_array_equal(weights.read("part"), [3, 4, 5, 6])
    np.testing.assert_array_equal(weights.read("turned"), np.arange(12).reshape(3, 4).T)


def test_a_length_in_a_records_header_that_would_move_its_bytes_is_found_out(path):
    """The last field of the header: without a check the tensor would be read from elsewhere."""
    info = record(path, "data/0")
    extra = struct.unpack_from("<H", path.read_bytes(), info.header_offset + 28)[0]
    for wrong in (extra + 4, extra + 64, extra - 1, 0):
        change(path, info.header_offset + 28, struct.pack("<H", wrong))
        refused(path, "the record 'x/data/0' and the next do not lie end to end")


def test_a_name_in_a_records_header_that_is_another_is_found_out(path):
    info = record(path, "data/1")
    change(path, info.header_offset + 30, b"x/data/0")
    refused(path, "the table and the record 'x/data/1' contradict each other")


def test_a_description_of_the_tensors_that_changed_is_found_out(path):
    info = record(path, "data.pkl")
    at = path.read_bytes().index(b"\x05K\x08", info.header_offset)  # the shape (5, 8)
    change(path, at, b"\x04")
    refused(path, "what it says of its tensors has changed since it was written")


def repack(path, changes):
    """The archive with the contents of some records replaced, as a program other than torch would write it."""
    with zipfile.ZipFile(path) as old:
        contents = {info.filename: old.read(info) for info in old.infolist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in contents.items():
            new.writestr(name, changes.get(name.partition("/")[2], data))


def test_an_archive_that_another_program_packed_is_taken(path):
    repack(path, {})
    np.testing.assert_array_equal(open_file(path).read("a"), VALUES["a"])


@pytest.mark.parametrize("kept", [0, 4, 156])
def test_a_record_that_is_shorter_than_its_tensor_is_not_read_beyond_its_end(path, kept):
    repack(path, {"data/0": VALUES["a"].numpy().tobytes()[:kept]})
    refused(path, "what it says of its tensors does not fit the bytes that it holds")


def test_compressed_records_are_refused(path):
    with zipfile.ZipFile(path) as old:
        contents = {info.filename: old.read(info) for info in old.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in contents.items():
            new.writestr(name, data)
    refused(path, "the record 'x/data.pkl' is not stored as it is")


def test_two_records_of_one_name_are_refused(path):
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("x/data/0", b"\x00" * 160)
    refused(path, "two records have the same name")


def test_a_file_cut_anywhere_is_refused(path):
    whole = path.read_bytes()
    for keep in range(0, len(whole), 97):
        path.write_bytes(whole[:keep])
        with pytest.raises(ValueError, match=r"x\.pt is damaged") as caught:
            pickles.load(path)
        assert "\n" not in str(caught.value)


def test_a_file_with_a_hole_is_refused(path, tmp_path):
    """As an interrupted copy leaves it: the end is there, a part before it is not."""
    whole = path.read_bytes()
    for at in range(64, len(whole) - 64, 64):
        path.write_bytes(whole[:at] + whole[at + 64 :])
        with pytest.raises(ValueError, match=r"x\.pt is damaged"):
            pickles.load(path)
    shutil.rmtree(tmp_path)
