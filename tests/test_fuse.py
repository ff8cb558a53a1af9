"""Laws of the fusions, and what the command says of parents that do not fit."""

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jam_jax import checkpoint, tokens
from jam_jax import config as configs
from jam_jax.config import CrossConfig
from jam_jax.data.sentencepiece_text import train_text_tokenizer
from jam_jax.fuse import compatibility, cross, new_weights, rows, uniform, width
from jam_jax.fuse.__main__ import Command, Cross, Width, main
from jam_jax.fuse.rows import TABLES
from jam_jax.models import cross as model_cross
from jam_jax.models import model
from jam_jax.trees import paths
from tests.tiny import BIASED, DECODER, FAMILIES, LLAMA_LIKE, OPT_LIKE, families, forward, leaves, randomise, whole

PIECES = 270
SPACE = tokens.jam(text=PIECES, codes=8, codes_per_image=4, sentinels=11)
TOKENS = jax.random.randint(jax.random.key(3), (2, 9), 0, DECODER.vocab_size)


def parent(config: object, seed: int) -> dict:
    return randomise(model.shapes(config), seed)  # type: ignore[arg-type]


def fused_by(fuse: Callable, *args: object, **options: object) -> dict:
    """A fusion of arrays, as arrays."""
    _, fused = fuse(*(leaves(a) if isinstance(a, dict) else a for a in args), **options)
    return whole(fused)


def test_two_equal_parents_averaged_are_the_parent() -> None:
    llm = parent(DECODER, 1)
    fused = fused_by(uniform.fuse, DECODER, llm, llm)
    jax.tree.map(np.testing.assert_array_equal, fused, llm)


def test_the_average_lies_half_way() -> None:
    llm, img = parent(DECODER, 1), parent(DECODER, 2)
    fused = fused_by(uniform.fuse, DECODER, llm, img)
    np.testing.assert_allclose(
        fused["layers"]["attn"]["q"], 0.5 * llm["layers"]["attn"]["q"] + 0.5 * img["layers"]["attn"]["q"], rtol=1e-6
    )


@pytest.mark.parametrize("init", ["copy", "average"])
def test_width_equals_the_hand_built_block_matrices(init: width.Init) -> None:
    config = OPT_LIKE
    llm, img = paths(parent(config, 1)), paths(parent(config, 2))
    wide, fused = width.fuse(config, leaves(parent(config, 1)), leaves(parent(config, 2)), init)
    assert (wide.width, wide.heads, wide.head_size, wide.ffn_width) == (48, 8, 6, 80)
    found = paths(whole(fused))
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


@pytest.mark.parametrize("family", families("gemma"))
def test_every_fusion_has_the_shapes_of_its_config(family: str) -> None:
    config = dataclasses.replace(FAMILIES[family], vocab_size=SPACE.vocab_size)
    llm, img = leaves(parent(config, 1)), leaves(parent(config, 2))
    fusions = [
        uniform.fuse(config, llm, img),
        width.fuse(config, llm, img),
        cross.fuse(config, config, llm, img, SPACE),
    ]
    for fused, found in fusions:
        params = whole(found)
        assert jax.tree.structure(params) == jax.tree.structure(model.shapes(fused))
        jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), params, model.shapes(fused))
        if fused != config:  # the average is a model of the parents' own config
            assert jnp.isfinite(forward(fused, params, TOKENS)[0]).all()


def test_cross_takes_text_rows_from_the_llm_and_all_others_from_the_image_parent() -> None:
    config = dataclasses.replace(DECODER, vocab_size=SPACE.vocab_size)
    llm, img = parent(config, 1), parent(config, 2)
    fused = fused_by(cross.fuse, config, config, llm, img, SPACE)
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
    train_text_tokenizer(["a red circle above a blue square"], tokenizer / "text.model", space.text[1])
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
        tmp_path / "img", tokens.jam(text=PIECES + 1, codes=7, codes_per_image=4, sentinels=11), 2, heads=8, head_size=3
    )
    with pytest.raises(
        ValueError, match=r"heads: the LLM has 4, the image parent 8; .*image codes: the LLM has 8, the image parent 7"
    ):
        main(["cross", "--llm", str(llm), "--img", str(img), "--target", str(tmp_path / "fused")])
    assert not (tmp_path / "fused").exists()


