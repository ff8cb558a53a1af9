"""How to write and draw: what a user may set (no jax here, so that `--help` is quick)."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How one modality's tokens are chosen. The paper draws at temperature 1 with top-p from 0.8 to 1."""

    temperature: float = 1.0  # 0: always the likeliest token
    top_k: int = 0  # only the k likeliest tokens; 0: no limit
    top_p: float = 0.9  # the likeliest tokens of this much probability, with the one that crosses it; 1: no limit

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature must be 0 (greedy) or more, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (no limit) or more, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1 (no limit), got {self.top_p}")


@dataclasses.dataclass(frozen=True)
class Settings:
    """One way of answering, for every prompt of a call."""

    text: Sampling = Sampling()  # of text, and of the token that closes a picture
    image: Sampling = Sampling()  # of a picture's codes
    guidance: float = (
        3.5  # strength on pictures, u + a (c - u); the paper uses 3.5 and 4; 1: none, and no second stream
    )
    max_images: int = 3  # pictures in one answer
    max_new_tokens: int | None = None  # of one answer, its end included; None: as many as the model has positions for

    def __post_init__(self) -> None:
        if not (self.guidance >= 0 and math.isfinite(self.guidance)):
            raise ValueError(f"guidance must be 0 or more (1: none), got {self.guidance}")
        if self.max_images < 0:
            raise ValueError(f"max_images must be 0 (text only) or more, got {self.max_images}")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
