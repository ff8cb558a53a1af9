"""Inception V3 (arXiv 1512.00567) as the Fréchet Inception Distance takes it: pictures → features of width 2048.

What FID is (arXiv 1706.08500) is what the network of TensorFlow's release of December 2015 computes, and that differs
from the paper's: averages over a picture's edge leave the padding out, and the last block takes a maximum where the one
before it takes an average. The features are the means over positions before the classifier, which is not here.
Names are torchvision's, under which its converted weights are published; `[B, H, W, C]` in and out.
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jam_jax.model_config import InceptionConfig
from jam_jax.models.layers import Params
from jam_jax.sharding import shard

NORM_EPS = 1e-3
FIRST = 32  # channels of the first convolution, which the widths below are for


class Step(NamedTuple):
    """A convolution, a norm with the mean and variance of its training, and a ReLU."""

    name: str
    features: int
    size: tuple[int, int] = (1, 1)
    stride: int = 1  # more than 1: without padding


Chain = tuple[Step | tuple[Step, ...], ...]  # one after another; those in brackets side by side, and joined
Pool = Literal["average", "maximum", "reduce"]  # over 3 x 3; "reduce" is a maximum that halves the side


class Block(NamedTuple):
    """Branches side by side, joined by their channels; the last one is the pool, with a convolution or without."""

    branches: tuple[Chain, ...]
    pool: Pool
    pooled: int = 0  # channels of the convolution behind the pool; 0: there is none


def _block_a(pooled: int) -> Block:
    dbl = (Step("branch3x3dbl_1", 64), Step("branch3x3dbl_2", 96, (3, 3)), Step("branch3x3dbl_3", 96, (3, 3)))
    fives = (Step("branch5x5_1", 48), Step("branch5x5_2", 64, (5, 5)))
    return Block(((Step("branch1x1", 64),), fives, dbl), "average", pooled)


def _block_c(inner: int) -> Block:
    sevens = (
        Step("branch7x7_1", inner),
        Step("branch7x7_2", inner, (1, 7)),
        Step("branch7x7_3", 192, (7, 1)),
    )
    dbl = (
        Step("branch7x7dbl_1", inner),
        Step("branch7x7dbl_2", inner, (7, 1)),
        Step("branch7x7dbl_3", inner, (1, 7)),
        Step("branch7x7dbl_4", inner, (7, 1)),
        Step("branch7x7dbl_5", 192, (1, 7)),
    )
    return Block(((Step("branch1x1", 192),), sevens, dbl), "average", 192)


def _block_e(pool: Pool) -> Block:
    def fork(name: str) -> tuple[Step, Step]:
        return Step(f"{name}a", 384, (1, 3)), Step(f"{name}b", 384, (3, 1))

    threes = (Step("branch3x3_1", 384), fork("branch3x3_2"))
    dbl = (Step("branch3x3dbl_1", 448), Step("branch3x3dbl_2", 384, (3, 3)), fork("branch3x3dbl_3"))
    return Block(((Step("branch1x1", 320),), threes, dbl), pool, 192)


STEM: tuple[Step | None, ...] = (  # None: a maximum over 3 x 3 that halves the side
    Step("Conv2d_1a_3x3", 32, (3, 3), 2),
    Step("Conv2d_2a_3x3", 32, (3, 3)),
    Step("Conv2d_2b_3x3", 64, (3, 3)),
    None,
    Step("Conv2d_3b_1x1", 80),
    Step("Conv2d_4a_3x3", 192, (3, 3)),
    None,
)
UNPADDED = ("Conv2d_2a_3x3", "Conv2d_4a_3x3")  # with stride 1
BLOCKS: dict[str, Block] = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": Block(
        (
            (Step("branch3x3", 384, (3, 3), 2),),
            (
                Step("branch3x3dbl_1", 64),
                Step("branch3x3dbl_2", 96, (3, 3)),
                Step("branch3x3dbl_3", 96, (3, 3), 2),
            ),
        ),
        "reduce",
    ),
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": Block(
        (
            (Step("branch3x3_1", 192), Step("branch3x3_2", 320, (3, 3), 2)),
            (
                Step("branch7x7x3_1", 192),
                Step("branch7x7x3_2", 192, (1, 7)),
                Step("branch7x7x3_3", 192, (7, 1)),
                Step("branch7x7x3_4", 192, (3, 3), 2),
            ),
        ),
        "reduce",
    ),
    "Mixed_7b": _block_e("average"),
    "Mixed_7c": _block_e("maximum"),
}


class Inception(nn.Module):
    """Pictures [B, R, R, 3] from -1 to 1 → features [B, 64 channels] float32."""

    config: InceptionConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = self.config.channels
        for step in STEM:
            if step is None:
                x = _pooled(x, "reduce")
            else:
                padded = step.stride == 1 and step.name not in UNPADDED
                x = Convolution(step, channels, padded, name=step.name)(x)
        for name, block in BLOCKS.items():
            x = shard(Mixed(block, channels, name=name)(x), "batch", None, None, None)
        return x.mean((1, 2))


class Mixed(nn.Module):
    """One block: [B, H, W, C] → its branches joined."""

    block: Block
    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def run(step: Step, x: jax.Array) -> jax.Array:
            return Convolution(step, self.channels, step.stride == 1, name=step.name)(x)

        found = []
        for chain in self.block.branches:
            y = x
            for step in chain:
                y = run(step, y) if isinstance(step, Step) else _joined(run(each, y) for each in step)
            found.append(y)
        y = _pooled(x, self.block.pool)
        found.append(run(Step("branch_pool", self.block.pooled), y) if self.block.pooled else y)
        return _joined(found)


class Convolution(nn.Module):
    """A step, with features in proportion to the first convolution's channels."""

    step: Step
    channels: int
    padded: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = self.step.features * self.channels // FIRST
        init = nn.initializers.zeros  # never used: the network is only read
        kernel = self.param("kernel", init, (*self.step.size, x.shape[-1], features))
        leaves = ("scale", "bias", "mean", "variance")
        scale, bias, mean, variance = (self.param(name, init, (features,)) for name in leaves)
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(self.step.stride, self.step.stride),
            padding="SAME" if self.padded else "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.HIGHEST,  # a distance of small figures: not by halves, as TPUs would
        )
        return nn.relu((y - mean) * (jax.lax.rsqrt(variance + NORM_EPS) * scale) + bias)


