"""Table 5 in miniature: instruction tuning with and without caption data.

    python -m jam_jax.evaluate tables --config configs/world/tables/table_5.py --root runs/tables --seeds 21 22 23 \
        --out runs/tables/table_5
"""

from jam_jax.evaluate.tables import Claim, Perplexity, Row, Table

CAPTIONS = "Caption perplexity"


def get_config() -> Table:
    """JAM-Cross before and after either tuning."""
    return Table(
        title="Table 5: instruction tuning",
        note="Perplexity on held-out captions of the world with their pictures, beside the paper's on MS-COCO.",
        rows=(
            Row("Cross, not tuned", "{seed}/cross_2", parent=True),
            Row("Tuned without captions", "{seed}/instruct", paper="instructions alone"),
            Row("Tuned with captions", "{seed}/instruct_captions", paper="instructions and captions"),
        ),
        measures=(Perplexity(CAPTIONS, "stores/captions-test", paper="MS-COCO"),),
        paper="5",
        claims=(Claim("Caption data keeps captions", "Tuned with captions", "Tuned without captions", CAPTIONS),),
    )
