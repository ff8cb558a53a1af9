"""Our decoder and JAM-Cross give the numbers of the original implementation, from its own files in every layout."""

import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jam_jax.config import CrossConfig
from jam_jax.convert import rules
from jam_jax.convert.families import metaseq
from jam_jax.convert.readers import Safetensors
from jam_jax.models import model
from jam_jax.trees import paths
from tests.tiny import whole

GOLDEN = Path(__file__).parent / "golden"
CASES = {"a": "case_a_decoder.npz", "b": "case_b_opt_decoder.npz", "c": "case_c_jam_cross.npz"}
LAYOUTS = ["a_singleton", "a_restored", "a_mp2", "a_fsdp2", "a_mp2_fsdp3_fp16", "c_singleton"]


@functools.cache
def golden(case):
    with np.load(GOLDEN / CASES[case]) as file:
        return dict(file)


def settings(case):
    """What metaseq's cfg["model"] says of the case."""
    about = json.loads(str(golden(case)["config"]))
    return {
        "decoder_embed_dim": about["d"],
        "decoder_ffn_embed_dim": about["ffn"],
        "decoder_attention_heads": about["heads"],
        "decoder_layers": about["layers"],
        "activation_fn": about["act"],
        "disable_bias": not about["bias"],
        "disable_affine_ln": not about["affine"],
    }


def gathered(parent):
    return whole(rules.leaves(parent.table, parent.weights, model.shapes(parent.config), "golden"))


@pytest.fixture(scope="module", params=CASES)
def imported(request, tmp_path_factory):
    """Golden arrays, config and parameters of one case, through the rules that import its files."""
    path = tmp_path_factory.mktemp("golden") / "weights.safetensors"
    arrays = golden(request.param)
    save_file({name[2:]: value for name, value in arrays.items() if name.startswith("w/")}, path)
    parent = metaseq.understand(settings(request.param), Safetensors(path), request.param)
    return arrays, parent.config, gathered(parent)


@functools.cache
def forward(config):
    with jax.default_matmul_precision("highest"):
        return jax.jit(lambda params, tokens: model.forward(config, params, tokens)[0])


@pytest.mark.parametrize("batch", ["b0", "b1"])
def test_logits_and_losses_are_the_originals(imported, batch):
    arrays, config, params = imported
    logits = forward(config)(params, arrays[f"{batch}/tokens"])
    np.testing.assert_allclose(logits, arrays[f"{batch}/logits"], rtol=0, atol=2e-5)
    targets = arrays[f"{batch}/targets"]
    losses = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(losses, arrays[f"{batch}/loss_per_token"], rtol=0, atol=1e-5)


def test_padding_on_the_right_changes_nothing_before_it(imported):
    arrays, config, params = imported
    tokens = arrays["pad/tokens"]
    real = tokens != 1
    assert 0 < real.sum() < real.size
    logits = np.asarray(forward(config)(params, tokens))
    np.testing.assert_allclose(logits[real], arrays["pad/logits"][real], rtol=0, atol=2e-5)


def test_case_c_is_jam_cross_after_every_second_layer(imported):
    arrays, config, _ = imported
    about = json.loads(str(arrays["config"]))
    every = config.every if isinstance(config, CrossConfig) else 0
    assert about["cross_after"] == (list(range(0, about["layers"], every)) if every else [])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_on_disk_holds_exactly_the_golden_weights(layout, tmp_path):
    arrays = golden(layout[0])
    save_file({name[2:]: value for name, value in arrays.items() if name.startswith("w/")}, tmp_path / "w.safetensors")
    want = metaseq.understand(settings(layout[0]), Safetensors(tmp_path / "w.safetensors"), layout)
    got = metaseq.read(GOLDEN / "checkpoints" / layout)
    assert got.config == want.config
    ours, theirs = paths(gathered(got)), paths(gathered(want))
    assert ours.keys() == theirs.keys()
    for path in ours:
        assert ours[path].dtype == np.float32
        np.testing.assert_array_equal(ours[path], theirs[path], err_msg=path)
