"""metaseq's pieces are found, counted and joined; settings that we do not compute are refused by name."""

import argparse
import dataclasses
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from parents import same_bits

from jam_jax.config import CrossConfig, DecoderConfig
from jam_jax.convert import parts, rules, writers
from jam_jax.convert.families import metaseq
from jam_jax.convert.readers import Files, Tensors
from jam_jax.models import model
from jam_jax.trees import paths
from tests.tiny import leaves, whole

CHECKPOINTS = Path(__file__).parent / "golden" / "checkpoints"
WIDTH, FFN, HEADS, VOCAB, PLACES = 8, 16, 2, 11, 12


def settings(**changes):
    sizes = {"decoder_embed_dim": WIDTH, "decoder_ffn_embed_dim": FFN, "decoder_attention_heads": HEADS}
    return sizes | {"decoder_layers": 2, "disable_bias": True, "disable_affine_ln": True} | changes


def block(prefix, fused=True):
    qkv = {"qkv_proj": (3 * WIDTH, WIDTH)} if fused else {f"{n}_proj": (WIDTH, WIDTH) for n in "kvq"}
    shapes = {f"self_attn.{n}.weight": s for n, s in qkv.items()}
    shapes |= {"self_attn.out_proj.weight": (WIDTH, WIDTH), "fc1.weight": (FFN, WIDTH), "fc2.weight": (WIDTH, FFN)}
    return {prefix + name: shape for name, shape in shapes.items()}


def tensors(shapes):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def decoder(layers=2, fused=True):
    shapes = {"decoder.embed_tokens.weight": (VOCAB, WIDTH), "decoder.embed_positions.weight": (PLACES, WIDTH)}
    for i in range(layers):
        shapes |= block(f"decoder.layers.{i}.", fused)
    return tensors(shapes)


def cross(layers, blocks):
    shapes = {"decoder.embed_tokens.weight": (VOCAB, WIDTH), "decoder.embed_positions_cm3.weight": (PLACES, WIDTH)}
    shapes["decoder.feature_projection.weight"] = (WIDTH, 2 * WIDTH)
    for tower in ("cm3", "llm"):
        for i in range(layers):
            shapes |= block(f"decoder.layers_{tower}.{i}.")
        for i in range(blocks):
            shapes |= block(f"decoder.x_attn_layers_{tower}.{i}.", fused=False)
    return tensors(shapes)


def understand(weights, **changes):
    return metaseq.understand(settings(**changes), Tensors(lambda: weights, Path("x.pt")), "x.pt")


def gathered(parent):
    return whole(rules.leaves(parent.table, parent.weights, model.shapes(parent.config), "x.pt"))


def test_fused_rows_are_keys_values_queries():
    fused = decoder()
    split = {k: v for k, v in fused.items() if "qkv" not in k}
    for i in range(2):
        rows = fused[f"decoder.layers.{i}.self_attn.qkv_proj.weight"].split(WIDTH)
        split |= {f"decoder.layers.{i}.self_attn.{n}_proj.weight": r for n, r in zip("kvq", rows, strict=True)}
    a, b = (paths(gathered(understand(w))) for w in (fused, split))
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(a[path], b[path])


@pytest.mark.parametrize(("layers", "blocks", "every"), [(4, 2, 2), (4, 4, 1), (3, 3, 1), (4, 1, 4), (3, 0, 0)])
def test_the_number_of_cross_blocks_says_after_which_layers_they_come(layers, blocks, every):
    parent = understand(cross(layers, blocks), decoder_layers=layers)
    assert isinstance(parent.config, CrossConfig)
    assert parent.config.every == every
    stacks = [leaf.shape[0] for leaf in jax.tree.leaves(gathered(parent)["cross"])]
    assert set(stacks) == ({blocks} if blocks else set())


@pytest.mark.parametrize(("layers", "blocks"), [(5, 2), (4, 3)])
def test_cross_blocks_that_do_not_divide_the_layers_are_refused(layers, blocks):
    with pytest.raises(ValueError, match=f"{blocks} x_attn_layers_cm3, {blocks} x_attn_layers_llm"):
        understand(cross(layers, blocks), decoder_layers=layers)


def test_towers_of_different_depth_are_refused():
    weights = {k: v for k, v in cross(4, 2).items() if not k.startswith("decoder.layers_llm.3.")}
    with pytest.raises(ValueError, match="4 layers_cm3, 3 layers_llm"):
        understand(weights, decoder_layers=4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("decoder_learned_sinusoidal", True),
        ("decoder_normalize_before", False),
        ("activation_fn", "swiglu"),
        ("use_alibi", True),
        ("decoder_input_dim", 4),
        ("decoder_surprise", 3),
        ("decoder_layers", 0),
        ("decoder_embed_dim", "8"),
        ("decoder_attention_heads", 3),
    ],
)
def test_settings_that_we_do_not_compute_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        understand(decoder(), **{name: value})


