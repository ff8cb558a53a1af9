"""CLIP (arXiv 2103.00020, section 2.4): texts and pictures as vectors of length 1 whose product says how well they fit.

Two transformers of the decoder's own layers: one reads a text causally and is read off at its end, the other sees all
patches of a picture and a class token at once and is read off at that token. Each ends in a projection to the vectors'
common width. Parameters, with the layers stacked on a leading axis and scanned as in `decoder`:

    text/{embed/{tokens VD, positions}, layers, final_norm, project DE}
    image/{embed/{patches ID, class_token D, positions}, embed_norm, layers, final_norm, project DE}   logit_scale

Beside the letters of `layers`: E width of the vectors, I values of a patch in the order of rows, columns, colours.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jam_jax.config import DecoderConfig
from jam_jax.model_config import ClipConfig, TowerConfig
from jam_jax.models import attention, decoder
from jam_jax.models.decoder import normal
from jam_jax.models.layers import Params, feed_forward, norm
from jam_jax.sharding import shard

LOGIT_SCALE = math.log(1 / 0.07)  # the temperature that training starts with (section 2.5)


class Clip(nn.Module):
    """tokens [B, T] int32 and pictures [B, R, R, 3] → the vectors of each, [B, E] float32."""

    config: ClipConfig

    def setup(self) -> None:
        self.text = self.param("text", _init_text, self.config)
        self.image = self.param("image", _init_image, self.config)
        self.logit_scale = self.param("logit_scale", lambda _: jnp.asarray(LOGIT_SCALE, jnp.float32))

    def texts(self, tokens: jax.Array) -> jax.Array:
        """tokens [B, T] int32 → [B, E] float32 of length 1."""
        c, params = text_tower(self.config), self.text
        x = params["embed"]["tokens"][tokens] + params["embed"]["positions"][: tokens.shape[1]]
        x = shard(x.astype(c.dtype), "batch", "length", "embed")
        x = run_layers(c, params["layers"], x, jnp.tri(tokens.shape[1], dtype=bool)[None])
        end = self.config.end_of_text
        last = jnp.argmax(tokens if end is None else tokens == end, axis=1)  # of equals the first
        return _unit(_project(c, params, jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]))

    def pictures(self, pictures: jax.Array) -> jax.Array:
        """pictures [B, R, R, 3] → [B, E] float32 of length 1."""
        return _unit(self.picture_features(pictures))

    def picture_features(self, pictures: jax.Array) -> jax.Array:
        """The same as they are projected, of any length."""
        c, params = image_tower(self.config), self.image
        batch, grid, patch = len(pictures), self.config.grid, self.config.patch
        x = pictures.astype(c.dtype).reshape(batch, grid, patch, grid, patch, 3)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, grid**2, -1)
        x = jnp.einsum("BTI,ID->BTD", x, params["embed"]["patches"].astype(x.dtype))
        first = jnp.broadcast_to(params["embed"]["class_token"].astype(x.dtype), (batch, 1, c.width))
        x = jnp.concatenate([first, x], axis=1) + params["embed"]["positions"].astype(x.dtype)
        x = norm(c, params["embed_norm"], shard(x, "batch", "length", "embed"))
        x = run_layers(c, params["layers"], x, jnp.ones((1, 1, 1), bool))
        return _project(c, params, x[:, 0])

    def __call__(self, tokens: jax.Array, pictures: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Both, each by itself: what a contrastive loss compares."""
        return self.texts(tokens), self.pictures(pictures)


def text_tower(config: ClipConfig) -> DecoderConfig:
    """The text encoder in the words of the decoder's layers."""
    return _tower(config, config.text, config.context)


def image_tower(config: ClipConfig) -> DecoderConfig:
    """The image encoder in the words of the decoder's layers, with patches for tokens."""
    return _tower(config, config.image, config.grid**2 + 1)


def _tower(config: ClipConfig, tower: TowerConfig, positions: int) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=config.vocab_size,
        layers=tower.layers,
        width=tower.width,
        heads=tower.heads,
        head_size=tower.width // tower.heads,
        ffn_width=tower.ffn_width,
        max_positions=positions,
        norm="layernorm",
        norm_eps=tower.norm_eps,
        ffn=tower.activation,
        bias="all",
        dtype=config.dtype,
        remat=config.remat,
    )


def run_layers(config: DecoderConfig, layers: Params, x: jax.Array, seen: jax.Array) -> jax.Array:
    """All blocks of `layers` (stacked on L), scanned: x [B, T, D], seen bool [1, T, T] or [1, 1, 1] → [B, T, D]."""
    positions = jnp.arange(x.shape[1])[None]  # only rotary ones would be looked at

    def body(x: jax.Array, layer: Params) -> tuple[jax.Array, None]:
        h = norm(config, layer["attn_norm"], x)
        q, (k, v) = attention.project(config, layer["attn"], h, positions)
        x = x + attention.output(config, layer["attn"], attention.attend(q, k, v, seen))
        x = x + feed_forward(config, layer["ffn"], norm(config, layer["ffn_norm"], x))
        return shard(x, "batch", "length", "embed"), None

    return jax.lax.scan(decoder.rematerialised(config, body), x, layers)[0]