def test_a_fusion_is_not_fused_again() -> None:
    (row,) = compatibility.compare_configs(cross.CrossConfig(DECODER, DECODER), DECODER)
    assert row.verdict == "error"
    assert (row.llm, row.img) == ("CrossConfig", "DecoderConfig")


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"layers": LLAMA_LIKE.layers + 1}, "error"),
        ({"width": 32}, "error"),
        ({"heads": 2, "kv_heads": 2}, "error"),
        ({"kv_heads": 4}, "error"),
        ({"head_size": 4}, "error"),
        ({"ffn_width": 8}, "error"),
        ({"tied": not LLAMA_LIKE.tied}, "error"),
        ({"bias": "all"}, "error"),
        ({"norm": "layernorm"}, "error"),
        ({"ffn": "relu"}, "error"),
        ({"vocab_size": LLAMA_LIKE.vocab_size + 1}, "error"),
        ({"vocab_size": LLAMA_LIKE.vocab_size - 1}, "warning"),
        ({"ffn": "gelu_gated"}, "warning"),
        ({"norm": "rmsnorm_plus_one"}, "warning"),
        ({"norm_eps": 1e-4}, "warning"),
        ({"rope_base": 5e5}, "warning"),
        ({"max_positions": 8}, "warning"),
        ({"embed_scale": 3.0}, "warning"),
    ],
)
def test_what_shapes_a_weight_is_an_error_and_what_only_uses_it_a_warning(changes: dict, verdict: str) -> None:
    rows = compatibility.compare_configs(dataclasses.replace(LLAMA_LIKE, **changes), LLAMA_LIKE)
    found = {row.name: row.verdict for row in rows if row.verdict != "fits"}
    assert verdict in found.values()
    assert set(found) <= {*changes, "kv_heads"}


def test_check_prints_the_comparison_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    llm = write_parent(tmp_path / "llm", SPACE, 1, ffn="gelu")
    img = write_parent(tmp_path / "img", SPACE, 2)
    main(["uniform", "--llm", str(llm), "--img", str(img), "--target", str(tmp_path / "fused"), "--check"])
    said = capsys.readouterr().out
    assert "the parents fit, with 1 warning: all three fusions are possible" in said
    (line,) = [line for line in said.splitlines() if " ffn " in line]
    assert "gelu" in line
    assert "warning" in line
    assert not (tmp_path / "fused").exists()


