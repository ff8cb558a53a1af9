"""Tiny random models of `transformers`: what they compute, and the way in and out that tests of families share."""

import json

import jax
import numpy as np
import torch

from jam_jax.convert import families, rules, writers
from jam_jax.models import model

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
    return parent.config, rules.gather(parent.table, parent.weights, model.shapes(parent.config), str(source))


def exported(family, config, params, target, **changes):
    """Write a model as another system's; `changes` are of its config.json."""
    layout = families.writer(family)
    weights = rules.Exported(layout.table(config), params)
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
    a, b = rules.flatten(a), rules.flatten(b)
    assert a.keys() == b.keys()
    for path, value in a.items():
        np.testing.assert_array_equal(value, b[path], err_msg=path)
