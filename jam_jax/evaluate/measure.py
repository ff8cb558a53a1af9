"""The `perplexity` command: what it is given, what it opens on the mesh, and what it says and writes."""

import dataclasses
import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jam_jax import config, hosts
from jam_jax.config import MeshConfig
from jam_jax.data.settings import ReadSettings

if TYPE_CHECKING:
    from jam_jax.data.tokenizers import Tokenizer
    from jam_jax.evaluate.documents import Documents
    from jam_jax.evaluate.sums import Perplexity as Sums
    from jam_jax.tokens import TokenSpace


@dataclasses.dataclass(frozen=True)
class Perplexity(ReadSettings):
    """Perplexity on the documents of a token store or of a dataset: over text, over images, over all targets.

    docs/evaluation.md says what exactly is scored. In several processes, and on any mesh, the figures are the same.
    """

    model: str  # model directory
    store: str = ""  # token store
    source: str = ""  # or a dataset, as `jam_jax.data tokenize` takes it, tokenized for the model; held in memory
    split: str = "test"  # of the dataset
    out: str = ""  # JSON file to write; empty: print only
    limit: int = 0  # documents to read, the first ones; 0: all
    context: int = 0  # tokens that are read at once at most; 0: as many as the model has positions
    stride: int = 0  # new tokens of each window of a longer document, after the first; 0: half of the context
    batch_tokens: int = 8192  # of a batch, on each device that has rows of its own
    neighbours: str = ""  # neighbour table of the store, whose documents go before each one; empty: none do
    retrieved: int = 2  # of them, at most
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.store) == bool(self.source):
            given = "both" if self.store else "none"
            raise ValueError(f"give --store, or --source for data that is not tokenized yet; got {given}")
        if self.neighbours and not self.store:
            raise ValueError("--neighbours is the table of a store: tokenize the source first, and give --store")
        for name in ("limit", "context", "stride"):
            if (value := getattr(self, name)) < 0:
                raise ValueError(f"--{name} must be 0 (the default) or more, got {value}")
        if self.batch_tokens < 1:
            raise ValueError(f"--batch-tokens must be at least 1, got {self.batch_tokens}")
        if self.retrieved < 1:
            raise ValueError(f"--retrieved must be at least 1, got {self.retrieved}: for none leave --neighbours out")


def run(options: Perplexity) -> None:
    """The command; every process of a run does it, the first one writes."""
    from jam_jax import checkpoint, sharding, tokens
    from jam_jax.evaluate.documents import text_bytes
    from jam_jax.evaluate.perplexity import Reading, perplexity
    from jam_jax.models import model

    reading = Reading(options.context, options.stride, options.batch_tokens)
    with hosts.together():
        model_config = model.require_language(checkpoint.read_model_config(options.model), options.model)
        directory = checkpoint.tokenizer_dir(options.model)
        space = tokens.load(directory)
        if model_config.vocab_size != space.vocab_size:
            raise ValueError(
                f"{options.model} has {model_config.vocab_size} vocabulary rows, its tokenizer {space.vocab_size}"
            )
        size, stride = reading.of(model_config)
        tokenizer, reason = _tokenizer(directory, required=bool(options.source))
        documents = _documents(options, space, tokenizer, size)
    count = None
    if hosts.all_say(tokenizer is not None):
        assert tokenizer is not None, "every process has one"
        count = text_bytes(tokenizer)
        if options.source and space.draws:
            _ = tokenizer.image  # every process takes part in opening it, also one whose documents have no picture
    elif hosts.first():
        reason = reason or "another process cannot open the tokenizer"
        print(f"bits per byte are left out: {reason}", file=sys.stderr)
    mesh = sharding.make_mesh(options.mesh)
    shapes = model.shapes(model_config)
    sharding.require_divisible(mesh, shapes)
    _, params = checkpoint.load_model(options.model, shardings=sharding.parameter_shardings(mesh, shapes))
    began = time.monotonic()
    what = options.store or f"{options.source} ({options.split})"
    found = perplexity(
        *(model_config, params, space, documents),
        reading=reading,
        mesh=mesh,
        text_bytes=count,
        task="perplexity",
    )
    took = time.monotonic() - began
    if found.empty and hosts.first():
        print(
            f"{what}: {found.empty} documents hold no token to predict and are left out, "
            f"the first is document {found.first_empty}",
            file=sys.stderr,
        )
    found.require_finite(f"{options.model} on {what}")
    values: dict[str, Any] = {"model": options.model, "store": options.store, "source": options.source}
    values |= {"split": options.split} if options.source else {}
    values |= {"neighbours": options.neighbours, "context": size, "stride": stride}
    values |= figures(found) | {"seconds": took, "tokens_per_second": sum(found.count) / took}
    _say(f"{options.model} on {what}", values)
    write(options.out, values)


