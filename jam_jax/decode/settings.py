"""How to write and draw: what a user may set (no jax here, so that `--help` is quick)."""

import dataclasses
import math
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How one modality's tokens are chosen. The paper draws at temperature 1 with top-p from 0.8 to 1."""

    temperature: float = 1.0  # 0: always the likeliest token
    top_k: int = 0  # only the k likeliest tokens; 0: no limit
    top_p: float = 0.9  # the likeliest tokens of this much probability, with the one that crosses it; 1: no limit
    # Logits of tokens that the row holds already, its prompt included, are divided by it (multiplied where they are
    # negative; arXiv 1909.05858). Only of this modality: neither ends nor breaks. 1: none.
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature must be 0 (greedy) or more, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (no limit) or more, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1 (no limit), got {self.top_p}")
        if not (self.repetition_penalty > 0 and math.isfinite(self.repetition_penalty)):
            raise ValueError(f"repetition_penalty must be above 0 (1: none), got {self.repetition_penalty}")


@dataclasses.dataclass(frozen=True)
class Settings:
    """One way of answering."""

    text: Sampling = Sampling()  # of text, and of the token that closes a picture
    image: Sampling = Sampling()  # of a picture's codes
    guidance: float = (
        3.5  # strength on pictures, u + a (c - u); the paper uses 3.5 and 4; 1: none, and no second stream
    )
    # What guidance's second stream has before a picture: nothing, in the vocabulary's own words (the paper's <mask:0>);
    # the start of a document alone; or the retrieved documents without the caption, as one of the original's scripts.
    contrast: Literal["blank", "start", "retrieved"] = "blank"
    # Contrastive decoding (CD-K, arXiv 2309.02591) in place of guidance's formula where it is not 0: codes are chosen
    # by c - u among those at least `cd_share` times as likely in c as the k-th likeliest.
    cd_k: int = 0
    cd_share: float = 0.1
    min_text: int = 0  # tokens of text that an answer has at least, if it has room for them
    max_text: int | None = None  # tokens of text that an answer has at most; None: no limit
    min_images: int = 0  # pictures that an answer has at least, if it has room for them
    max_images: int = 3  # pictures in one answer
    max_new_tokens: int | None = None  # of one answer, its end included; None: as many as the model has positions for

    def __post_init__(self) -> None:
        if not (self.guidance >= 0 and math.isfinite(self.guidance)):
            raise ValueError(f"guidance must be 0 or more (1: none), got {self.guidance}")
        if self.cd_k < 0:
            raise ValueError(f"cd_k must be 0 (guidance instead) or more, got {self.cd_k}")
        if not 0 < self.cd_share <= 1:
            raise ValueError(f"cd_share must be above 0 and at most 1, got {self.cd_share}")
        if self.min_text < 0 or self.min_images < 0:
            raise ValueError(f"min_text and min_images must be 0 or more, got {self.min_text} and {self.min_images}")
        if self.max_images < 0:
            raise ValueError(f"max_images must be 0 (text only) or more, got {self.max_images}")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if self.max_text is not None and self.max_text < self.min_text:
            raise ValueError(f"max_text must be at least min_text, {self.min_text}, got {self.max_text}: lower the one")
        if self.max_images < self.min_images:
            raise ValueError(
                f"max_images must be at least min_images, {self.min_images}, got {self.max_images}: raise the one"
            )

    @property
    def guided(self) -> bool:
        """Whether pictures need the second stream."""
        return self.guidance != 1 or self.cd_k > 0


def check_bank(retrieve: int, bank: str) -> None:
    """ValueError unless a number of documents and the bank that they are from are given together."""
    if retrieve < 0:
        raise ValueError(f"retrieve must be 0 (none) or more, got {retrieve}")
    if bool(retrieve) != bool(bank):
        raise ValueError("retrieval needs both: how many documents, --retrieve N, and their --bank DIR")