def test_settings_that_change_the_config():
    assert understand(decoder(), no_scale_embedding=False).config.embed_scale == pytest.approx(WIDTH**0.5)
    assert understand(decoder(), activation_fn="gelu").config.ffn == "gelu"
    untied = decoder() | {"decoder.output_projection.weight": torch.ones(VOCAB, WIDTH)}
    parent = understand(untied, share_decoder_input_output_embed=False)
    assert gathered(parent)["unembed"].sum() == VOCAB * WIDTH
    with pytest.raises(ValueError, match="differs"):
        gathered(understand(untied))


def test_any_piece_names_the_whole_checkpoint():
    for piece in sorted((CHECKPOINTS / "a_mp2_fsdp3_fp16").iterdir()):
        assert parts.find(piece) == parts.find(piece.parent)


@pytest.mark.parametrize("layout", ["a_mp2", "a_fsdp2", "a_mp2_fsdp3_fp16"])
def test_without_any_one_of_its_pieces_a_checkpoint_is_refused(layout, tmp_path):
    for missing in sorted((CHECKPOINTS / layout).iterdir()):
        target = tmp_path / missing.stem
        shutil.copytree(CHECKPOINTS / layout, target)
        (target / missing.name).unlink()
        with pytest.raises(ValueError, match=r"lacks 1 pieces|missing") as caught:
            metaseq.read(target)
        assert "\n" not in str(caught.value)


