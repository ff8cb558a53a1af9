"""Tiny checkpoints in every layout, and what a seeded generator damages in them."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import torch
from parents import meta
from safetensors.torch import load_file, save_file
from tiny import leaves

from jam_jax.config import DecoderConfig
from jam_jax.convert import families, rules, writers
from jam_jax.convert.families import metaseq
from jam_jax.models import model

OPT = DecoderConfig(11, 2, 8, 2, 4, 12, 16, norm="layernorm", bias="all")
LLAMA = DecoderConfig(11, 2, 8, 2, 4, 12, 16, kv_heads=1, norm="rmsnorm", positions="rope", ffn="silu_gated")
GOLDEN = Path(__file__).parent / "golden" / "checkpoints"


def params_of(config, seed=0):
    rng = np.random.default_rng(seed)
    return {k: _random(v, rng) for k, v in model.shapes(config).items()}


def _random(shape, rng):
    if isinstance(shape, dict):
        return {k: _random(v, rng) for k, v in shape.items()}
    return rng.normal(size=shape.shape).astype(np.float32)


def build(folder):
    """The whole checkpoints, one directory for each layout."""
    llama = rules.Exported(families.writer("llama").table(LLAMA), leaves(params_of(LLAMA)))
    settings = families.writer("llama").write_config(LLAMA, None)
    writers.write_hugging_face(folder / "safetensors", settings, llama)
    writers.write_hugging_face(folder / "safetensors_shards", settings, llama, shard_bytes=2000)
    state = load_file(folder / "safetensors" / "model.safetensors")
    names = list(state)
    shards = {"pytorch_model-00001-of-00002.bin": names[:9], "pytorch_model-00002-of-00002.bin": names[9:]}
    for layout, files in (("bin", {"pytorch_model.bin": names}), ("bin_shards", shards), ("legacy", shards)):
        (folder / layout).mkdir()
        (folder / layout / "config.json").write_text(json.dumps(settings))
        for file, held in files.items():
            put({name: state[name] for name in held}, folder / layout / file, legacy=layout == "legacy")
        if len(files) > 1:
            index = {"weight_map": {name: file for file, held in files.items() for name in held}}
            (folder / layout / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    opt = rules.Exported(table := metaseq.table(OPT), leaves(params_of(OPT)))
    writers.write_metaseq(folder / "metaseq", metaseq.write_settings(OPT), opt, table.copies)
    shutil.copytree(GOLDEN / "a_mp2_fsdp3_fp16", folder / "metaseq_pieces")
    meta(folder / "meta", parts=2)


# Of 20 cases so many are of each.
LAYOUTS = ["safetensors"] * 4 + ["safetensors_shards"] * 4 + ["bin"] * 3 + ["bin_shards"] * 2 + ["legacy"] * 2
LAYOUTS += ["metaseq"] * 2 + ["metaseq_pieces"] + ["meta"] * 2


def put(tensors, path, legacy=False):
    if path.suffix == ".safetensors":
        save_file({k: v.contiguous() for k, v in tensors.items()}, path, {"format": "pt"})
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=not legacy)


def held(path):
    """What a whole file holds, as the library that wrote it says, and the dict of tensors in it."""
    contents = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=False)
    return contents, contents["model"] if isinstance(contents.get("model"), dict) else contents


# Mutations: (random generator, directory) → a few words on what was done, and how many bytes of values it may have
# changed, if that is known. Bytes first, then files, then contents.


def pick(rng, directory, *endings):
    files = sorted(p for p in directory.iterdir() if not endings or p.suffix in endings)
    return files[rng.integers(len(files))] if files else None


def edit(path, change):
    data = bytearray(path.read_bytes())
    path.write_bytes(change(data))


def truncated(rng, directory):
    path = pick(rng, directory)
    keep = int(rng.integers(path.stat().st_size))
    edit(path, lambda data: data[:keep])
    return f"{path.name} cut to {keep}", 0


def flipped(rng, directory):
    path = pick(rng, directory)
    # Half of the flips near the ends, where the headers and tables are.
    size = path.stat().st_size
    at = int(rng.choice([rng.integers(size), rng.integers(min(size, 800)), size - 1 - rng.integers(min(size, 2500))]))
    bit = 1 << int(rng.integers(8))

    def change(data):
        data[at] ^= bit
        return data

    edit(path, change)
    return f"{path.name} bit {bit} of byte {at} of {size}", 1


def overwritten(rng, directory):
    path = pick(rng, directory)
    size = path.stat().st_size
    at, length = int(rng.integers(size)), int(rng.integers(1, 200))
    new = bytes(length) if rng.integers(2) else rng.bytes(length)

    def change(data):
        data[at : at + length] = new[: max(size - at, 0)]
        return data

    edit(path, change)
    return f"{path.name} {length} bytes at {at} of {size}", length


def shifted(rng, directory):
    path = pick(rng, directory)
    at, length = int(rng.integers(path.stat().st_size)), int(rng.integers(1, 70))
    cut = bool(rng.integers(2))
    edit(path, lambda data: data[:at] + (data[at + length :] if cut else rng.bytes(length) + data[at:]))
    return f"{path.name} {length} bytes {'out' if cut else 'in'} at {at}", None


def huge_length(rng, directory):
    """A header that says that it, or a tensor, is of any size."""
    path = pick(rng, directory, ".safetensors") or pick(rng, directory, ".bin", ".pt", ".pth")
    length = int(rng.choice([2**63 - 1, 2**62, 2**40, 2**32, 2**31, 10**8, int(rng.integers(2**62))]))
    at = 0 if path.suffix == ".safetensors" else int(rng.integers(path.stat().st_size - 8))

    def change(data):
        data[at : at + 8] = length.to_bytes(8, "little")
        return data

    edit(path, change)
    return f"{path.name} {length} at {at}", 8


def replaced(rng, directory):
    path = pick(rng, directory)
    how = ["gone", "empty", "a directory", "a link to nothing", "a pipe", "a link to itself", "zeros"][rng.integers(7)]
    size = path.stat().st_size
    path.unlink()
    if how == "empty":
        path.touch()
    elif how == "a directory":
        path.mkdir()
    elif how == "a link to nothing":
        path.symlink_to(directory / "nothing")
    elif how == "a link to itself":
        path.symlink_to(path)
    elif how == "a pipe":
        os.mkfifo(path)
    elif how == "zeros":
        path.write_bytes(bytes(size))
    return f"{path.name} {how}", None


def swapped(rng, directory):
    paths = [pick(rng, directory) for _ in range(2)]
    first, second = (p.read_bytes() for p in paths)
    paths[0].write_bytes(second)
    paths[1].write_bytes(first)
    return f"{paths[0].name} and {paths[1].name} exchanged", None


def other_tensors(rng, directory):
    """A file whose tensors are of another shape, type or name, or hold other values."""
    path = pick(rng, directory, ".safetensors", ".bin", ".pt", ".pth")
    contents, tensors = held(path)
    name = sorted(k for k, v in tensors.items() if torch.is_tensor(v))[rng.integers(len(tensors))]
    value = tensors[name]
    how = int(rng.integers(16))
    if how < 4:
        tensors[name] = [value[:-1], value[None], value.flatten(), value.new_zeros(0)][how]
    elif how < 10:
        kinds = [torch.float64, torch.int64, torch.bool, torch.complex64, torch.float16, torch.float8_e4m3fn]
        tensors[name] = value.to(kinds[how - 4])
    elif how == 10:
        del tensors[name]
    elif how == 11:
        tensors["model.extra\n.weight" if rng.integers(2) else "model.extra.weight"] = value.clone()
    elif how == 12:
        tensors[name.upper()] = tensors.pop(name)
    elif value.numel():
        new = value.clone()
        new.view(-1)[int(rng.integers(value.numel()))] = [float("nan"), float("inf"), 12345.0][how - 13]
        tensors[name] = new
    put(contents, path, legacy=directory.name == "legacy")
    return f"{path.name} {name} {how}", 4 if how > 12 else value.nbytes


def lying_index(rng, directory):
    path = next(iter(directory.glob("*.index.json")), None)
    if path is None:
        return other_tensors(rng, directory)
    index = json.loads(path.read_text())
    where = index["weight_map"]
    names = sorted(where)
    name = names[rng.integers(len(names))]
    lies = [where[names[0]], where[names[-1]], "../x", "/etc/passwd", "config.json", "", 3, None, ["x"], "a\nb", "\0"]
    how = int(rng.integers(len(lies) + 4))
    if how < len(lies):
        where[name] = lies[how]
    elif how == len(lies):
        del where[name]
    elif how == len(lies) + 1:
        where["model.surprise.weight"] = where[name]
    else:
        index["weight_map"] = [[], {}][how - len(lies) - 2]
    path.write_text(json.dumps(index))
    return f"{path.name} {name} {how}", 0


ODD = [None, True, False, 0, -1, 3, 10**9, 2**31, 10**30, 0.5, -1e-5, 1e300, "x", "", "1", [], [3], {}, {"a": [1]}]
ODD += [float("nan"), float("inf"), "silu\nx", "y" * 10**5, [[[]]] * 9]


def other_settings(rng, directory):
    path = next((directory / name for name in ("config.json", "params.json") if (directory / name).is_file()), None)
    if path is None:
        return other_metaseq_settings(rng, directory)
    values = json.loads(path.read_text())
    inner = values.get("model", values)
    name = sorted(inner)[rng.integers(len(inner))]
    how = int(rng.integers(12))
    if how == 0:
        del inner[name]
    elif how == 1:
        inner[["rope_scaling", "sliding_window", "a\nb", "quantization_config", "rope_parameters"][rng.integers(5)]] = (
            ODD[rng.integers(len(ODD))]
        )
    else:
        inner[name] = ODD[rng.integers(len(ODD))]
    text = json.dumps(values)
    if how == 2:
        text = ["[" * 10**5, "9" * 5000, '{"a": ' * 2000, "null", '"x"', "[]", "\xff"][rng.integers(7)]
    path.write_text(text, encoding="latin-1")
    return f"{path.name} {name} {how}", 0


def other_metaseq_settings(rng, directory):
    path = pick(rng, directory)
    contents, _ = held(path)
    settings = vars(contents["cfg"]["model"])
    name = sorted(settings)[rng.integers(len(settings))]
    nest = {"a": 1}
    for _ in range(30):
        nest = {"a": [nest] * 9}
    odd = [*ODD, nest, torch.ones(2), {("a",): 1}]
    where = [settings, contents["cfg"], contents][rng.integers(3)]
    key = name if where is settings else sorted(where)[rng.integers(len(where))]
    if key != "model":  # the weights themselves
        where[key] = odd[rng.integers(len(odd))]
    put(contents, path)
    return f"{path.name} {key}", 0


class Payload:
    """Whoever unpickles this makes a directory."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def payload(rng, directory):
    path = pick(rng, directory, ".bin", ".pt", ".pth") or pick(rng, directory, ".safetensors")
    mark = Payload(directory.parent / "mark")
    how = int(rng.integers(4))
    if how == 0 or path.suffix == ".safetensors":
        path.write_bytes(pickle.dumps(mark))
    else:
        contents, tensors = held(path)
        (contents if how == 1 else tensors)["payload"] = [mark, {"a": [mark]}, (mark,)][how - 1]
        put(contents, path, legacy=how == 3)
    return f"{path.name} {how}", 0


MUTATIONS = [truncated, *[flipped] * 5, overwritten, shifted, huge_length, replaced, swapped]
MUTATIONS += [*[other_tensors] * 4, lying_index, *[other_settings] * 4, payload]


def mutate(case, seed, folder):
    """Damage a copy of one of the whole checkpoints: its layout, the copy, what was done, bytes of values changed."""
    rng = np.random.default_rng([seed, case])
    layout, mutation = LAYOUTS[rng.integers(len(LAYOUTS))], MUTATIONS[rng.integers(len(MUTATIONS))]
    directory = folder / layout
    shutil.copytree(folder / "whole" / layout, directory)
    what, most = mutation(rng, directory)
    return layout, directory, f"{layout}: {mutation.__name__}: {what}", most
