"""One file per family of checkpoints: what its settings mean, and the table of its weights."""

from pathlib import Path
from typing import Literal

from jam_jax.convert.rules import Parent

Importable = Literal["opt", "metaseq"]


def read(source: Path, family: Literal["auto"] | Importable = "auto") -> Parent:
    """The model that `source` (a directory or a file) holds, in the family named or the one that recognises it.

    ValueError if there is nothing, or nothing known.
    """
    from jam_jax.convert.families import metaseq, opt

    if not source.exists():
        raise ValueError(f"there is no checkpoint {source}")
    known = {"opt": opt, "metaseq": metaseq}
    if family != "auto":
        return known[family].read(source)
    for module in known.values():
        if module.recognises(source):
            return module.read(source)
    raise ValueError(
        f"{source} is no checkpoint that is known here: expected Hugging Face's OPT (config.json with model_type opt) "
        "or metaseq's *.pt (with `model` and `cfg`)"
    )
