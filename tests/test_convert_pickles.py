"""A pickle can only hold data: a payload is named and never run, metaseq's settings come out as plain values."""

import argparse
import os
import pickle
import sys
import types
from pathlib import Path

import pytest
import torch

from jam_jax.convert import pickles


class Payload:
    """Unpickling this runs a command."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def write_payload(path, payload, zipped):
    torch.save({"model": {"w": torch.ones(2)}, "cfg": payload}, path, _use_new_zipfile_serialization=zipped)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("function", [os.system, os.mkdir, eval, exec])
def test_a_payload_is_named_and_does_not_run(tmp_path, function, zipped):
    mark = tmp_path / "mark"
    code = {os.system: f"touch {mark}", os.mkdir: str(mark)}.get(function, f"open({str(mark)!r}, 'w')")
    path = tmp_path / "x.pt"
    write_payload(path, Payload(function, code), zipped)
    with pytest.raises(ValueError, match=rf"holds (\w+\.)?{function.__name__}, .* nothing of it was run"):
        pickles.load(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the payload is real: it runs where pickles are trusted
    assert mark.exists()


def test_a_payload_hidden_in_an_allowed_container_does_not_run(tmp_path):
    mark = tmp_path / "mark"
    path = tmp_path / "x.pt"
    write_payload(path, argparse.Namespace(inner=[{"a": Payload(os.mkdir, str(mark))}]), True)
    with pytest.raises(ValueError, match="nothing of it was run"):
        pickles.load(path)
    assert not mark.exists()


def test_a_bare_pickle_of_another_program_does_not_run(tmp_path):
    mark = tmp_path / "mark"
    (tmp_path / "x.pt").write_bytes(pickle.dumps(Payload(os.mkdir, str(mark))))
    with pytest.raises(ValueError, match=str(tmp_path)):
        pickles.load(tmp_path / "x.pt")
    assert not mark.exists()


@pytest.fixture
def foreign(monkeypatch):
    """Modules as they are where metaseq runs, for writing; gone again for reading."""

    def build(module, name):
        for depth in range(1, module.count(".") + 2):
            part = ".".join(module.split(".")[:depth])
            if part not in sys.modules:
                monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
        cls = type(name, (), {"__module__": module, "__setstate__": lambda self, state: pytest.fail("was run")})
        monkeypatch.setattr(sys.modules[module], name, cls, raising=False)
        return cls

    return build


def test_omegaconf_and_metaseq_classes_come_in_as_inert_data(tmp_path, foreign, monkeypatch):
    container, node = foreign("omegaconf.dictconfig", "DictConfig"), foreign("omegaconf.nodes", "AnyNode")
    locking = foreign("metaseq.data.document_to_sequence", "LockingArray")
    locking.__getstate__ = lambda self: (b"\x01\x02", 2)
    cfg, leaf = container(), node()
    leaf.__dict__["_val"] = argparse.Namespace(decoder_layers=4, betas=(0.9, 0.95))
    cfg.__dict__.update(_content={"model": leaf, "none": None}, _parent=None)
    torch.save({"cfg": cfg, "extra_state": locking(), "model": {"w": torch.ones(2)}}, tmp_path / "x.pt")
    monkeypatch.undo()
    contents = pickles.load(tmp_path / "x.pt")
    assert isinstance(contents["extra_state"], pickles.Inert)
    want = {"model": {"decoder_layers": 4, "betas": [0.9, 0.95]}, "none": None}
    assert pickles.plain(contents["cfg"]) == want


def test_an_unknown_class_of_a_known_package_is_refused(tmp_path, foreign, monkeypatch):
    torch.save({"x": foreign("omegaconf.surprise", "Runner")()}, tmp_path / "x.pt")
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"omegaconf\.surprise\.Runner"):
        pickles.load(tmp_path / "x.pt")


def test_settings_that_hold_themselves_end_in_one_line():
    loop = argparse.Namespace()
    loop.inner = loop
    with pytest.raises(ValueError, match="nested without end"):
        pickles.plain(loop)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux what is mapped")
def test_tensors_are_mapped_not_read(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"w": torch.arange(1000, dtype=torch.float32)}, path)
    tensor = pickles.load(path)["w"]
    assert str(path) in Path("/proc/self/maps").read_text()
    assert pickles.to_numpy(tensor)[-1] == 999


def test_settings_that_hold_one_thing_many_times_over_are_opened_once():
    settings = {"x": 1}
    for _ in range(20):  # 10 ** 20 of them, were each opened
        settings = {"inner": [settings] * 10}
    assert len(pickles.plain(settings)["inner"]) == 10
    assert pickles.plain({("a",): 1, 2: 3, None: 4}) == {"2": 3}


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] can't allocate memory: you tried\nto")])
def test_a_file_that_asks_for_more_memory_than_there_is_says_so(tmp_path, monkeypatch, error):
    torch.save({"w": torch.ones(2)}, tmp_path / "x.bin", _use_new_zipfile_serialization=False)
    monkeypatch.setattr(torch, "load", lambda *_, **__: (_ for _ in ()).throw(error))
    with pytest.raises(ValueError, match=r"x\.bin asks for more memory than there is: .*again elsewhere$"):
        pickles.load(tmp_path / "x.bin")
