"""Table 3 in miniature: how JAM-Width starts.

    python -m jam_jax.evaluate tables --config configs/world/tables/table_3.py --root runs/tables --seeds 21 22 23 \
        --out runs/tables/table_3
"""

from jam_jax.evaluate.tables import Claim, Perplexity, Row, Table

TEXT, CAPTIONS = "Text perplexity", "Caption perplexity"


def get_config() -> Table:
    """Off-diagonal blocks that are copies or averages, before and after continued pretraining."""
    return Table(
        title="Table 3: how Width starts",
        note="Perplexity on the world's held-out texts and captions, beside the paper's on Wikipedia and MS-COCO.",
        rows=(
            Row("Text parent", "{seed}/llm", parent=True),
            Row("Image parent", "{seed}/img", parent=True),
            Row("Width, copy, untrained", "{seed}/width_copy-0"),
            Row("Width, average, untrained", "{seed}/width_average-0"),
            Row("Width, copy", "{seed}/width_copy", paper="copy"),
            Row("Width, average", "{seed}/width_average", paper="average"),
        ),
        measures=(
            Perplexity(TEXT, "stores/text-test", "text", paper="Wikipedia"),
            Perplexity(CAPTIONS, "stores/captions-test", paper="MS-COCO"),
        ),
        paper="3",
        claims=(
            Claim("Width that starts with copies is better on text", "Width, copy", "Width, average", TEXT),
            Claim("Width that starts with copies is better on captions", "Width, copy", "Width, average", CAPTIONS),
        ),
    )