def _project(config: DecoderConfig, params: Params, x: jax.Array) -> jax.Array:
    """States [B, D] where a tower is read off → [B, E] float32."""
    x, project = norm(config, params["final_norm"], x), params["project"].astype(x.dtype)
    return shard(jnp.einsum("BD,DE->BE", x, project, preferred_element_type=jnp.float32), "batch", "embed")


def _unit(y: jax.Array) -> jax.Array:
    """[B, E] brought to length 1."""
    return shard(y * jax.lax.rsqrt(jnp.square(y).sum(-1, keepdims=True)), "batch", "embed")


def init(config: ClipConfig, key: jax.Array) -> Params:
    """Random parameters, a nested dict of float32 arrays, as CLIP is started from."""
    tokens = jnp.zeros((1, config.context), jnp.int32)
    pictures = jnp.zeros((1, config.resolution, config.resolution, 3))
    # Compiled as one program, from which the forward pass that Linen's init runs falls out as unused.
    return jax.jit(lambda key: Clip(config).init(key, tokens, pictures)["params"])(key)


def embed_texts(config: ClipConfig, params: Params, tokens: jax.Array) -> jax.Array:
    """tokens [B, T] int32, each row with its end-of-text token and anything behind it → [B, E] float32 of length 1.

    Padding needs no mask: no token sees what comes after it. ValueError for more tokens than the context.
    """
    if tokens.ndim != 2 or not 0 < tokens.shape[1] <= config.context:
        raise ValueError(f"this CLIP reads texts [B, 1 to {config.context}], got {list(tokens.shape)}")
    found: Any = Clip(config).apply({"params": params}, tokens, method="texts")
    return found


def embed_pictures(config: ClipConfig, params: Params, pictures: jax.Array) -> jax.Array:
    """Pictures [B, R, R, 3], less the config's mean and divided by its std → [B, E] float32 of length 1.

    `data.clip_pictures` makes them so. ValueError for pictures of another size than the config's.
    """
    return _read_pictures(config, params, pictures, "pictures")


def picture_features(config: ClipConfig, params: Params, pictures: jax.Array) -> jax.Array:
    """As `embed_pictures`, before the vectors are brought to length 1: what Fréchet distances are taken of."""
    return _read_pictures(config, params, pictures, "picture_features")


def _read_pictures(config: ClipConfig, params: Params, pictures: jax.Array, method: str) -> jax.Array:
    side = config.resolution
    if pictures.ndim != 4 or pictures.shape[1:] != (side, side, 3):
        raise ValueError(f"this CLIP reads pictures [B, {side}, {side}, 3], got {list(pictures.shape)}")
    found: Any = Clip(config).apply({"params": params}, pictures, method=method)
    return found


def logits(params: Params, texts: jax.Array, pictures: jax.Array) -> jax.Array:
    """Vectors of texts [A, E] and pictures [B, E] → [A, B] float32: the products over the learned temperature.

    A contrastive loss is the cross entropy of its rows and of its columns, with the pairs on the diagonal (figure 3).
    """
    return jnp.exp(params["logit_scale"]) * jnp.einsum("AE,BE->AB", texts, pictures)


# Initialisation: that of the original's text encoder, for both (section 2.5 names no other).


def _init_text(key: jax.Array, config: ClipConfig) -> Params:
    c, keys = text_tower(config), jax.random.split(key, 4)
    return {
        "embed": {
            "tokens": normal(0.02)(keys[0], (config.vocab_size, c.width)),
            "positions": normal(0.01)(keys[1], (c.max_positions, c.width)),
        },
        "layers": _init_layers(keys[2], c),
        "final_norm": decoder.init_norm(None, c),
        "project": normal(c.width**-0.5)(keys[3], (c.width, config.embed_width)),
    }


def _init_image(key: jax.Array, config: ClipConfig) -> Params:
    c, keys = image_tower(config), jax.random.split(key, 5)
    values = 3 * config.patch**2
    return {
        "embed": {
            "patches": normal((3 * values) ** -0.5)(keys[0], (values, c.width)),
            "class_token": normal(c.width**-0.5)(keys[1], (c.width,)),
            "positions": normal(c.width**-0.5)(keys[2], (c.max_positions, c.width)),
        },
        "embed_norm": decoder.init_norm(None, c),
        "layers": _init_layers(keys[3], c),
        "final_norm": decoder.init_norm(None, c),
        "project": normal(c.width**-0.5)(keys[4], (c.width, config.embed_width)),
    }


def _init_layers(key: jax.Array, config: DecoderConfig) -> Params:
    params = decoder.init_layers(key, config, config.layers)
    wide, deep = config.width**-0.5, (2 * config.layers * config.width) ** -0.5
    stds = {"attn": {"q": wide, "k": wide, "v": wide, "o": deep}, "ffn": {"up": wide / 2**0.5, "down": deep}}
    for i, (part, names) in enumerate(stds.items()):
        for j, (name, std) in enumerate(names.items()):
            params[part][name] = normal(std)(jax.random.fold_in(key, 4 * i + j), params[part][name].shape)
    return params
