"""Operations by hand, and the count of a traced program against them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jam_jax import flops, optim, train_step
from jam_jax.config import CrossConfig, OptimConfig
from jam_jax.hardware import HARDWARE, by_kind
from jam_jax.models import model
from jam_jax.trees import paths
from tests.tiny import CROSS, DECODER, LLAMA_LIKE


def test_a_token_costs_six_operations_for_each_weight_and_pair() -> None:
    for config in (DECODER, LLAMA_LIKE, CROSS):
        weights = sum(
            leaf.size
            for path, leaf in paths(model.shapes(config)).items()
            if not path.endswith(("positions", "scale", "bias")) and path != "unembed"
        )
        blocks = sum(c.layers for c in config.decoders)
        if isinstance(config, CrossConfig):
            blocks += 2 * config.cross_blocks
        pairs = blocks * 4 * 6 * 32  # heads, their size, and twice the half of a row's length
        assert flops.per_token(config, 32) == 6 * (weights + pairs)


def test_a_frozen_weight_costs_four_operations() -> None:
    shapes = model.shapes(CROSS)
    chosen = optim.trained(OptimConfig(train_only=("cross/.*",)), shapes, np.zeros(CROSS.vocab_size, np.int8))
    towers = sum(leaf.size for path, leaf in paths(shapes).items() if path.startswith(("llm/", "img/")))
    head = CROSS.vocab_size * DECODER.width
    frozen = train_step.frozen(shapes, chosen)
    assert frozen == towers + head + 2 * DECODER.width**2
    assert flops.per_token(CROSS, 32, frozen) == flops.per_token(CROSS, 32) - 2 * frozen
    everything = optim.trained(OptimConfig(), shapes, np.zeros(CROSS.vocab_size, np.int8))
    assert train_step.frozen(shapes, everything) == 0


def test_a_program_costs_what_it_multiplies() -> None:
    """Loops count as often as they run; recomputation counts; a forward pass has a third of the model's operations."""

    def loss(params: dict, tokens: jax.Array) -> jax.Array:
        return model.forward(config, params, tokens)[0].sum()

    params = model.shapes(DECODER)
    tokens = jax.ShapeDtypeStruct((2, 32), jnp.int32)
    counts = {}
    for remat in ("none", "full"):
        config = dataclasses.replace(DECODER, remat=remat)
        forward = flops.of_program(jax.make_jaxpr(loss)(params, tokens), 1)
        counts[remat] = flops.of_program(jax.make_jaxpr(jax.grad(loss))(params, tokens), 1)
    hidden = 3 * 4 * 6 * 32 * 64  # pairs that a mask hides are computed all the same
    assert forward == (flops.per_token(DECODER, 32) // 3) * 64 + 2 * hidden
    head = 2 * DECODER.vocab_size * DECODER.width * 64
    assert counts["none"] == 3 * forward
    last = 3 * 2 * DECODER.ffn_width * DECODER.width * 64  # of each layer: nothing in it needs what comes of it
    assert counts["full"] == 4 * forward - head - last


def test_a_device_is_known_by_what_it_calls_itself() -> None:
    assert by_kind("NVIDIA H200") == HARDWARE["h200"]
    assert by_kind("NVIDIA A100-SXM4-80GB") == HARDWARE["a100-80gb"]
    assert by_kind("TPU v5 lite") == HARDWARE["tpu-v5e"]
    assert by_kind("TPU v5") == HARDWARE["tpu-v5p"]
    assert by_kind("cpu") is None
