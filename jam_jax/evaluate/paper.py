"""Figures of the paper (arXiv 2309.15564), to stand beside ours: row → column → figure."""

from statistics import fmean

Figures = dict[str, dict[str, float]]

# Table 1, zero-shot accuracy in percent; what the paper leaves out is left out.
_COLUMNS = ("PIQA", "ARC-C", "ARC-E", "StoryCloze", "Winograd", "Winogrande")
_ROWS: dict[str, tuple[float | None, ...]] = {
    "GPT-3 175B": (81.0, 51.4, 68.8, None, None, 70.1),
    "LLaMA 7B": (79.8, 47.6, 72.8, None, None, 70.1),
    "LLM-4k 7B (parent)": (76.7, 45.9, 67.7, 79.3, 83.9, 66.2),
    "JAM-Uniform 7B": (62.4, 28.5, 42.6, 63.5, 47.8, 49.7),
    "JAM-Width 26B": (57.8, 31.4, 31.6, 54.7, 50.2, 51.9),
    "JAM-Cross 19B": (75.4, 41.6, 67.2, 79.8, 81.0, 66.0),
}
ZERO_SHOT: Figures = {
    row: {column: figure for column, figure in zip(_COLUMNS, figures, strict=True) if figure is not None}
    for row, figures in _ROWS.items()
}

# Not in the paper: the mean of a row of Table 1 that has all of its columns, to put beside one task of another kind.
MEAN = "mean of the six tasks"

# Tables 2 to 5: perplexity on MS-COCO and Wikipedia.
TABLES: dict[str, Figures] = {
    "1": {
        row: of | ({MEAN: round(fmean(of.values()), 1)} if len(of) == len(_COLUMNS) else {})
        for row, of in ZERO_SHOT.items()
    },
    "2": {
        row: {"MS-COCO": figure}
        for row, figure in {
            "CM3 2.7B": 200.1,
            "RA-CM3 2.7B": 193.1,
            "CM3leon 760M": 168.8,
            "CM3leon 7B (parent)": 149.0,
            "JAM-Uniform 7B": 177.5,
            "JAM-Width 26B": 159.5,
            "JAM-Cross 19B": 147.6,
        }.items()
    },
    "3": {
        "copy": {"Wikipedia": 7.34, "MS-COCO": 159.5},
        "average": {"Wikipedia": 9.0, "MS-COCO": 175.4},
    },
    "4": {
        "no cross blocks": {"Wikipedia": 7.86, "MS-COCO": 153.2},
        "after every layer": {"Wikipedia": 7.53, "MS-COCO": 152.4},
        "after every 2nd": {"Wikipedia": 7.18, "MS-COCO": 149.0},
        "after every 4th": {"Wikipedia": 8.55, "MS-COCO": 151.7},
    },
    "5": {
        "instructions alone": {"MS-COCO": 190.2},
        "instructions and captions": {"MS-COCO": 164.5},
    },
}
