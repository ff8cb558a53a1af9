"""Do two parents fit each other? One comparison for every fusion, made before any weight is read.

What changes the shape of a weight keeps two parents apart. What changes only how weights are used (an activation, the
base of the rotary positions) does not: a fusion is trained on, so that is for the user to judge, and is said.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from jam_jax.config import DecoderConfig, ModelConfig
from jam_jax.model_config import RopeScaling
from jam_jax.models import model
from jam_jax.tokens import TokenSpace

OTHER_SHAPES = "the weights have other shapes"
NOT_SHARED = "Cross keeps each parent's, Uniform and Width take the image parent's"


Verdict = Literal["fits", "warning", "error"]
FITS: tuple[Verdict, str] = ("fits", "")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the comparison."""

    name: str
    llm: str
    img: str
    verdict: Verdict
    note: str = ""

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note not in ("", OTHER_SHAPES) else ""
        return f"{self.name}: the LLM has {self.llm}, the image parent {self.img}{note}"


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What a parent's ids mean: the token space, and the token of every id (None for padded rows)."""

    space: TokenSpace
    names: Sequence[str | None]


def compare(
    llm: ModelConfig, img: ModelConfig, llm_ids: Vocabulary | None = None, img_ids: Vocabulary | None = None
) -> list[Row]:
    """All that two parents could differ in; the rows whose verdict is `error` keep them apart."""
    return [*compare_configs(llm, img), *compare_ids(llm_ids, img_ids)]


def compare_configs(llm: ModelConfig, img: ModelConfig) -> list[Row]:
    """A row per field of the config; one row alone where a parent is no plain decoder."""
    if not isinstance(llm, DecoderConfig) or not isinstance(img, DecoderConfig):
        names = type(llm).__name__, type(img).__name__
        return [Row("kind", *names, "error", "only plain decoders can be fused: fuse the parents of a fusion instead")]
    rows = []
    for field in dataclasses.fields(DecoderConfig):
        if field.name not in model.RUN_TIME:
            ours, theirs = _value(llm, field.name), _value(img, field.name)
            judged = _judge(llm, img, field.name) if ours != theirs else FITS
            rows.append(Row(field.name, _shown(ours), _shown(theirs), *judged))
    return rows


def _value(config: DecoderConfig, name: str) -> object:
    return config.key_value_heads if name == "kv_heads" else getattr(config, name)


def _shown(value: object) -> str:
    if not isinstance(value, RopeScaling):
        return str(value)
    return value.form if value.form == "none" else ", ".join(map(str, dataclasses.astuple(value)))


def _judge(llm: DecoderConfig, img: DecoderConfig, name: str) -> tuple[Verdict, str]:
    if name == "vocab_size":
        if llm.vocab_size < img.vocab_size:
            return "warning", f"rows {llm.vocab_size} to {img.vocab_size - 1} come from the image parent alone"
        return "error", "the image parent's embedding must have all of the LLM's rows"
    changed: dict[str, Any] = {name: _value(llm, name)}
    base = dataclasses.replace(img, kv_heads=None) if name == "heads" else img
    try:
        same_shapes = _shapes(dataclasses.replace(base, **changed)) == _shapes(base)
    except ValueError:  # no decoder has both
        same_shapes = False
    if not same_shapes:
        return "error", OTHER_SHAPES
    if name == "max_positions":
        return "warning", "the fusion has the smaller number"
    return "warning", NOT_SHARED


def _shapes(config: DecoderConfig) -> dict:
    import jax

    return jax.tree.map(lambda leaf: leaf.shape, model.shapes(config))


def compare_ids(llm: Vocabulary | None, img: Vocabulary | None) -> list[Row]:
    """What an id means to each parent, over the ids that both have."""
    if llm is None or img is None:
        held = ("none" if llm is None else "its own", "none" if img is None else "its own")
        return [Row("tokenizer", *held, "warning", "what the ids mean was not compared")]
    rows = []
    both = [(i, a, b) for i, (a, b) in enumerate(zip(llm.names, img.names, strict=False)) if a and b]
    other = [(i, a, b) for i, a, b in both if a != b]
    if other:
        i, a, b = other[0]
        note = f"{len(other)} of {len(both)} ids are other tokens, first {i}"
        # A few names differ where a parent took unused tokens for its pictures; most, where it is another vocabulary.
        rows.append(Row("token names", repr(a), repr(b), "error" if 2 * len(other) > len(both) else "warning", note))
    else:
        rows.append(Row("token names", f"{len(both)}", f"{len(both)}", "fits"))
    padded = [sum(name is None for name in parent.names) for parent in (llm, img)]
    same = padded[0] == padded[1]
    note = "" if same else "padded rows are mixed like all others"
    rows.append(Row("padded rows", str(padded[0]), str(padded[1]), "fits" if same else "warning", note))
    for what, ours, theirs in (
        ("image codes", llm.space.image_ids, img.space.image_ids),
        ("picture layout", llm.space.picture_layout, img.space.picture_layout),
    ):
        if ours and theirs:  # a parent that only writes has none
            verdict: Verdict = "fits" if ours == theirs else "error"
            note = "" if ours == theirs else "pictures are written with other ids"
            rows.append(Row(what, str(len(ours)), str(len(theirs)), verdict, note))
    if llm.space.draws and img.space.draws and llm.space.contents != img.space.contents:
        note = "the text pieces or the image tokenizers are not the same files"
        rows.append(Row("contents", llm.space.contents, img.space.contents, "warning", note))
    return rows


def errors(rows: list[Row]) -> None:
    """ValueError with every misfit in one line, if there are any."""
    if misfits := [str(row) for row in rows if row.verdict == "error"]:
        raise ValueError("these parents cannot be fused: " + "; ".join(misfits))
