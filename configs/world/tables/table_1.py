"""Table 1 in miniature: what each fusion keeps of the text parent.

The paper has six tasks; the world has one multiple choice, beside which the mean of the six stands.

    python -m jam_jax.evaluate tables --config configs/world/tables/table_1.py --root runs/tables --seeds 21 22 23 \
        --out runs/tables/table_1
"""

from jam_jax.evaluate.paper import MEAN
from jam_jax.evaluate.tables import Choices, Claim, Perplexity, Row, Table

CHOICE, TEXT = "Multiple choice, %", "Text perplexity"


def get_config() -> Table:
    """Both parents and the three fusions, before and after continued pretraining."""
    return Table(
        title="Table 1: text",
        note=(
            "Accuracy on the world's multiple choice about held-out scenes, by length-normalised likelihood, beside "
            "the mean of the paper's six zero-shot tasks; and perplexity on held-out texts."
        ),
        rows=(
            Row("Text parent", "{seed}/llm", parent=True, paper="LLM-4k 7B (parent)"),
            Row("Image parent", "{seed}/img"),
            Row("Uniform, untrained", "{seed}/uniform-0"),
            Row("Width, untrained", "{seed}/width_copy-0"),
            Row("Cross, untrained", "{seed}/cross_2-0"),
            Row("Uniform", "{seed}/uniform", paper="JAM-Uniform 7B"),
            Row("Width", "{seed}/width_copy", paper="JAM-Width 26B"),
            Row("Cross", "{seed}/cross_2", paper="JAM-Cross 19B"),
        ),
        measures=(Choices(CHOICE, paper=MEAN), Perplexity(TEXT, "stores/text-test", "text")),
        paper="1",
        claims=(
            Claim("Cross keeps more of the text parent than Uniform", "Cross", "Uniform", CHOICE),
            Claim("Cross keeps more of the text parent than Width", "Cross", "Width", CHOICE),
            Claim("The text parent is better than Cross", "Text parent", "Cross", CHOICE),
        ),
    )
