"""A language model by its config: what every caller uses, whether the model is one decoder or two towers."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jam_jax.config import ClipConfig, CrossConfig, DecoderConfig, InceptionConfig, ModelConfig, VqganConfig, to_dict
from jam_jax.models import cached, cross, decoder
from jam_jax.models.cached import Wanted

LanguageConfig = DecoderConfig | CrossConfig
KINDS: dict[type, str] = {
    **dict.fromkeys((DecoderConfig, CrossConfig), "a language model"),
    **{VqganConfig: "an image tokenizer", ClipConfig: "a CLIP", InceptionConfig: "an Inception network"},
}  # for messages

# Fields that say how a model is run or was started, not what it computes.
RUN_TIME = frozenset({"dtype", "remat", "attention", "init_std", "position_init_std"})
Cache = Any  # what `empty_cache` gives: passed in and handed back, never looked into


def build(config: LanguageConfig) -> nn.Module:
    """The Flax module: `.init(key, tokens)["params"]`, `.apply({"params": params}, tokens, positions)`."""
    return cross.CrossDecoder(config) if isinstance(config, CrossConfig) else decoder.Decoder(config)


def computes_the_same(a: ModelConfig, b: ModelConfig) -> bool:
    """Whether two configs describe one model, however it is run."""

    def essence(values: dict[str, Any]) -> dict[str, Any]:
        kept = {k: v for k, v in values.items() if k not in RUN_TIME}
        return {k: essence(v) if isinstance(v, dict) else v for k, v in kept.items()}

    return essence(to_dict(a)) == essence(to_dict(b))


def require_language(config: ModelConfig, what: str) -> LanguageConfig:
    """The config of a language model; ValueError says that `what` is another kind of model."""
    if isinstance(config, DecoderConfig | CrossConfig):
        return config
    raise ValueError(f"{what} is {KINDS[type(config)]}, not a language model")


def init(config: LanguageConfig, key: jax.Array) -> dict:
    """Random parameters, a nested dict of float32 arrays."""
    # Compiled as one program, from which the forward pass that Linen's init runs falls out as unused.
    return jax.jit(lambda key: build(config).init(key, jnp.zeros((1, 1), jnp.int32))["params"])(key)


def shapes(config: LanguageConfig) -> dict:
    """The parameters' shapes and dtypes, without any memory for them."""
    return jax.eval_shape(lambda: init(config, jax.random.key(0)))


def count(config: LanguageConfig) -> int:
    """Number of parameters, from shapes alone."""
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(config)))


def forward(
    config: LanguageConfig,
    params: dict,
    tokens: jax.Array,
    positions: jax.Array | None = None,
    cache: Cache | None = None,
    wanted: Wanted | None = None,
) -> tuple[jax.Array, Cache | None]:
    """tokens [B, T] int32 → logits [B, T, V] float32 and the cache, updated at `positions`.

    Without a cache a token sees those before it, back to the last at position 0, where its document begins; with one
    it sees what the slots up to its position hold, and logits that are not `wanted` may be -inf.
    """
    if cache is not None:
        assert positions is not None, "a cache does not know where its tokens end"
        return cached.forward(config, params, tokens, positions, cache, wanted)
    logits: Any = build(config).apply({"params": params}, tokens, positions)
    return logits, None


def states(
    config: LanguageConfig, params: dict, tokens: jax.Array, positions: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """tokens [B, T] int32 → what the output head reads, [B, T, D] in the compute dtype, and its table [V, D].

    Without positions every row is one document from its first token on.
    """
    found: Any = build(config).apply({"params": params}, tokens, positions, head=False)
    return found, params["unembed"] if "unembed" in params else params["embed"]["tokens"]


def empty_cache(config: LanguageConfig, batch: int, slots: int) -> Cache:
    """A cache of `slots` positions for `batch` rows."""
    return cached.empty(config, batch, slots)
