"""Tables of figures: any models by any measures, described in a config file (docs/evaluation.md has an example)."""

from jam_jax.evaluate.tables.describe import Claim, Row, Table
from jam_jax.evaluate.tables.measures import Choices, Drawings, Measured, Perplexity, Recorded, ZeroShot

__all__ = ["Choices", "Claim", "Drawings", "Measured", "Perplexity", "Recorded", "Row", "Table", "ZeroShot"]
