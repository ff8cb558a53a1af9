"""What the paper leaves open: how the new parts of a fusion start, and what trains first.

    python -m jam_jax.evaluate tables --config configs/world/tables/ablations.py --root runs/tables --seeds 21 22 23 \
        --out runs/tables/ablations
"""

from jam_jax.evaluate.tables import Choices, Perplexity, Row, Table


def get_config() -> Table:
    """Each differs in one thing from the fusion as the original starts it; all are trained on equal tokens."""
    return Table(
        title="What the paper leaves open",
        note=(
            "The first row is JAM-Cross as the original starts it: projection at random, new blocks as the identity, "
            "the image parent's positions, everything trained from the first step. Each Cross below it differs in one "
            "of these, and Width with zeros from the paper's better start, its copy."
        ),
        rows=(
            Row("Cross, as the original", "{seed}/cross_2", parent=True),
            Row("Projection: average of the towers", "{seed}/cross_2_project_average"),
            Row("Projection: the LLM's tower", "{seed}/cross_2_project_llm"),
            Row("Projection: the image tower", "{seed}/cross_2_project_img"),
            Row("New blocks at random", "{seed}/cross_2_blocks_random"),
            Row("Positions: the LLM's", "{seed}/cross_2_positions_llm"),
            Row("Positions: average", "{seed}/cross_2_positions_average"),
            Row("Projection: average, positions: the LLM's", "{seed}/cross_2_project_average_positions_llm"),
            Row("Towers frozen for a quarter of the steps", "{seed}/cross_2_frozen"),
            Row("Width, copy", "{seed}/width_copy", parent=True),
            Row("Width, off-diagonal blocks zero", "{seed}/width_zero"),
        ),
        measures=(
            Choices("Multiple choice, %"),
            Perplexity("Text perplexity", "stores/text-test", "text"),
            Perplexity("Caption perplexity", "stores/captions-test"),
        ),
    )
