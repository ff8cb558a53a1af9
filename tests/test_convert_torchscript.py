"""A TorchScript archive gives its tensors and nothing else: no name in it is run, and damage ends in one line."""

import io
import os
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from jam_jax.convert import pickles, torchscript
from jam_jax.convert.torchscript import Archive


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2, 3)
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("turned", torch.arange(6.0).reshape(2, 3).half().t())
        self.register_buffer("part", torch.arange(10)[2:8:3])
        self.mask = torch.full((2,), -torch.inf)  # a plain attribute
        self.numbers, self.share, self.words = [1, 2], [0.5], {"a": 1}
        self.device = torch.device("cpu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


class Whole(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.Sequential(Block(), Block())
        self.scale = torch.nn.Parameter(torch.randn([]))
        self.coarse = torch.nn.Parameter(torch.randn(2, 2).bfloat16())
        self.register_buffer("none", torch.zeros(0, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x) * self.scale


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    path = tmp_path_factory.mktemp("torchscript") / "it.pt"
    with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated
        module = torch.jit.script(Whole())
        torch.jit.save(module, path)
    return path, module.state_dict()


def test_every_tensor_comes_as_torch_holds_it(saved: tuple) -> None:
    path, expected = saved
    found = Archive(path)
    assert {n for n in found.names() if not n.endswith(".mask")} == expected.keys()
    for name, tensor in expected.items():
        values = found.read(name)
        assert values.shape == found.shape(name) == tuple(tensor.shape)
        assert values.dtype == found.dtype(name) == pickles.dtype(tensor)
        np.testing.assert_array_equal(values, pickles.to_numpy(tensor), err_msg=name)
    assert found.read("blocks.1.mask").tolist() == [-np.inf, -np.inf]


def test_archives_are_told_from_other_files(saved: tuple, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "plain.pt")
    torch.save({"w": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torchscript.is_archive(saved[0])
    assert not any(torchscript.is_archive(tmp_path / n) for n in ("plain.pt", "old.pt", "nothing.pt"))


def rewritten(source: Path, target: Path, changes: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """A copy of an archive with other bytes for some records."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for info in old.infolist():
            name = info.filename.split("/", 1)[1]
            new.writestr(f"x/{name}", changes.get(name, old.read(info)))
    return target


def test_an_archive_that_was_packed_again_is_the_same(saved: tuple, tmp_path: Path) -> None:
    found = Archive(rewritten(saved[0], tmp_path / "x.pt", {}, zipfile.ZIP_DEFLATED))
    np.testing.assert_array_equal(found.read("blocks.0.part"), [2, 5])


def refused(path: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Archive(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


class Payload:
    """Unpickling this runs a command."""

    def __init__(self, function, *args) -> None:
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.system, os.mkdir, eval, exec])
def test_a_payload_is_named_and_does_not_run(saved: tuple, tmp_path: Path, function) -> None:
    mark = tmp_path / "mark"
    code = {os.system: f"touch {mark}", os.mkdir: str(mark)}.get(function, f"open({str(mark)!r}, 'w')")
    data = pickle.dumps({"a": Payload(function, code)}, protocol=2)
    path = rewritten(saved[0], tmp_path / "x.pt", {"data.pkl": data})
    refused(path, rf"holds (\w+\.)?{function.__name__}, which is neither a weight nor a module; nothing of it was run")
    assert not mark.exists()
    pickle.loads(data)  # the payload is real: it runs where pickles are trusted
    assert mark.exists()


def test_the_program_beside_the_tensors_is_not_looked_at(saved: tuple, tmp_path: Path) -> None:
    with zipfile.ZipFile(saved[0]) as archive:
        code = [n.split("/", 1)[1] for n in archive.namelist() if "/code/" in n]
    path = rewritten(saved[0], tmp_path / "x.pt", dict.fromkeys([*code, "constants.pkl"], b"\x00 raise"))
    assert Archive(path).names() == Archive(saved[0]).names()


def forged(**changes: object) -> bytes:
    """The pickle of a module whose one tensor, 4 numbers of record 0, says what `changes` says."""
    said = {"offset": 0, "shape": (2, 2), "strides": (2, 1), "record": "0", "kind": "Float"} | changes
    out = io.BytesIO()
    out.write(b"\x80\x02c__torch__\nM\n)\x81}X\x01\x00\x00\x00w")
    out.write(b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage")
    out.write(
        f"ctorch\n{said['kind']}Storage\n".encode() + pickle.dumps(said["record"], 2)[2:-1] + b"X\x00\x00\x00\x00"
    )
    out.write(b"K\x04tQ")
    for name in ("offset", "shape", "strides"):
        out.write(pickle.dumps(said[name], 2)[2:-1])
    out.write(b"\x89)tR")
    if "state" in said:  # set on the tensor when it has been made
        out.write(pickle.dumps(said["state"], 2)[2:-1] + b"b")
    out.write(b"sb.")
    return out.getvalue()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (3, 2)}, r"its record data/0 is shorter than the tensor \[3, 2\] in it"),
        ({"strides": (2, 3)}, "shorter than the tensor"),
        ({"offset": 1}, "shorter than the tensor"),
        ({"offset": -1}, "from -1"),
        ({"strides": (-2, 1), "offset": 2}, r"strides \(-2, 1\)"),
        ({"shape": (2,)}, r"a tensor of shape \(2,\) with strides \(2, 1\)"),
        ({"shape": (2.0, 2)}, r"shape \(2.0, 2\)"),
        ({"kind": "Double"}, "shorter than the tensor"),
        ({"kind": "Complex"}, "holds torch.ComplexStorage"),
        ({"record": "7"}, "is damaged or no TorchScript archive"),
        ({"record": 7}, "is damaged or no TorchScript archive"),
        ({"state": {"strides": (1 << 40, 1)}}, "shorter than the tensor"),
        ({"state": {"strides": (-(1 << 40), 1)}}, "with strides"),
        ({"state": {"strides": (-(1 << 40), 1), "_check": torch.device, "check": torch.device}}, "with strides"),
        ({"state": {"kind": "Quite"}}, "is damaged or no TorchScript archive"),
    ],
)
def test_a_tensor_never_reaches_outside_of_its_record(tmp_path: Path, changes: dict, message: str) -> None:
    def written(name: str, **changes: object) -> Path:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("x/data.pkl", forged(**changes))
            archive.writestr("x/data/0", np.arange(4, dtype=np.float32).tobytes())
        return tmp_path / name

    assert Archive(written("good.pt")).read("w").tolist() == [[0, 1], [2, 3]]
    assert Archive(written("good.pt", strides=(1, 1))).read("w").tolist() == [[0, 1], [1, 2]]
    refused(written("bad.pt", **changes), message)


def test_damaged_files_are_one_line(saved: tuple, tmp_path: Path) -> None:
    whole = saved[0].read_bytes()
    for content, message in (
        (whole[: len(whole) // 2], "is damaged or no TorchScript archive: File is not a zip file"),
        (b"", "is damaged or no TorchScript archive"),
        (whole.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v9"), "is damaged or no TorchScript archive: Bad CRC"),
    ):
        (tmp_path / "x.pt").write_bytes(content)
        refused(tmp_path / "x.pt", message)
    for data, message in (
        (b"", "is damaged"),
        (b"\x80\x02}.", "it holds no module"),
        (b"\x80\x02c__torch__\nM\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb.", "nested without end"),
    ):
        refused(rewritten(saved[0], tmp_path / "x.pt", {"data.pkl": data}), message)
    # A tensor's own bytes are looked at when it is read.
    path, values = tmp_path / "y.pt", Archive(saved[0]).read("blocks.0.linear.weight").tobytes()
    assert whole.count(values) == 1
    path.write_bytes(whole.replace(values, values[::-1]))
    with pytest.raises(ValueError, match=r"y.pt: blocks.0.linear.weight cannot be read: Bad CRC"):
        Archive(path).read("blocks.0.linear.weight")
