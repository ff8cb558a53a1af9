"""Laws of the fusions, and what the command says of parents that do not fit."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jam_jax import checkpoint, tokens
from jam_jax.fuse import compatibility, cross, uniform, width
from jam_jax.fuse.__main__ import main
from jam_jax.models import model
from jam_jax.sharding import paths
from tests.tiny import DECODER, FAMILIES, OPT_LIKE, forward, randomise

SPACE = tokens.jam(text=40, codes=8, codes_per_image=4, sentinels=11)
TOKENS = jax.random.randint(jax.random.key(3), (2, 9), 0, DECODER.vocab_size)


def parent(config: object, seed: int) -> dict:
    return randomise(model.init(config, jax.random.key(0)), seed)  # type: ignore[arg-type]


def test_two_equal_parents_averaged_are_the_parent() -> None:
    llm = parent(DECODER, 1)
    _, fused = uniform.fuse(DECODER, llm, llm)
    jax.tree.map(np.testing.assert_array_equal, fused, llm)


def test_the_average_lies_half_way() -> None:
    llm, img = parent(DECODER, 1), parent(DECODER, 2)
    _, fused = uniform.fuse(DECODER, llm, img)
    np.testing.assert_allclose(
        fused["layers"]["attn"]["q"], 0.5 * llm["layers"]["attn"]["q"] + 0.5 * img["layers"]["attn"]["q"], rtol=1e-6
    )


@pytest.mark.parametrize("init", ["copy", "average"])
def test_width_equals_the_hand_built_block_matrices(init: width.Init) -> None:
    config = OPT_LIKE
    llm, img = paths(parent(config, 1)), paths(parent(config, 2))
    wide, fused = width.fuse(config, parent(config, 1), parent(config, 2), init)
    assert (wide.width, wide.heads, wide.head_size, wide.ffn_width) == (48, 8, 6, 80)
    found = paths(fused)
    # Each role as a matrix with rows = outputs, as the paper writes it.
    D, E = config.width, config.heads * config.head_size
    roles = {
        "layers/attn/q": (lambda w, d, e: w.reshape(d, e).T, D, E),
        "layers/attn/v": (lambda w, d, e: w.reshape(d, e).T, D, E),
        "layers/attn/o": (lambda w, e, d: w.reshape(e, d).T, E, D),
        "layers/ffn/up": (lambda w, d, f: w.T, D, config.ffn_width),
        "layers/ffn/down": (lambda w, f, d: w.T, config.ffn_width, D),
    }
    for path, (as_matrix, inputs, outputs) in roles.items():
        for layer in range(config.layers):
            a, b = (as_matrix(np.asarray(p[path][layer]), inputs, outputs) for p in (llm, img))
            right = [a, b] if init == "copy" else [(a + b) / 2] * 2
            expected = np.block([[a, right[0]], [b, right[1]]])
            np.testing.assert_array_equal(as_matrix(np.asarray(found[path][layer]), 2 * inputs, 2 * outputs), expected)
    for path in ("embed/tokens", "embed/positions", "layers/attn_norm/scale", "layers/ffn/up_bias", "final_norm/bias"):
        np.testing.assert_array_equal(found[path], np.concatenate([llm[path], img[path]], -1))
    np.testing.assert_array_equal(
        found["layers/attn/q_bias"], np.concatenate([llm["layers/attn/q_bias"], img["layers/attn/q_bias"]], -2)
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_every_fusion_has_the_shapes_of_its_config(family: str) -> None:
    config = FAMILIES[family]
    llm, img = parent(config, 1), parent(config, 2)
    space = dataclasses.replace(SPACE, vocab_size=config.vocab_size)
    fusions = [
        uniform.fuse(config, llm, img),
        width.fuse(config, llm, img),
        cross.fuse(config, config, llm, img, space, key=jax.random.key(0)),
    ]
    for fused, params in fusions:
        assert jax.tree.structure(params) == jax.tree.structure(model.shapes(fused))
        jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), params, model.shapes(fused))
        assert jnp.isfinite(forward(fused, params, TOKENS)[0]).all()


def test_cross_takes_text_rows_from_the_llm_and_all_others_from_the_image_parent() -> None:
    config = dataclasses.replace(DECODER, vocab_size=SPACE.vocab_size)
    llm, img = parent(config, 1), parent(config, 2)
    _, fused = cross.fuse(config, config, llm, img, SPACE, key=jax.random.key(0))
    rows = fused["embed"]["tokens"]
    text = slice(*SPACE.text)
    np.testing.assert_array_equal(rows[text], llm["embed"]["tokens"][text])
    np.testing.assert_array_equal(rows[: text.start], img["embed"]["tokens"][: text.start])
    np.testing.assert_array_equal(rows[text.stop :], img["embed"]["tokens"][text.stop :])
    np.testing.assert_array_equal(fused["embed"]["positions"], img["embed"]["positions"])
    jax.tree.map(np.testing.assert_array_equal, fused["llm"]["layers"], llm["layers"])
    jax.tree.map(np.testing.assert_array_equal, fused["img"]["layers"], img["layers"])


def write_parent(directory: Path, space: tokens.TokenSpace, seed: int, **changes: object) -> Path:
    tokenizer = directory.with_suffix(".tokenizer")
    tokenizer.mkdir()
    (tokenizer / "tokens.json").write_text(space.to_json())
    config = dataclasses.replace(DECODER, vocab_size=space.vocab_size, **changes)  # type: ignore[arg-type]
    checkpoint.save_model(directory, config, parent(config, seed), tokenizer=tokenizer)
    return directory


def test_the_command_fuses_two_directories(tmp_path: Path) -> None:
    llm, img = (write_parent(tmp_path / name, SPACE, seed) for seed, name in enumerate(("llm", "img"), 1))
    for method in ("uniform", "width", "cross"):
        target = tmp_path / method
        main([method, "--llm", str(llm), "--img", str(img), "--target", str(target)])
        config, params = checkpoint.load_model(target)
        assert tokens.load(checkpoint.tokenizer_dir(target)) == SPACE
        assert model.count(config) == sum(leaf.size for leaf in jax.tree.leaves(params))  # type: ignore[arg-type]


def test_parents_that_do_not_fit_are_told_in_what_and_nothing_is_written(tmp_path: Path) -> None:
    llm = write_parent(tmp_path / "llm", SPACE, 1)
    img = write_parent(
        tmp_path / "img", tokens.jam(text=41, codes=7, codes_per_image=4, sentinels=11), 2, heads=8, head_size=3
    )
    with pytest.raises(
        ValueError, match=r"heads: the LLM has 4, the image parent 8; .*tokenizer: .*different meanings"
    ):
        main(["cross", "--llm", str(llm), "--img", str(img), "--target", str(tmp_path / "fused")])
    assert not (tmp_path / "fused").exists()


def test_a_fusion_is_not_fused_again() -> None:
    misfits = compatibility.config_misfits(cross.CrossConfig(DECODER, DECODER), DECODER)
    assert misfits == ["the LLM is a CrossConfig, not a plain decoder: fuse its parents instead"]
