"""What a model is, as data: frozen dataclasses that say all that its computation depends on."""

import dataclasses
from typing import Any, Literal


def at_least(config: Any, least: int, *names: str) -> None:
    """ValueError for the first of the fields that is smaller, or no number."""
    for name in names:
        if not getattr(config, name) >= least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(config, name)}")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How the frequencies of the rotary embedding are stretched for a longer context; the defaults leave them alone.

    "linear": all divided by `factor`. "llama3": those whose wavelength is longer than `original_positions / low` are
    divided, those shorter than `original_positions / high` kept, and those between blended (Llama 3.1).
    """

    form: Literal["none", "linear", "llama3"] = "none"
    factor: float = 1.0
    low: float = 1.0  # llama3 alone, as are the next two
    high: float = 4.0
    original_positions: int = 8192  # context of the pretraining, in tokens

    def __post_init__(self) -> None:
        at_least(self, 1, "original_positions")
        if self.form not in ("none", "linear", "llama3"):
            raise ValueError(f"rope_scaling has the forms none, linear and llama3, got {self.form!r}")
        if not self.factor > 0 or not 0 < self.low < self.high:
            raise ValueError(
                "rope_scaling needs factor > 0 and 0 < low < high, got "
                f"factor={self.factor}, low={self.low}, high={self.high}"
            )


# Which projections have a bias, by the config's `bias`.
Bias = Literal["none", "qkv", "attention", "ffn", "all"]
BIASES: dict[Bias, frozenset[str]] = {
    "none": frozenset(),
    "qkv": frozenset(("q", "k", "v")),
    "attention": frozenset(("q", "k", "v", "o")),
    "ffn": frozenset(("up", "gate", "down")),
    "all": frozenset(("q", "k", "v", "o", "up", "gate", "down")),
}


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """One autoregressive decoder. The defaults are CM3leon's (arXiv 2309.02591) in every choice but the sizes."""

    vocab_size: int  # rows of the embedding, padded ones included
    layers: int
    width: int  # of the residual stream
    heads: int  # query heads
    head_size: int  # free of the width: Gemma-7B has 16 heads of 256 at width 3072
    ffn_width: int
    max_positions: int  # longest sequence, in tokens
    kv_heads: int | None = None  # grouped key-value heads; None: as many as heads
    norm: Literal["layernorm", "layernorm_plain", "rmsnorm", "rmsnorm_plus_one"] = "layernorm_plain"
    norm_eps: float = 1e-5
    positions: Literal["learned", "rope"] = "learned"
    position_offset: int = 2  # rows of the learned table in front of position 0 (metaseq keeps 0 and 1 for padding)
    rope_base: float = 1e4  # wavelength base of the rotary embedding
    rope_scaling: RopeScaling = RopeScaling()
    # gelu_gated uses the tanh form, as Gemma does; quick_gelu is CLIP's
    ffn: Literal["relu", "gelu", "quick_gelu", "silu_gated", "gelu_gated"] = "relu"
    bias: Bias = "none"  # of the projections, as BIASES has it
    qk_norm: Literal["none", "layernorm", "rmsnorm"] = "none"  # per head, before the rotary embedding
    tied: bool = True  # output head shares the token embedding
    embed_scale: float = 1.0  # Gemma: sqrt(width)
    dtype: Literal["float32", "bfloat16"] = "float32"  # of activations; parameters, norms and logits are float32
    # What the backward pass recomputes instead of keeping it: nothing; all but the layers' inputs; all but matrix
    # products; all but products with weights; all but queries, keys, values and what attention gives.
    remat: Literal["none", "full", "dots", "weights", "attention"] = "none"
    # What computes attention over whole rows: the best for the devices, or one of them by name (models/kernels.py).
    attention: Literal["auto", "reference", "tiled", "chunked", "cudnn", "pallas"] = "auto"
    init_std: float = 0.006  # of a normal cut at three standard deviations
    position_init_std: float = 2e-4

    def __post_init__(self) -> None:
        at_least(self, 1, "vocab_size", "layers", "width", "heads", "head_size", "ffn_width", "max_positions")
        if self.kv_heads is not None:
            at_least(self, 1, "kv_heads")
        if self.heads % self.key_value_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.positions == "rope" and self.head_size % 2:
            raise ValueError(f"rotary positions need an even head_size, got {self.head_size}")
        if self.positions != "rope" and self.rope_scaling != RopeScaling():
            raise ValueError(f"rope_scaling is of rotary positions, and positions={self.positions!r}: leave it out")

    @property
    def key_value_heads(self) -> int:
        """Key-value heads, K."""
        return self.heads if self.kv_heads is None else self.kv_heads

    def has_bias(self, projection: str) -> bool:
        """Whether one of the projections q, k, v, o, up, gate and down has a bias."""
        return projection in BIASES[self.bias]

    @property
    def decoders(self) -> tuple["DecoderConfig", ...]:
        """The decoders inside: itself."""
        return (self,)


