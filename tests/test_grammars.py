"""The table of vocabularies: ids are found by name, what is missing is named, and every row writes its pictures."""

import dataclasses
from collections.abc import Sequence
from typing import get_args

import pytest
import vocabularies

from jam_jax import tokens
from jam_jax.convert.vocabulary import Grammars
from jam_jax.data import grammars
from jam_jax.data.grammars import GRAMMARS, RESERVED
from jam_jax.tokens import CODE, IMAGE, SPECIAL, TEXT, TokenSpace

DRAWING = [name for name, row in GRAMMARS.items() if row.opening]


def vocabulary(row: str, seed: int | None = 0, without: tuple[str, ...] = ()) -> tuple[list[str | None], set[int]]:
    """Names by id, and the ids that the file would take for text."""
    contents = vocabularies.of_row(row, seed=seed, without=without)
    ids = contents["model"]["vocab"]
    names: list[str | None] = [None] * (max(ids.values()) + 1)
    for name, i in ids.items():
        names[i] = name
    return names, set(ids.values()) - {t["id"] for t in contents["added_tokens"] if t["special"]}


def space(row: str, seed: int | None = 0, rows: int | None = None) -> tuple[TokenSpace, list[str | None]]:
    names, text = vocabulary(row, seed)
    return grammars.token_space(row, names, text, rows or len(names) + GRAMMARS[row].appended), names


def said(names: Sequence[str | None], ids: Sequence[int]) -> list[str]:
    """Names of ids; a code is CODE."""
    return ["CODE" if i == CODE else str(names[i]) for i in ids]


@pytest.mark.parametrize("row", GRAMMARS)
def test_ids_come_from_names_whatever_their_order(row: str) -> None:
    for seed in (None, 1, 2):
        found, names = space(row, seed)
        g = GRAMMARS[row]
        assert names[found.end_of_document] == g.end and names[found.pad] == g.pad
        assert names[found.start] == (g.start or g.end)
        assert [names[i] for i in found.sentinel_ids] == list(g.sentinels[:4])
        if g.codes:
            assert [names[i] for i in found.image_ids] == [g.codes.name(code) for code in range(16)]
            # Numbers that follow from ids are wrong as soon as these are others.
            assert (found.image_ids == tuple(range(found.image_ids[0], found.image_ids[0] + 16))) == (seed is None)
        modality = found.modality
        for i, name in enumerate(names):
            if name in vocabularies.marks(row):
                assert modality[i] == (IMAGE if i in found.image_ids else SPECIAL), name
            else:
                assert modality[i] == (SPECIAL if RESERVED.fullmatch(name or "") else TEXT), name
        assert TokenSpace.from_json(found.to_json()) == found


@pytest.mark.parametrize("row", GRAMMARS)
def test_rows_past_the_tokens_are_special(row: str) -> None:
    found, names = space(row)
    appended = GRAMMARS[row].appended
    padded, _ = space(row, rows=len(names) + appended + 7)
    assert padded == dataclasses.replace(found, vocab_size=found.vocab_size + 7)
    assert (padded.modality[-7:] == SPECIAL).all() and (padded.code_of_id[-7:] == -1).all()
    with pytest.raises(ValueError, match=f"the token .* has the id {len(names) - 1}, but the embedding has"):
        grammars.token_space(row, *vocabulary(row), len(names) - 1)


@pytest.mark.parametrize("row", GRAMMARS)
def test_a_missing_token_is_named(row: str) -> None:
    g = GRAMMARS[row]
    needed = {g.start, g.end, g.pad, g.row_end, g.end_of_image, *g.question_end, *g.closing, *g.unconditional} - {""}
    for name in sorted(needed | ({"IMGIMGDZ"} if g.codes and g.codes.before == "IMGIMG" else set())):
        names, text = vocabulary(row)
        names[names.index(name)] = None
        with pytest.raises(ValueError, match=f"no token {name!r}".replace("|", r"\|")) as error:
            grammars.token_space(row, names, text, len(names) + g.appended)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("row", GRAMMARS)
def test_a_vocabulary_is_recognised_by_its_tokens(row: str) -> None:
    names, _ = vocabulary(row)
    settings = GRAMMARS[row].settings[:1] if row == "lumina" else ("model_type",)
    assert grammars.recognise(names, settings) == row


def test_what_is_not_known_says_what_is() -> None:
    with pytest.raises(ValueError, match="none that is known here .*lumina, chameleon, emu3.*with --grammar"):
        grammars.recognise(["a", "b"], ())
    with pytest.raises(ValueError, match="there is no grammar 'x': choose one of lumina"):
        grammars.token_space("x", ["a"], {0}, 1)
    assert set(get_args(Grammars)) == set(GRAMMARS)  # what the command offers


def test_infilling_takes_tokens_that_nobody_uses_or_is_refused() -> None:
    for row in GRAMMARS:
        found, _ = space(row)
        if row in ("llama", "opt"):
            with pytest.raises(ValueError, match="which the CM3 objective needs"):
                found.require_infill()
            assert found.sentinels == () and found.question_end == ()
        else:
            found.require_infill()
            others = {found.start, found.end_of_document, found.pad, found.start_of_image, found.end_of_image}
            assert others.isdisjoint({*found.sentinel_ids, found.end_of_infill})