def _joined(parts: Iterable[jax.Array]) -> jax.Array:
    return jnp.concatenate(list(parts), axis=-1)


def _pooled(x: jax.Array, pool: Pool) -> jax.Array:
    """Over 3 x 3 positions, of which those outside the picture do not count."""
    if pool != "average":
        stride, padding = ((2, 2), "VALID") if pool == "reduce" else ((1, 1), "SAME")
        return nn.max_pool(x, (3, 3), stride, padding)
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def shapes(config: InceptionConfig) -> Params:
    """The parameters as ShapeDtypeStructs, of float32."""
    side = config.resolution
    found: Any = jax.eval_shape(lambda: Inception(config).init(jax.random.key(0), jnp.zeros((1, side, side, 3))))
    return found["params"]


def features(config: InceptionConfig, params: Params, pictures: jax.Array) -> jax.Array:
    """Pictures [B, R, R, 3] from -1 to 1, as `data.inception_pictures` makes them → [B, 64 channels] float32.

    ValueError for pictures of another size than the config's.
    """
    side = config.resolution
    if pictures.ndim != 4 or pictures.shape[1:] != (side, side, 3):
        raise ValueError(f"this Inception reads pictures [B, {side}, {side}, 3], got {list(pictures.shape)}")
    found: Any = Inception(config).apply({"params": params}, pictures)
    return found