@dataclasses.dataclass(frozen=True)
class CrossConfig:
    """JAM-Cross (arXiv 2309.15564, section 2.2.3): two towers and cross blocks that let each read the other."""

    llm: DecoderConfig
    img: DecoderConfig
    every: int = 2  # a cross block per direction after layers 0, every, 2 every, …; 0: none

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ValueError(f"every must be 0 (no cross blocks) or more, got {self.every}")
        for name in ("vocab_size", "width", "layers", "max_positions", "positions", "position_offset", "dtype"):
            a, b = getattr(self.llm, name), getattr(self.img, name)
            if a != b:
                raise ValueError(f"JAM-Cross needs towers that agree in {name}: the LLM has {a}, the image model {b}")

    @property
    def cross_blocks(self) -> int:
        """Cross blocks per direction: one after each of the layers 0, every, 2 every, …"""
        return -(-self.llm.layers // self.every) if self.every else 0

    @property
    def vocab_size(self) -> int:
        """Rows of the shared embedding."""
        return self.img.vocab_size

    @property
    def max_positions(self) -> int:
        """Longest sequence, in tokens."""
        return self.img.max_positions

    @property
    def decoders(self) -> tuple[DecoderConfig, ...]:
        """The decoders inside: the two towers."""
        return (self.llm, self.img)


@dataclasses.dataclass(frozen=True)
class VqganConfig:
    """The image tokenizer: taming-transformers' VQGAN (arXiv 2012.09841). The defaults are `vqgan_f8_8192`'s sizes."""

    resolution: int = 256  # pixels a side
    channels: int = 128  # base width
    multipliers: tuple[int, ...] = (1, 1, 2, 4)  # of the base width per resolution; each but the last halves the side
    res_blocks: int = 2  # per resolution
    attn_resolutions: tuple[int, ...] = (32,)  # sides at which every residual block is followed by self-attention
    groups: int = 32  # of the group norms
    z_channels: int = 256
    codes: int = 8192  # codebook entries
    code_width: int = 256
    # How a latent becomes a code: the nearest codebook entry, or the largest logit of a 1x1 convolution (Gumbel VQ).
    codes_by: Literal["nearest", "logits"] = "nearest"

    def __post_init__(self) -> None:
        at_least(self, 1, "resolution", "channels", "res_blocks", "groups", "z_channels", "codes", "code_width")
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"multipliers must be one or more numbers of at least 1, got {self.multipliers}")
        if self.resolution % self.downsampling:
            raise ValueError(f"resolution {self.resolution} does not divide by the downsampling {self.downsampling}")
        if any((self.channels * m) % self.groups for m in self.multipliers):
            raise ValueError(f"every width {self.channels} x {self.multipliers} must divide by groups={self.groups}")

    @property
    def downsampling(self) -> int:
        """Pixels per code along one side (the f of `f8`)."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def grid(self) -> int:
        """Codes along one side of a picture."""
        return self.resolution // self.downsampling


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    """One of CLIP's two transformers: pre-norm blocks of LayerNorm, with biases everywhere."""

    layers: int
    width: int  # of the residual stream
    heads: int  # their size is width / heads
    ffn_width: int
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"  # OpenAI's models have the former, most others the latter
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        at_least(self, 1, "layers", "width", "heads", "ffn_width")
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """Text and pictures as vectors that can be compared. The defaults are ViT-B/32's."""

    text: TowerConfig = TowerConfig(layers=12, width=512, heads=8, ffn_width=2048)
    image: TowerConfig = TowerConfig(layers=12, width=768, heads=12, ffn_width=3072)
    vocab_size: int = 49408
    context: int = 77  # longest text, in tokens, its start and end included
    # A text is read off at its first token of this id; None: at its first token of the highest id (OpenAI's way).
    end_of_text: int | None = None
    resolution: int = 224  # pixels a side
    patch: int = 32  # pixels a side
    embed_width: int = 512  # of the vectors that texts and pictures become
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)  # of red, green, blue from 0 to 1
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)  # what they are divided by, less the mean
    dtype: Literal["float32", "bfloat16"] = "float32"  # of activations; parameters, norms and vectors are float32
    remat: Literal["none", "full", "dots"] = "none"  # what the backward pass recomputes: nothing, all, all but matmuls

    def __post_init__(self) -> None:
        at_least(self, 1, "vocab_size", "context", "resolution", "patch", "embed_width")
        if self.resolution % self.patch:
            raise ValueError(f"resolution {self.resolution} does not divide by patch {self.patch}")
        if self.end_of_text is not None and not 0 <= self.end_of_text < self.vocab_size:
            raise ValueError(f"end_of_text must be an id from 0 to {self.vocab_size - 1}, got {self.end_of_text}")
        if len(self.mean) != 3 or len(self.std) != 3 or not min(self.std) > 0:
            raise ValueError(f"mean and std are three numbers each, std positive; got {self.mean} and {self.std}")

    @property
    def grid(self) -> int:
        """Patches along one side of a picture."""
        return self.resolution // self.patch


@dataclasses.dataclass(frozen=True)
class InceptionConfig:
    """Inception V3 as the Fréchet Inception Distance takes it (`models.inception`): only read, never trained here."""

    channels: int = 32  # of the first convolution; all others are in proportion
    resolution: int = 299  # pixels a side

    def __post_init__(self) -> None:
        at_least(self, 2, "channels")
        at_least(self, 75, "resolution")  # below, nothing is left after the last reduction
        if self.channels % 2:
            raise ValueError(f"channels must be even, so that all widths are whole numbers, got {self.channels}")

    @property
    def width(self) -> int:
        """Features of a picture."""
        return 64 * self.channels


ModelConfig = DecoderConfig | CrossConfig | VqganConfig | ClipConfig | InceptionConfig