PICTURES = {
    "chameleon": (["<racm3:break>", *["CODE"] * 4], ["<eoss>"]),
    "lumina": (
        ["<racm3:break>", "<reserved08801>", "<reserved08801>", *["CODE", "CODE", "<reserved08799>"] * 2],
        ["<eoss>"],
    ),
    "emu3": (
        ["<|image start|>", "2", "*", "2", "<|image token|>", *["CODE", "CODE", "<|extra_200|>"] * 2, "<|extra_201|>"],
        ["<|image end|>"],
    ),
    "liquid": (["<boi>", *["CODE"] * 4], ["<eoi>"]),
    "simplear": (["<|soi|>", *["CODE"] * 4], ["<|vision_end|>", "<|endoftext|>"]),
}


@pytest.mark.parametrize("row", DRAWING)
def test_pictures_are_laid_out_as_the_projects_write_them(row: str) -> None:
    bare, names = space(row)
    assert not bare.draws
    with pytest.raises(ValueError, match="no image tokenizer yet"):
        bare.require_pictures()
    drawn = grammars.draw_with(bare, row, names, lambda text: [names.index(c) for c in text], 2)
    layout, closers = PICTURES[row]
    assert said(names, drawn.picture_layout) == layout
    assert said(names, drawn.picture_closers) == closers
    assert drawn.codes_per_image == 4 and drawn.start_of_image == drawn.picture_layout[0]


def test_sizes_that_a_vocabulary_cannot_say_are_told() -> None:
    lumina, names = space("lumina")
    with pytest.raises(ValueError, match="sides of a multiple of 2 codes, not 3"):
        grammars.draw_with(lumina, "lumina", names, list, 3)
    with pytest.raises(ValueError, match="no token '<reserved08816>'"):  # 512 pixels
        grammars.draw_with(lumina, "lumina", names, list, 32)
    llama, names = space("llama")
    with pytest.raises(ValueError, match="no image codes"):
        grammars.draw_with(llama, "llama", names, list, 2)
    with pytest.raises(ValueError, match="no image codes: a picture needs a model that draws"):
        llama.require_pictures()


def test_codes_without_names_follow_the_tokens() -> None:
    found, names = space("liquid")
    assert found.image_ids == tuple(range(len(names), len(names) + 8192))
    with pytest.raises(ValueError, match=f"{len(names)} tokens and 8192 image codes of liquid need"):
        space("liquid", rows=len(names) + 8191)


def test_names_of_codes_are_numbers_in_letters_or_digits() -> None:
    codes = grammars.CHAMELEON_CODES
    assert [codes.name(n) for n in (0, 9, 10, 5432)] == ["IMGIMGAZ", "IMGIMGJZ", "IMGIMGBAZ", "IMGIMGFEDCZ"]
    assert [codes.code(n) for n in ("IMGIMGAZ", "IMGIMGFEDCZ", "IMGIMGABZ", "IMGIMGZ", "IMG")] == [0, 5432] + [None] * 3
    emu3 = GRAMMARS["emu3"].codes
    assert emu3 is not None and emu3.name(32767) == "<|visual token 032767|>"
    assert [emu3.code(n) for n in ("<|visual token 032767|>", "<|visual token 7|>")] == [32767, None]


@pytest.mark.parametrize(
    ("row", "start", "question", "blank"),
    [
        ("chameleon", "<s>", ["<reserved08706>"], ["<s>"]),
        ("lumina", "<s>", ["<reserved08706>"], ["<s>"]),
        ("emu3", "<|extra_203|>", ["<|extra_1|>", "<|extra_204|>"], ["<|extra_203|>"]),
        ("liquid", "<bos>", ["<unused3>", "<eos>"], ["<bos>", "<unconditional>"]),
        ("simplear", "<|t2i|>", ["<|object_ref_start|>", "<|endoftext|>"], ["<|t2i|>"]),
        ("llama3", "<|begin_of_text|>", ["<|reserved_special_token_10|>", "<|end_of_text|>"], None),
        ("opt", "</s>", [], ["</s>"]),
    ],
)
def test_what_stands_around_documents(row: str, start: str, question: list[str], blank: list[str] | None) -> None:
    found, names = space(row)
    assert said(names, [found.start]) == [start]
    assert said(names, found.question_end) == question
    assert said(names, found.blank) == (blank or [start, question[0]])
    assert found.before_record == ((found.end_of_document,) if found.start == found.end_of_document else ())


def test_runs_of_ids_go_there_and_back() -> None:
    for ids in ([], [5], [5, 6, 7, 2], [3, 1, 2, 9, 10]):
        assert tokens.ids_of(tokens.runs(ids)) == ids
    assert tokens.runs([5, 6, 7, 2]) == (5, 8, 2, 3)