def write(out: str, values: dict[str, Any]) -> None:
    """Write figures as a JSON file, if there is to be one; by the first process."""
    if out and hosts.first():
        path = Path(out)
        path.parent.mkdir(parents=True, exist_ok=True)
        config.write_whole(path, json.dumps(_plain(values), indent=1) + "\n")


def _tokenizer(directory: Path, *, required: bool) -> "tuple[Tokenizer | None, str]":
    """The tokenizer of a model directory; None, and why, where it cannot be opened and need not."""
    from jam_jax.data.tokenizers import open_tokenizer

    try:
        return open_tokenizer(directory), ""
    except ValueError as error:
        if required:
            raise
        return None, str(error)


def _documents(options: Perplexity, space: "TokenSpace", tokenizer: "Tokenizer | None", positions: int) -> "Documents":
    """The documents that are measured."""
    from jam_jax.data import formats
    from jam_jax.data.store import Store
    from jam_jax.evaluate import documents

    if options.store:
        store = Store(options.store)
        store.check(space)
        before = None
        if options.neighbours:
            before = documents.neighbours(options.neighbours, store, space, options.retrieved, positions)
        return documents.of_records(store, before, options.limit or None)
    assert tokenizer is not None, "a source is read with a tokenizer"
    source = formats.open_source(options.source, options.split, options)
    print(f"{source.name}: taken for {source.taken_for}")
    return documents.of_source(source, tokenizer, options.limit)


def figures(found: "Sums") -> dict[str, Any]:
    """The figures as JSON holds them; None where there is none, as of pictures in a store without any."""
    from jam_jax.evaluate.sums import GROUPS, SHOWN

    values: dict[str, Any] = {"documents": found.documents, "empty_documents": found.empty}
    values |= {name: found.over(*of) for name, of in SHOWN.items()}
    values["within_modality"] = {name: found.over(*of, softmax="modality") for name, of in SHOWN.items()}
    values["standard_error"] = {name: found.error(*of) for name, of in SHOWN.items()}
    values["standard_error_within_modality"] = {n: found.error(*of, softmax="modality") for n, of in SHOWN.items()}
    values["bits_per_byte"] = found.bits_per_byte()
    values["bits_per_byte_within_modality"] = found.bits_per_byte("modality")
    values["text_bytes"] = found.bytes
    values["targets"] = dict(zip(GROUPS, found.count, strict=True))
    values["nll"] = dict(zip(GROUPS, found.nll, strict=True))
    values["nll_within_modality"] = dict(zip(GROUPS, found.within, strict=True))
    values["by_group"] = {
        group: {
            "perplexity": found.over(group),
            "standard_error": found.error(group),
            "perplexity_within_modality": found.over(group, softmax="modality"),
            "standard_error_within_modality": found.error(group, softmax="modality"),
        }
        for group in GROUPS
    }
    return _plain(values)


def _plain(value: Any) -> Any:
    """JSON knows no nan and no infinity."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _say(what: str, values: dict[str, Any]) -> None:
    """Two lines: the perplexities, and what else there is to know of them."""
    within, errors = values["within_modality"], values["standard_error"]
    there = [name for name in within if values[name] is not None]
    shown = ", ".join(f"{name} {values[name]:.3f}" for name in there)
    print(f"{what} ({values['documents']} documents): perplexity {shown}")
    more = ["by a softmax over the target's modality " + ", ".join(f"{name} {within[name]:.3f}" for name in there)]
    if known := [f"{name} {errors[name]:.4f}" for name in there if errors[name] is not None]:
        more.append("standard error of the mean nll " + ", ".join(known))
    if values["bits_per_byte"] is not None:
        more.append(f"{values['bits_per_byte']:.4f} bits per byte of text")
    tokens = sum(values["targets"].values())
    print("  " + "; ".join(more) + f"; {tokens:,} tokens, {values['tokens_per_second']:,.0f} tokens/s", flush=True)