def test_parts_of_different_checkpoints_are_found_out(tmp_path):
    shutil.copytree(CHECKPOINTS / "a_mp2", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "reshard-model_part-1.pt"
    contents = torch.load(path, weights_only=False)
    contents["model"]["decoder.embed_positions.weight"] += 1
    torch.save(contents, path)
    with pytest.raises(ValueError, match=r"embed_positions\.weight should be the same in all model parts"):
        gathered(metaseq.read(tmp_path))
    del contents["model"]["decoder.layers.3.fc1.weight"]
    torch.save(contents, path)
    with pytest.raises(ValueError, match=r"parts 0 and 1 do not hold the same names"):
        metaseq.read(tmp_path)


@pytest.mark.parametrize(
    "name", ["l.final_layer_norm.weight", "l.self_attn_layer_norm.bias", "l.fc2.bias", "l.self_attn.out_proj.bias"]
)
def test_replicas_that_differ_by_rounding_are_the_first_parts_as_in_metaseq(name, tmp_path):
    value = torch.linspace(-0.02, 0.02, 8)
    cfg = {"model": argparse.Namespace(**settings())}
    for i, other in enumerate((value, value + 1e-4)):
        torch.save({"model": {name: other}, "cfg": cfg}, tmp_path / f"x-model_part-{i}.pt")
    np.testing.assert_array_equal(parts.open_parts(tmp_path)[1].read(name), value)
    torch.save({"model": {name: value.flip(0)}, "cfg": cfg}, tmp_path / "x-model_part-1.pt")
    with pytest.raises(ValueError, match=f"{name} should be the same in all model parts"):
        parts.open_parts(tmp_path)[1].read(name)


def test_biases_of_model_parallel_parts_are_joined(tmp_path):
    """A part holds its rows of the column-split biases; the row-split layers' biases are whole in each."""
    whole = torch.arange(3 * WIDTH, dtype=torch.float32).reshape(3, 2, WIDTH // 2)
    cfg = {"model": argparse.Namespace(**settings())}
    for i in range(2):
        biases = {"l.self_attn.qkv_proj.bias": whole[:, i].reshape(-1), "l.fc1.bias": torch.full((3,), i)}
        torch.save({"model": biases | {"l.fc2.bias": torch.ones(4)}, "cfg": cfg}, tmp_path / f"x-model_part-{i}.pt")
    found, weights = parts.open_parts(tmp_path)
    assert found == settings()
    np.testing.assert_array_equal(weights.read("l.self_attn.qkv_proj.bias"), np.arange(3 * WIDTH))
    np.testing.assert_array_equal(weights.read("l.fc1.bias"), [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(weights.read("l.fc2.bias"), np.ones(4))


def test_flat_shards_with_metadata_that_lies_end_in_one_line(tmp_path):
    shutil.copytree(CHECKPOINTS / "a_fsdp2", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "checkpoint_last-model_part-0-shard0.pt"
    good = torch.load(path, weights_only=False)
    for change, message in (
        (lambda m: m["params"]["flat_param_0"]["shapes"].pop(), "does not describe its weights"),
        (lambda m: m["params"]["flat_param_0"].pop("padding"), "does not describe its weights"),
        (lambda m: m["params"]["flat_param_0"].update(padding=5), "a shard is missing"),
        (lambda m: m["params"].update(flat_param_1=m["params"]["flat_param_0"]), "does not describe its weights"),
    ):
        torch.save(good, path)
        bad = torch.load(path, weights_only=False)
        change(bad["shard_metadata"]["param_metadata"][0])
        torch.save(bad, path)
        with pytest.raises(ValueError, match=message):
            metaseq.read(tmp_path)


def test_two_checkpoints_in_one_directory_ask_for_a_file(tmp_path):
    for name in ("checkpoint_1", "checkpoint_last"):
        shutil.copy(CHECKPOINTS / "a_singleton" / "reshard.pt", tmp_path / f"{name}.pt")
    with pytest.raises(ValueError, match=r"checkpoint_1, checkpoint_last"):
        metaseq.read(tmp_path)
    assert metaseq.read(tmp_path / "checkpoint_1.pt").config.layers == 4


def test_a_whole_beside_its_parts_is_not_taken_for_one_of_them(tmp_path):
    shutil.copytree(CHECKPOINTS / "a_mp2", tmp_path, dirs_exist_ok=True)
    shutil.copy(CHECKPOINTS / "a_singleton" / "reshard.pt", tmp_path)
    with pytest.raises(ValueError, match=r"reshard-model_part-0\.pt and reshard\.pt are the same piece"):
        metaseq.read(tmp_path)


@pytest.mark.parametrize("contents", [{"weights": {}}, {"model": {}, "cfg": None}, {"model": {"w": 3}}, [1]])
def test_files_that_are_not_metaseqs_end_in_one_line(tmp_path, contents):
    torch.save(contents, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt|settings"):
        metaseq.read(tmp_path / "x.pt")


@pytest.mark.parametrize("settings", [{"disable_bias": 1}, {"no_scale_embedding": "False"}, {"decoder_layers": 10**9}])
def test_switches_and_sizes_that_are_none_are_named(settings):
    with pytest.raises(ValueError, match=next(iter(settings)).replace("decoder_layers", "1000000000 layers")):
        gathered(understand(decoder(), **settings))


def exported(config, params, target):
    table = metaseq.table(config)
    weights = rules.Exported(table, leaves(params))
    writers.write_metaseq(target, metaseq.write_settings(config), weights, table.copies)
    return torch.load(target / "reshard.pt", weights_only=False)


@pytest.mark.parametrize("layout", ["a_singleton", "c_singleton"])
def test_an_export_of_the_originals_weights_is_the_originals_file(layout, tmp_path):
    parent = metaseq.read(CHECKPOINTS / layout)
    params = gathered(parent)
    written = exported(parent.config, params, tmp_path / "out")
    original = torch.load(CHECKPOINTS / layout / "reshard.pt", weights_only=False)
    output = "decoder.output_projection.weight"
    assert written["model"].keys() == original["model"].keys() | {output}
    for name, value in original["model"].items():
        assert torch.equal(written["model"][name], value.float()), name
    assert torch.equal(written["model"][output], written["model"]["decoder.embed_tokens.weight"])
    ours, theirs = (vars(contents["cfg"]["model"]) for contents in (written, original))
    assert {k: v for k, v in ours.items() if k in theirs} == {k: theirs[k] for k in ours.keys() & theirs.keys()}
    assert {"arch", "disable_affine_ln", "tokens_per_sample"} <= ours.keys() & theirs.keys()
    # What metaseq's loader asks of a file beside the weights.
    assert {"lr_scheduler_state", "num_updates"} <= written["optimizer_history"][-1].keys()
    assert "train_iterator" in written["extra_state"]
    assert written["cfg"]["common"]["model_parallel_size"] == 1
    assert "_name" in written["cfg"]["task"]

    back = metaseq.read(tmp_path / "out")
    assert back.config == parent.config
    same_bits(gathered(back), params)


SMALL = DecoderConfig(VOCAB, 2, WIDTH, HEADS, WIDTH // HEADS, FFN, PLACES - 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"bias": "all", "norm": "layernorm", "ffn": "gelu"},
        {"tied": False, "embed_scale": WIDTH**0.5},
        {"bias": "all", "tied": False},
    ],
)
@pytest.mark.parametrize("cross", [False, True])
def test_every_kind_of_model_comes_back_the_same(changes, cross, tmp_path):
    tower = dataclasses.replace(SMALL, **changes)
    config = CrossConfig(tower, tower) if cross else tower
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), model.shapes(config))
    exported(config, params, tmp_path / "out")
    back = metaseq.read(tmp_path / "out")
    assert model.computes_the_same(back.config, config)
    same_bits(gathered(back), params)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CrossConfig(SMALL, SMALL, every=1), "cross blocks every=1 of 2 layers"),
        (CrossConfig(*[dataclasses.replace(SMALL, layers=3)] * 2), "every=2 of 3 layers"),
        (CrossConfig(SMALL, dataclasses.replace(SMALL, ffn="gelu")), "its towers are alike in every setting"),
        (CrossConfig(*[dataclasses.replace(SMALL, positions="rope")] * 2), "positions=rope"),
        (dataclasses.replace(SMALL, kv_heads=1), "kv_heads=1"),
        (dataclasses.replace(SMALL, bias="qkv", position_offset=0), r"position_offset=0 \(metaseq: 2\), bias=qkv"),
    ],
)
def test_what_metaseq_cannot_build_is_refused_by_name(config, message):
    with pytest.raises(ValueError, match=f"metaseq has no such .*{message}"):
        metaseq.write_settings(config)


def test_without_torch_an_export_says_what_to_install_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match="pip install torch"):
        writers.write_metaseq(tmp_path / "out", {}, Files(()), {})
    assert list(tmp_path.iterdir()) == []
