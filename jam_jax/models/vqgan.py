"""The image tokenizer: taming-transformers' VQGAN (arXiv 2012.09841), which JAM's pictures were made of.

A picture goes through a convolutional encoder to a grid of latents; each latent is replaced by the nearest entry of
a codebook, whose number is the picture's token; a decoder draws the picture from the entries. Parameters:

    encoder/{conv_in, down_I_block_J, down_I_attn_J, down_I_downsample, mid_block_1, mid_attn_1, mid_block_2, norm_out,
    conv_out}   decoder/{conv_in, mid_…, up_I_block_J, up_I_attn_J, up_I_upsample, norm_out, conv_out}
    codebook [codes, code_width]   quant_conv   post_quant_conv

The Gumbel kind (`codes_by="logits"`) takes the likeliest entry by the logits of one more layer, `proj`, instead of the
nearest. Its original draws from those logits at random even when in use; a picture here has always the same codes.

Pictures are float32 [B, R, R, 3] from -1 to 1, codes int32 [B, grid * grid] in reading order.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jam_jax.config import VqganConfig
from jam_jax.models.codebook import likeliest, nearest
from jam_jax.models.layers import Params
from jam_jax.models.vqgan_layers import Attention, Conv, GroupNorm, ResBlock, double
from jam_jax.sharding import shard


class Encoder(nn.Module):
    """Pictures [B, R, R, 3] → [B, grid, grid, z_channels]."""

    config: VqganConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        side = c.resolution
        h = Conv(c.channels, name="conv_in")(x)
        for i, multiplier in enumerate(c.multipliers):
            for j in range(c.res_blocks):
                h = ResBlock(c.channels * multiplier, c.groups, name=f"down_{i}_block_{j}")(h)
                if side in c.attn_resolutions:
                    h = Attention(c.groups, name=f"down_{i}_attn_{j}")(h)
            if i + 1 < len(c.multipliers):
                h = Conv(h.shape[-1], stride=2, name=f"down_{i}_downsample")(h)
                side //= 2
        h = _middle(c, h)
        return Conv(c.z_channels, name="conv_out")(jax.nn.silu(GroupNorm(c.groups, name="norm_out")(h)))


class Decoder(nn.Module):
    """[B, grid, grid, z_channels] → pictures [B, R, R, 3], not clipped."""

    config: VqganConfig

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        c = self.config
        side = c.grid
        h = Conv(c.channels * c.multipliers[-1], name="conv_in")(z)
        h = _middle(c, h)
        for i, multiplier in reversed(list(enumerate(c.multipliers))):
            for j in range(c.res_blocks + 1):  # one more than the encoder has
                h = ResBlock(c.channels * multiplier, c.groups, name=f"up_{i}_block_{j}")(h)
                if side in c.attn_resolutions:
                    h = Attention(c.groups, name=f"up_{i}_attn_{j}")(h)
            if i:
                h = Conv(h.shape[-1], name=f"up_{i}_upsample")(double(h))
                side *= 2
        return Conv(3, name="conv_out")(jax.nn.silu(GroupNorm(c.groups, name="norm_out")(h)))


def _middle(config: VqganConfig, h: jax.Array) -> jax.Array:
    """The blocks at the codes' resolution; called inside a module, which owns the parameters."""
    h = ResBlock(h.shape[-1], config.groups, name="mid_block_1")(h)
    h = Attention(config.groups, name="mid_attn_1")(h)
    return ResBlock(h.shape[-1], config.groups, name="mid_block_2")(h)


class Vqgan(nn.Module):
    """Encoder, codebook and decoder; `latents` and `pixels` are the two halves on either side of the codebook."""

    config: VqganConfig

    def setup(self) -> None:
        c = self.config
        self.encoder, self.decoder = Encoder(c), Decoder(c)
        self.quant_conv, self.post_quant_conv = Conv(c.code_width, size=1), Conv(c.z_channels, size=1)
        if c.codes_by == "logits":
            self.proj = Conv(c.codes, size=1)
        self.codebook = self.param("codebook", _init_codebook, (c.codes, c.code_width))

    def latents(self, pictures: jax.Array) -> jax.Array:
        """Pictures → [B, grid, grid, code_width], before the codebook."""
        return self.quant_conv(self.encoder(pictures))

    def pixels(self, entries: jax.Array) -> jax.Array:
        """[B, grid, grid, code_width] → pictures, not clipped."""
        return self.decoder(self.post_quant_conv(entries))

    def __call__(self, pictures: jax.Array) -> jax.Array:
        """Through both halves, past the codebook: creates all parameters."""
        z = self.latents(pictures)
        if self.config.codes_by == "logits":
            self.proj(z)
        return self.pixels(z)


def _init_codebook(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    return jax.random.uniform(key, shape, minval=-1 / shape[0], maxval=1 / shape[0])


def init(config: VqganConfig, key: jax.Array) -> Params:
    """Random parameters, a nested dict of float32 arrays."""
    pictures = jnp.zeros((1, config.resolution, config.resolution, 3))
    return Vqgan(config).init(key, pictures)["params"]


def latents(config: VqganConfig, params: Params, pictures: jax.Array) -> jax.Array:
    """Pictures [B, R, R, 3] → latents [B, grid, grid, code_width] float32, before the codebook.

    ValueError for pictures of another size than the config's.
    """
    side = config.resolution
    if pictures.ndim != 4 or pictures.shape[1:] != (side, side, 3):
        raise ValueError(f"this image tokenizer reads pictures [B, {side}, {side}, 3], got {list(pictures.shape)}")
    x = shard(pictures.astype(jnp.float32), "batch", None, None, None)
    found: Any = Vqgan(config).apply({"params": params}, x, method="latents")
    return found


def pixels(config: VqganConfig, params: Params, entries: jax.Array) -> jax.Array:
    """Codebook entries [B, grid, grid, code_width] → pictures [B, R, R, 3] float32, not clipped."""
    found: Any = Vqgan(config).apply({"params": params}, entries, method="pixels")
    return found


def encode(config: VqganConfig, params: Params, pictures: jax.Array) -> jax.Array:
    """Pictures [B, R, R, 3] from -1 to 1 → codes int32 [B, grid * grid] in reading order."""
    z = latents(config, params, pictures)
    if config.codes_by == "logits":
        codes = likeliest(params["proj"]["kernel"][0, 0], params["proj"]["bias"], z)
    else:
        codes = nearest(params["codebook"], z)
    return codes.reshape(pictures.shape[0], -1)


def decode(config: VqganConfig, params: Params, codes: jax.Array) -> jax.Array:
    """Codes int32 [B, grid * grid] → pictures [B, R, R, 3] float32, clipped to -1 … 1.

    ValueError for another number of codes than the config's.
    """
    if codes.ndim != 2 or codes.shape[1] != config.grid**2:
        raise ValueError(f"a picture of this image tokenizer has {config.grid**2} codes, got {list(codes.shape)}")
    entries = params["codebook"][codes].reshape(-1, config.grid, config.grid, config.code_width)
    return jnp.clip(pixels(config, params, entries), -1, 1)


def from_pixels(pictures: jax.Array) -> jax.Array:
    """uint8 [..., 3] → float32 from -1 to 1."""
    return pictures.astype(jnp.float32) / 127.5 - 1


def to_pixels(pictures: jax.Array) -> jax.Array:
    """float32 from -1 to 1 → uint8, the inverse of `from_pixels`."""
    return jnp.clip(jnp.round((pictures + 1) * 127.5), 0, 255).astype(jnp.uint8)
