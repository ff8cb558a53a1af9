"""Tiny random models of `transformers` and of Meta: what they compute, and the way in and out that tests share."""

import json

import jax
import numpy as np
import torch

from jam_jax.convert import families, rules, writers
from jam_jax.models import model
from jam_jax.trees import paths
from tests.tiny import leaves, whole

TOKENS = np.random.default_rng(0).integers(3, 13, (2, 10))


def randomised(theirs, std=0.3):
    """The model with all of its weights drawn: biases and norms too, which start as 0 and 1."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            p.normal_(std=std).add_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return theirs.eval()


def gathered(source, family="auto"):
    """What an import makes of `source`: config and parameters."""
    parent = families.read(source, family)
    return parent.config, whole(rules.leaves(parent.table, parent.weights, model.shapes(parent.config), str(source)))


def exported(family, config, params, target, **changes):
    """Write a model as another system's; `changes` are of its config.json."""
    layout = families.writer(family)
    weights = rules.Exported(layout.table(config), leaves(params))
    writers.write_hugging_face(target, layout.write_config(config, None) | changes, weights)


def edited(directory, changes):
    """Change attributes of a config.json; `...` removes one."""
    path = directory / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))
    return directory


def our_logits(config, params):
    with jax.default_matmul_precision("highest"):
        return jax.jit(model.forward, static_argnums=0)(config, params, TOKENS)[0]


def their_logits(theirs):
    with torch.no_grad():
        return theirs(torch.tensor(TOKENS)).logits.numpy()


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)


def same_bits(a, b):
    a, b = paths(a), paths(b)
    assert a.keys() == b.keys()
    for path, value in a.items():
        np.testing.assert_array_equal(value, b[path], err_msg=path)


PARAMS = {"dim": 24, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 14, "ffn_dim_multiplier": 1.0}
PARAMS |= {"multiple_of": 10, "norm_eps": 1e-5, "qk_normalization": True, "swin_norm": False, "rope_theta": 10000.0}
FFN = 70  # 8/3 of 24, up to the next multiple of 10


def meta(directory, parts=1, **changes):
    """A random checkpoint as Meta's loader reads it, in so many parts; the head norms come back as [parts, H]."""
    rng = torch.Generator().manual_seed(0)
    shapes = {"tok_embeddings": (14, 24), "norm": (24,), "output": (14, 24)}
    for i in range(2):
        block = {"wq": (24, 24), "wk": (12, 24), "wv": (12, 24), "wo": (24, 24)}
        shapes |= {f"layers.{i}.attention.{k}": v for k, v in block.items()}
        shapes |= {f"layers.{i}.attention.{x}_normalization": (parts, 6) for x in "qk"}
        shapes |= {f"layers.{i}.feed_forward.w{n}": (24, FFN) if n == 2 else (FFN, 24) for n in (1, 2, 3)}
        shapes |= {f"layers.{i}.{x}_norm": (24,) for x in ("attention", "ffn")}
    weights = {f"{k}.weight": torch.randn(v, generator=rng) * 0.3 + ("norm" in k) for k, v in shapes.items()}
    weights |= {f"{k}.bias": torch.randn((parts, 6), generator=rng) for k in shapes if "normalization" in k}
    directory.mkdir(parents=True)
    for i in range(parts):
        mine = {k: part_of(k, v, i, parts).clone() for k, v in weights.items()} | {"rope.freqs": torch.ones(3)}
        torch.save(mine, directory / ("consolidated.pth" if parts == 1 else f"consolidated.{i:02}.pth"))
    (directory / "params.json").write_text(json.dumps({"run": "x", "model": PARAMS | changes}))
    (directory / "consolidate_params.json").write_text(json.dumps({"model_parallel_size": parts}))
    return weights


def part_of(name, whole, i, parts):
    """What the device `i` of so many holds: rows, columns, its own head norm, or a copy."""
    module = name.split(".")[-2]
    if module in ("wq", "wk", "wv", "w1", "w3", "output"):
        return whole.chunk(parts)[i]
    if module in ("wo", "w2", "tok_embeddings"):
        return whole.chunk(parts, dim=1)[i]
    return whole[i] if module.endswith("normalization") else whole
