"""Table 4 in miniature: how often JAM-Cross has cross blocks.

    python -m jam_jax.evaluate tables --config configs/world/tables/table_4.py --root runs/tables --seeds 21 22 23 \
        --out runs/tables/table_4
"""

from jam_jax.evaluate.tables import Claim, Perplexity, Row, Table

TEXT, CAPTIONS = "Text perplexity", "Caption perplexity"
BEST = "Cross, every 2"
OTHERS = {
    "Cross, none": "no cross blocks",
    "Cross, every 1": "one after every layer",
    "Cross, every 4": "one after every fourth",
}


def get_config() -> Table:
    """None, and after every, every second and every fourth layer; before and after continued pretraining."""
    claims = [
        Claim(f"Cross blocks after every second layer are better than {words}, on {where}", BEST, other, measure)
        for measure, where in ((TEXT, "text"), (CAPTIONS, "captions"))
        for other, words in OTHERS.items()
    ]
    return Table(
        title="Table 4: how often Cross has cross blocks",
        note=(
            "Perplexity on the world's held-out texts and captions, beside the paper's on Wikipedia and MS-COCO. The "
            "parents have four layers: 0, 4, 2 and 1 cross blocks in each direction."
        ),
        rows=(
            Row("Text parent", "{seed}/llm", parent=True),
            Row("Image parent", "{seed}/img", parent=True),
            Row("Cross, none, untrained", "{seed}/cross_0-0"),
            Row("Cross, every 1, untrained", "{seed}/cross_1-0"),
            Row("Cross, every 2, untrained", "{seed}/cross_2-0"),
            Row("Cross, every 4, untrained", "{seed}/cross_4-0"),
            Row("Cross, none", "{seed}/cross_0", paper="no cross blocks"),
            Row("Cross, every 1", "{seed}/cross_1", paper="after every layer"),
            Row("Cross, every 2", "{seed}/cross_2", paper="after every 2nd"),
            Row("Cross, every 4", "{seed}/cross_4", paper="after every 4th"),
        ),
        measures=(
            Perplexity(TEXT, "stores/text-test", "text", paper="Wikipedia"),
            Perplexity(CAPTIONS, "stores/captions-test", paper="MS-COCO"),
        ),
        paper="4",
        claims=tuple(claims),
    )
