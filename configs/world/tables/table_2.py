"""Table 2 in miniature: what each fusion keeps of the image parent.

    python -m jam_jax.evaluate tables --config configs/world/tables/table_2.py --root runs/tables --seeds 21 22 23 \
        --out runs/tables/table_2
"""

from jam_jax.evaluate.tables import Claim, Perplexity, Row, Table

CAPTIONS = "Caption perplexity"


def get_config() -> Table:
    """Both parents and the three fusions, before and after continued pretraining."""
    return Table(
        title="Table 2: captions with pictures",
        note="Perplexity on held-out captions of the world with their pictures, beside the paper's on MS-COCO.",
        rows=(
            Row("Image parent", "{seed}/img", parent=True, paper="CM3leon 7B (parent)"),
            Row("Text parent", "{seed}/llm"),
            Row("Uniform, untrained", "{seed}/uniform-0"),
            Row("Width, untrained", "{seed}/width_copy-0"),
            Row("Cross, untrained", "{seed}/cross_2-0"),
            Row("Uniform", "{seed}/uniform", paper="JAM-Uniform 7B"),
            Row("Width", "{seed}/width_copy", paper="JAM-Width 26B"),
            Row("Cross", "{seed}/cross_2", paper="JAM-Cross 19B"),
        ),
        measures=(Perplexity(CAPTIONS, "stores/captions-test", paper="MS-COCO"),),
        paper="2",
        claims=(
            Claim("Cross is better than its image parent", "Cross", "Image parent", CAPTIONS),
            Claim("Cross is better than Width", "Cross", "Width", CAPTIONS),
            Claim("Width is better than Uniform", "Width", "Uniform", CAPTIONS),
            Claim("The image parent is better than Uniform", "Image parent", "Uniform", CAPTIONS),
            Claim("The image parent is better than Width", "Image parent", "Width", CAPTIONS),
        ),
    )
