"""Floating-point operations of a model: what one token costs in training, whatever a program spends on it.

The convention of the project's utilisation figures: a product of matrices counts twice its multiplications, the
backward pass twice the forward pass, causal attention half of all pairs, and what is computed again in the backward
pass nothing. Looking up embeddings, norms and activations count nothing either.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

from jam_jax.config import CrossConfig, DecoderConfig

# In the words of a run's output.
CONVENTION = (
    "6 operations for each weight and token (4 where it is frozen), causal attention counted half, what is computed "
    "again not at all"
)


def per_token(config: DecoderConfig | CrossConfig, length: int, frozen: int = 0) -> int:
    """Operations of the forward and the backward pass on one token of a row of `length`.

    `frozen`: weights in products of matrices that are not trained, whose own gradients nobody computes.
    """
    blocks = [(c, c.layers) for c in config.decoders]
    width = config.decoders[-1].width
    products = config.vocab_size * width
    if isinstance(config, CrossConfig):
        blocks += [(c, config.cross_blocks) for c in config.decoders]
        products += 2 * width * width  # the projection of both towers' states to one
    products += sum(count * _products(c) for c, count in blocks)
    # Scores and their weighted sum of values: two products of H numbers for each head and each of length / 2 tokens.
    pairs = sum(count * c.heads * c.head_size * length for c, count in blocks)
    return 6 * (products + pairs) - 2 * frozen


def _products(config: DecoderConfig) -> int:
    """Multiplications of one token with the matrices of one block."""
    attention = config.width * config.head_size * 2 * (config.heads + config.key_value_heads)
    return attention + config.width * config.ffn_width * (3 if config.ffn.endswith("gated") else 2)


def of_program(jaxpr: Any, devices: int) -> int:
    """Operations of all products of matrices in a traced program, over all devices, with what it computes again.

    jaxpr: a jaxpr, or a closed one. Kernels that JAX cannot look into count as causal attention.
    """
    total = 0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            contracted = math.prod(equation.invars[0].aval.shape[i] for i in params["dimension_numbers"][0][0])
            total += 2 * contracted * equation.outvars[0].aval.size
        elif name in _ATTENTION:
            total += _ATTENTION[name] * _causal(equation)
        elif name == "pallas_call":
            total += (
                (4 if "fwd" in str(params.get("name", "")) or len(equation.outvars) < 3 else 10)
                // 2
                * _causal(equation)
            )
        elif name == "cond":
            total += max(of_program(branch, devices) for branch in params["branches"])
        else:
            # The shapes inside a shard_map are one device's.
            times = params["length"] if name == "scan" else devices if name == "shard_map" else 1
            total += times * sum(of_program(inner, devices) for inner in _inner(params.values()))
    return total


# Of cuDNN's kernels: products of queries' and keys' numbers forward and backward, half of whose pairs are hidden.
_ATTENTION = {"dot_product_attention_fwd_wrapper": 2, "dot_product_attention_bwd_wrapper": 5}


def _causal(equation: Any) -> int:
    """Pairs of a kernel's queries and keys, times the numbers of a head: of q [B, T, N, H] or [B, N, T, H]."""
    shape = max((v.aval.shape for v in equation.invars if len(v.aval.shape) == 4), key=math.prod)
    return math.prod(shape) * max(shape[1:3])


def _inner(values: Iterable[Any]) -> Iterator[Any]:
    """The programs inside an equation's parameters."""
    for value in values:
        if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
            yield value
        elif isinstance(value, tuple | list):
            yield from _inner(value)