def test_check_says_that_cross_needs_a_tokenizer(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    for seed, name in enumerate(("llm", "img")):
        checkpoint.save_model(tmp_path / name, BIASED, parent(BIASED, seed))
    parents = ["--llm", str(tmp_path / "llm"), "--img", str(tmp_path / "img")]
    main(["cross", *parents, "--check"])
    said = capsys.readouterr().out
    assert "uniform and width are possible, cross is not, since" in said
    assert "llama3, 8.0, 1.0, 4.0, 12" in " ".join(said.split())
    with pytest.raises(ValueError, match="img holds no tokenizer, which says which rows are text"):
        main(["cross", *parents, "--target", str(tmp_path / "fused")])
    (tmp_path / "file").write_text("keep")
    with pytest.raises(ValueError, match="file already exists"):
        main(["uniform", *parents, "--target", str(tmp_path / "file")])


def test_an_image_parent_that_grew_out_of_the_llm_brings_its_own_rows() -> None:
    config = dataclasses.replace(DECODER, vocab_size=SPACE.vocab_size, tied=False)
    few = dataclasses.replace(config, vocab_size=PIECES)
    llm, img = parent(few, 1), parent(config, 2)
    completed = whole(rows.complete(leaves(llm), leaves(img)))
    for table in (lambda t: t["embed"]["tokens"], lambda t: t["unembed"]):
        np.testing.assert_array_equal(table(completed)[:PIECES], table(llm))
        np.testing.assert_array_equal(table(completed)[PIECES:], table(img)[PIECES:])
    fused = fused_by(uniform.fuse, config, completed, img)
    np.testing.assert_array_equal(fused["unembed"][PIECES:], img["unembed"][PIECES:])
    np.testing.assert_allclose(fused["unembed"][:PIECES], (llm["unembed"] + img["unembed"][:PIECES]) / 2, rtol=1e-6)


def test_rows_take_the_shares_of_their_modality_and_padded_ones_that_of_the_rest(tmp_path: Path) -> None:
    space = tokens.jam(text=PIECES, codes=8, codes_per_image=4, sentinels=11, pad_to=32)
    llm, img = (write_parent(tmp_path / name, space, seed) for seed, name in enumerate(("llm", "img"), 1))
    share = ["--weight", "0.25", "--text-weight", "1", "--image-weight", "0"]
    main(["uniform", "--llm", str(llm), "--img", str(img), "--target", str(tmp_path / "fused"), *share])
    a, b, found = (checkpoint.load_model(tmp_path / name)[1] for name in ("llm", "img", "fused"))
    a_rows, b_rows, rows = (t["embed"]["tokens"] for t in (a, b, found))
    text, codes = slice(*space.text), list(space.image_ids)
    np.testing.assert_array_equal(rows[text], a_rows[text])
    np.testing.assert_array_equal(rows[codes,], b_rows[codes,])
    others = [i for i in range(space.vocab_size) if space.modality[i] == tokens.SPECIAL]
    assert space.vocab_size - 1 in others  # a padded row
    np.testing.assert_allclose(rows[others,], 0.25 * a_rows[others,] + 0.75 * b_rows[others,], rtol=1e-5, atol=1e-7)
    q = [t["layers"]["attn"]["q"] for t in (a, b, found)]
    np.testing.assert_allclose(q[2], 0.25 * q[0] + 0.75 * q[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("option", ["--weight", "--text-weight", "--image-weight"])
def test_a_share_outside_zero_to_one_is_one_line(option: str) -> None:
    with pytest.raises(SystemExit), pytest.raises(ValueError, match="is a share from 0"):
        main(["uniform", "--llm", "a", "--img", "b", option, "1.5"])


@pytest.mark.parametrize("name", families("llama", "gemma"))
@pytest.mark.parametrize("identity", [True, False])
def test_new_cross_blocks_start_as_the_models_own(name: str, identity: bool) -> None:
    """What is one number is the same; what is drawn has the same shape, spread and bounds."""
    small = FAMILIES[name]
    config = dataclasses.replace(small, vocab_size=SPACE.vocab_size, width=96, ffn_width=320, init_std=0.02)
    blocks: cross.Blocks = "identity" if identity else "random"
    new = cross.fuse(config, config, *(leaves(parent(config, i)) for i in (1, 2)), SPACE, blocks=blocks)
    found, joint = paths(whole(new[1]["cross"])), new[0]
    want = paths(model_cross.init_cross(jax.random.key(0), joint))
    assert {path: value.shape for path, value in found.items()} == {path: value.shape for path, value in want.items()}
    for path, value in want.items():
        ours, theirs = found[path], np.asarray(value)
        assert ours.dtype == np.float32
        if not identity and path.split("/", 1)[1] in new_weights.OUTPUTS:
            theirs = np.asarray(want[path.split("/")[0] + "/ffn/up"])  # these are drawn alike, the model's own are zero
        np.testing.assert_allclose(ours.std(), theirs.std(), rtol=0.05)
        np.testing.assert_allclose(np.abs(ours).max(), np.abs(theirs).max(), rtol=0.15)
        np.testing.assert_allclose(ours.mean(), theirs.mean(), atol=0.05 * theirs.std() + 1e-12)


def test_a_random_projection_has_the_originals_spread() -> None:
    found = joint(project="random")[2]["project"]
    np.testing.assert_allclose(found.std(), DECODER.width**-0.5, rtol=0.1)


def vocabulary(names: list[str | None], **changes: object) -> compatibility.Vocabulary:
    space = dataclasses.replace(SPACE, **changes) if changes else SPACE  # type: ignore[arg-type]
    return compatibility.Vocabulary(space, names)


@pytest.mark.parametrize(
    ("llm", "img", "name", "verdict"),
    [
        (["a", "b", "c"], ["a", "b", "c"], "token names", "fits"),
        (["a", "b", "<unused7>"], ["a", "b", "<boi>"], "token names", "warning"),
        (["a", "b", "c"], ["b", "c", "c"], "token names", "error"),
        (["a", None], ["a", "b"], "token names", "fits"),
        (["a", None], ["a", "b"], "padded rows", "warning"),
        (["a", None], ["a", None], "padded rows", "fits"),
    ],
)
def test_ids_that_are_other_tokens_are_told(llm: list, img: list, name: str, verdict: str) -> None:
    found = {row.name: row for row in compatibility.compare_ids(vocabulary(llm), vocabulary(img))}
    assert found[name].verdict == verdict


def test_pictures_in_other_ids_keep_parents_apart_and_a_parent_that_only_writes_has_none() -> None:
    other = vocabulary(["a"], image_ids=SPACE.image_ids[::-1])
    (row,) = [r for r in compatibility.compare_ids(vocabulary(["a"]), other) if r.verdict == "error"]
    assert row.name == "image codes"
    writes = vocabulary(["a"], image_ids=(), picture_layout=(), picture_closers=())
    assert {row.verdict for row in compatibility.compare_ids(writes, other)} == {"fits"}


def test_other_image_tokenizers_are_warned_of() -> None:
    rows = compatibility.compare_ids(vocabulary(["a"], contents="1"), vocabulary(["a"], contents="2"))
    assert [row.name for row in rows if row.verdict == "warning"] == ["contents"]


def joint(**options: object) -> tuple[dict, dict, dict]:
    """Two parents and their JAM-Cross."""
    config = dataclasses.replace(DECODER, vocab_size=SPACE.vocab_size)
    llm, img = parent(config, 1), parent(config, 2)
    return llm, img, fused_by(cross.fuse, config, config, llm, img, SPACE, **options)


@pytest.mark.parametrize(("start", "of_img", "of_llm"), [("average", 0.5, 0.5), ("img", 1, 0), ("llm", 0, 1)])
def test_the_projection_starts_as_a_share_of_each_tower(start: str, of_img: float, of_llm: float) -> None:
    eye = np.eye(DECODER.width)
    found = joint(project=start)[2]["project"]
    np.testing.assert_array_equal(found, np.concatenate([of_img * eye, of_llm * eye]))


def test_fusions_start_as_the_ablations_recommend_unless_told_otherwise() -> None:
    parents = ["--llm", "a", "--img", "b"]
    command = configs.cli(Command, ["cross", *parents], prog="fuse")
    assert (command.project, command.blocks, command.positions, command.every) == ("average", "identity", "img", 2)
    assert configs.cli(Command, ["width", *parents], prog="fuse").init == "zero"
    for function, command in ((cross.fuse, Cross), (width.fuse, Width)):
        own = {name: p.default for name, p in inspect.signature(function).parameters.items()}
        shared = {field.name: field.default for field in dataclasses.fields(command) if field.name in own}
        shared = {name: value for name, value in shared.items() if name not in ("llm", "img")}
        assert shared and shared == {name: own[name] for name in shared}


def test_a_projection_of_one_tower_without_cross_blocks_is_that_parent() -> None:
    config = dataclasses.replace(DECODER, vocab_size=SPACE.vocab_size)
    for start in ("llm", "img"):
        llm, img, fused = joint(project=start, every=0)
        own = {"llm": llm, "img": img}[start]
        both = dict(fused, embed=own["embed"])  # the table of tokens is of both parents
        want = forward(config, own, TOKENS)[0]
        found = forward(CrossConfig(config, config, every=0), both, TOKENS)[0]
        np.testing.assert_allclose(found, want, atol=1e-5)


def test_any_part_of_the_projection_is_what_the_whole_has_there() -> None:
    config = dataclasses.replace(DECODER, vocab_size=SPACE.vocab_size)
    llm, img = leaves(parent(config, 1)), leaves(parent(config, 2))
    _, fused = cross.fuse(config, config, llm, img, SPACE, project="average")
    whole_of_it, part = fused["project"].whole(), (slice(20, 31), slice(3, 9))
    np.testing.assert_array_equal(fused["project"].read(part), whole_of_it[part])
    assert fused["project"].dtype == whole_of_it.dtype == np.float32


@pytest.mark.parametrize("project", ["average", "random"])
def test_new_weights_have_the_parents_type_or_float32_where_they_have_several(project: cross.Project) -> None:
    config = dataclasses.replace(DECODER, vocab_size=SPACE.vocab_size)

    def kinds(llm: type, img: type) -> dict[str, np.dtype]:
        one, other = (
            leaves(jax.tree.map(lambda a, kind=kind: np.asarray(a, kind), parent(config, i)))
            for i, kind in enumerate((llm, img))
        )
        _, fused = cross.fuse(config, config, one, other, SPACE, project=project)
        return {path: leaf.whole().dtype for path, leaf in paths(fused).items() if path not in TABLES}

    half, single = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32)
    assert set(kinds(ml_dtypes.bfloat16, ml_dtypes.bfloat16).values()) == {half}
    mixed = kinds(ml_dtypes.bfloat16, np.float32)
    assert {kind for path, kind in mixed.items() if path.startswith("cross/") or path == "project"} == {single}
    assert {kind for path, kind in mixed.items() if path.startswith("llm/")} == {half}


def test_positions_are_the_image_parents_the_llms_or_their_average() -> None:
    for positions, share in (("img", 0.0), ("llm", 1.0), ("average", 0.5)):
        llm, img, fused = joint(positions=positions)
        want = share * llm["embed"]["positions"] + (1 - share) * img["embed"]["positions"]
        np.testing.assert_allclose(fused["embed"]["positions"], want, rtol=1e-6)
    config = dataclasses.replace(LLAMA_LIKE, vocab_size=SPACE.vocab_size)
    llm, img = leaves(parent(config, 1)), leaves(parent(config, 2))
    with pytest.raises(ValueError, match="rotary positions, of which there is no table: leave 'llm' out"):
        cross.fuse(config, config, llm, img, SPACE, positions="llm")


def test_random_blocks_differ_from_identities_in_what_they_write_alone() -> None:
    identity, drawn = (joint(blocks=blocks)[2]["cross"] for blocks in ("identity", "random"))
    for name in ("llm", "img"):
        same, other = paths(identity[name]), paths(drawn[name])
        for path, value in other.items():
            if path in ("attn/o", "ffn/down"):
                assert not same[path].any()
                np.testing.assert_allclose(value.std(), DECODER.init_std, rtol=0.15)
            else:
                np.testing.assert_array_equal(value, same[path])
    blocks = [drawn[name]["attn"]["o"][i] for name in ("llm", "img") for i in range(2)]
    assert all(np.abs(a - b).max() > 0 for i, a in enumerate(blocks) for b in blocks[:i])  # each has its own


def test_width_with_zeros_of_two_equal_parents_says_twice_what_they_say() -> None:
    """Both halves of the width run as the parent does, and the tied output adds what they say."""
    for config in (DECODER, OPT_LIKE):
        llm = parent(config, 1)
        wide, fused = width.fuse(config, leaves(llm), leaves(llm), "zero")
        found = forward(wide, whole(fused), TOKENS)[0]
        np.testing.assert_allclose(found, 2 * forward(config, llm, TOKENS)[0], rtol=1e-4, atol=1e-4)


def test_width_with_zeros_keeps_each_parent_to_its_half() -> None:
    llm, img = parent(DECODER, 1), parent(DECODER, 2)
    q = fused_by(width.fuse, DECODER, llm, img, "zero")["layers"]["attn"]["q"]
    D, N = DECODER.width, DECODER.heads
    np.testing.assert_array_equal(q[:, :D, :N], llm["layers"]["attn"]["q"])
    np.testing.assert_array_equal(q[:, D:, N:], img["layers"]["attn"]["q"])
    assert not q[:, :D, N:].any() and not q[:, D:, :N].any()
