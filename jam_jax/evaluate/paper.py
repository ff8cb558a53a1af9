"""Figures of the paper (arXiv 2309.15564), to stand beside ours."""

# Table 1, zero-shot accuracy in percent: row → column → figure; what the paper leaves out is left out.
_COLUMNS = ("PIQA", "ARC-C", "ARC-E", "StoryCloze", "Winograd", "Winogrande")
_ROWS: dict[str, tuple[float | None, ...]] = {
    "GPT-3 175B": (81.0, 51.4, 68.8, None, None, 70.1),
    "LLaMA 7B": (79.8, 47.6, 72.8, None, None, 70.1),
    "LLM-4k 7B (parent)": (76.7, 45.9, 67.7, 79.3, 83.9, 66.2),
    "JAM-Uniform 7B": (62.4, 28.5, 42.6, 63.5, 47.8, 49.7),
    "JAM-Width 26B": (57.8, 31.4, 31.6, 54.7, 50.2, 51.9),
    "JAM-Cross 19B": (75.4, 41.6, 67.2, 79.8, 81.0, 66.0),
}
ZERO_SHOT = {
    row: {column: figure for column, figure in zip(_COLUMNS, figures, strict=True) if figure is not None}
    for row, figures in _ROWS.items()
}
