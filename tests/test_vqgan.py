"""The VQGAN equals taming-transformers' layers written in torch; codes are nearest neighbours; shapes are told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jam_jax import checkpoint
from jam_jax.config import VqganConfig
from jam_jax.models import codebook, vqgan
from tests.tiny import randomise

CONFIG = VqganConfig(
    resolution=16,
    channels=8,
    multipliers=(1, 2, 2),
    res_blocks=2,
    attn_resolutions=(8,),
    groups=4,
    z_channels=6,
    codes=20,
    code_width=5,
)


@pytest.fixture(scope="module")
def params() -> dict:
    return randomise(checkpoint.shapes(CONFIG), std=0.15)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 3)).astype(np.float32)


def conv(p: dict, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
    kernel = torch.tensor(np.asarray(p["kernel"]).transpose(3, 2, 0, 1).copy())
    if stride == 2:  # the original pads the bottom and the right only
        x = F.pad(x, (0, 1, 0, 1))
    padding = kernel.shape[-1] // 2 if stride == 1 else 0
    return F.conv2d(x, kernel, torch.tensor(np.asarray(p["bias"])), stride=stride, padding=padding)


def group_norm(p: dict, x: torch.Tensor) -> torch.Tensor:
    scale, bias = (torch.tensor(np.asarray(p[name])) for name in ("scale", "bias"))
    return F.group_norm(x, CONFIG.groups, scale, bias, eps=1e-6)


def res_block(p: dict, x: torch.Tensor) -> torch.Tensor:
    h = conv(p["conv1"], F.silu(group_norm(p["norm1"], x)))
    h = conv(p["conv2"], F.silu(group_norm(p["norm2"], h)))
    return (conv(p["nin_shortcut"], x) if "nin_shortcut" in p else x) + h


def attention(p: dict, x: torch.Tensor) -> torch.Tensor:
    b, c, h, w = x.shape
    normed = group_norm(p["norm"], x)
    q, k, v = (conv(p[name], normed).reshape(b, c, h * w) for name in ("q", "k", "v"))
    weights = torch.softmax(torch.bmm(q.transpose(1, 2), k) * c**-0.5, dim=2)
    return x + conv(p["proj_out"], torch.bmm(v, weights.transpose(1, 2)).reshape(b, c, h, w))


def middle(p: dict, h: torch.Tensor) -> torch.Tensor:
    return res_block(p["mid_block_2"], attention(p["mid_attn_1"], res_block(p["mid_block_1"], h)))


def levels(p: dict, h: torch.Tensor, way: str, order: list[int], blocks: int) -> torch.Tensor:
    for i in order:
        for j in range(blocks):
            h = res_block(p[f"{way}_{i}_block_{j}"], h)
            if h.shape[-1] in CONFIG.attn_resolutions:
                h = attention(p[f"{way}_{i}_attn_{j}"], h)
        if way == "down" and i < 2:
            h = conv(p[f"down_{i}_downsample"], h, stride=2)
        if way == "up" and i > 0:
            h = conv(p[f"up_{i}_upsample"], F.interpolate(h, scale_factor=2.0, mode="nearest"))
    return h


def last(p: dict, h: torch.Tensor) -> torch.Tensor:
    return conv(p["conv_out"], F.silu(group_norm(p["norm_out"], h)))


def test_the_encoder_equals_the_original_layers(params: dict, pictures: np.ndarray) -> None:
    p = params["encoder"]
    h = levels(p, conv(p["conv_in"], torch.tensor(pictures.transpose(0, 3, 1, 2).copy())), "down", [0, 1, 2], 2)
    expected = conv(params["quant_conv"], last(p, middle(p, h))).permute(0, 2, 3, 1)
    found = jax.jit(vqgan.latents, static_argnums=0)(CONFIG, params, pictures)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_decoder_equals_the_original_layers(params: dict) -> None:
    entries = np.random.default_rng(1).standard_normal((3, 4, 4, 5)).astype(np.float32)
    p = params["decoder"]
    h = conv(p["conv_in"], conv(params["post_quant_conv"], torch.tensor(entries.transpose(0, 3, 1, 2).copy())))
    expected = last(p, levels(p, middle(p, h), "up", [2, 1, 0], 3)).permute(0, 2, 3, 1)
    found = jax.jit(vqgan.pixels, static_argnums=0)(CONFIG, params, entries)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_codes_are_the_nearest_entries_in_reading_order(params: dict, pictures: np.ndarray) -> None:
    z = np.asarray(jax.jit(vqgan.latents, static_argnums=0)(CONFIG, params, pictures), np.float64)
    book = np.asarray(params["codebook"], np.float64)
    expected = np.square(z.reshape(3, 16, 1, 5) - book).sum(-1).argmin(-1)
    codes = jax.jit(vqgan.encode, static_argnums=0)(CONFIG, params, pictures)
    np.testing.assert_array_equal(codes, expected)
    drawn = jax.jit(vqgan.decode, static_argnums=0)(CONFIG, params, codes)
    assert drawn.shape == (3, 16, 16, 3) and drawn.dtype == jnp.float32 and jnp.abs(drawn).max() <= 1


def test_other_sizes_are_told(params: dict) -> None:
    with pytest.raises(ValueError, match=r"reads pictures \[B, 16, 16, 3\], got \[1, 8, 8, 3\]"):
        vqgan.encode(CONFIG, params, jnp.zeros((1, 8, 8, 3)))
    with pytest.raises(ValueError, match=r"has 16 codes, got \[1, 9\]"):
        vqgan.decode(CONFIG, params, jnp.zeros((1, 9), jnp.int32))


def test_the_gradient_passes_straight_through_the_codebook() -> None:
    book, z = jnp.array([[0.0, 0.0], [1.0, 1.0]]), jnp.array([[0.9, 0.8], [0.1, 0.3]])
    entries, codes, book_loss, commitment = codebook.quantise(book, z)
    np.testing.assert_array_equal(codes, [1, 0])
    np.testing.assert_allclose(entries, book[codes], atol=1e-6)
    np.testing.assert_allclose([book_loss, commitment], [0.0375, 0.0375], rtol=1e-5)
    gradient = jax.grad(lambda z: (codebook.quantise(book, z)[0] * jnp.array([2.0, 3.0])).sum())(z)
    np.testing.assert_allclose(gradient, [[2, 3], [2, 3]])


def test_k_means_finds_separated_clusters_and_means_are_theirs() -> None:
    centres = np.random.default_rng(0).permutation(np.arange(12.0))[:, None] * [10.0, 7.0]
    points = jnp.asarray(np.repeat(centres, 30, 0) + np.random.default_rng(1).normal(0, 0.1, (360, 2)), jnp.float32)
    found = codebook.k_means(jax.random.key(0), points, 12)
    np.testing.assert_allclose(sorted(found[:, 0]), sorted(centres[:, 0]), atol=0.2)
    means = codebook.means(points, jnp.repeat(jnp.arange(12), 30), 14)
    np.testing.assert_allclose(means[:12], centres, atol=0.2)
    np.testing.assert_array_equal(means[12:], np.asarray(means)[[0, 0]])  # empty clusters rest behind the first
