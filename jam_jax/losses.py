"""Next-token cross entropy in float32, with sums apart per modality; in CM3 as JAM uses it every token has weight 1."""

import jax
import jax.numpy as jnp

from jam_jax.tokens import IMAGE, SPECIAL, TEXT

MODALITIES = {"text": TEXT, "image": IMAGE, "special": SPECIAL}


def token_nll(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Negative log-likelihood in nats of targets [B, T] under logits [B, T, V]: float32 [B, T]."""
    logits = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def sums(nll: jax.Array, targets: jax.Array, weights: jax.Array, modality: jax.Array) -> dict[str, jax.Array]:
    """Weighted sums and counts over all tokens and per modality of the *target*.

    nll, targets, weights [B, T]; modality int8 [V] as TokenSpace.modality. Gives `loss`, `tokens` and, for each
    modality, `text_loss`, `text_tokens`, …: float32 scalars.
    """
    of_target = modality[targets]
    result = {"loss": (nll * weights).sum(), "tokens": weights.sum()}
    for name, kind in MODALITIES.items():
        mine = weights * (of_target == kind)
        result |= {f"{name}_loss": (nll * mine).sum(), f"{name}_tokens": mine.sum()}
    return result
