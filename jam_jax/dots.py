"""Figures of several models as dots on lines, as SVG that stands inside an HTML page (see `chart`)."""

import html
import itertools
import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from jam_jax.chart import COLOURS, WIDTH, ticks

LINE, TOP, BOTTOM, RIGHT = 22, 30, 24, 14  # SVG units: height of a row, margins around the rows
LETTER, LONGEST = 6.0, 200  # width of a letter, and of the longest label
LOGARITHMIC = 50  # times the least figure, from which on the greatest leaves nothing to see of the others


def dots(title: str, rows: Mapping[str, Sequence[float]], marks: Mapping[str, float] | None = None) -> str:
    """One `<svg>`: a line for each named row with a dot for every figure, their mean, and a bar of ± one deviation.

    `marks` are figures to compare with, such as a parent's: dashed lines through all rows. Names and title are text and
    get escaped. Figures that are not finite are left out; ValueError if none is left. Positive figures
    of very different size have a logarithmic axis.
    """
    finite = {name: [x for x in values if math.isfinite(x)] for name, values in rows.items()}
    lines = {name: x for name, x in (marks or {}).items() if math.isfinite(x)}
    everything = [x for values in finite.values() for x in values]
    if not everything:
        raise ValueError(f"there is nothing to draw in the chart {title!r}")
    bars = {name: (fmean(v), stdev(v) if len(v) > 1 else 0.0) for name, v in finite.items() if v}
    shown = [*everything, *lines.values()]
    wide = min(shown) > 0 and max(shown) > LOGARITHMIC * min(shown)
    ends = [mean + side * spread for mean, spread in bars.values() for side in (-1, 1) if side > 0 or not wide]
    xs = (_powers if wide else ticks)(min([*shown, *ends]), max([*shown, *ends]))
    left = min(LONGEST, LETTER * max(map(len, finite))) + 10
    scale = math.log10 if wide else float
    across = (WIDTH - left - RIGHT) / (scale(xs[-1]) - scale(xs[0]))
    bottom = TOP + LINE * len(finite)

    def place(x: float) -> float:
        # A mean less its deviation may be below zero, where no logarithm is: the bar then begins at the axis.
        return left + (scale(max(x, xs[0])) - scale(xs[0])) * across

    parts = [f'<text x="4" y="14" class="title">{html.escape(title)}</text>']
    for tick in xs:
        parts.append(f'<path d="M{place(tick):.1f} {TOP}V{bottom}" class="grid"/>')
        anchor = "end" if place(tick) + LETTER * len(f"{tick:g}") / 2 > WIDTH else "middle"
        parts.append(f'<text x="{place(tick):.1f}" y="{bottom + 14}" text-anchor="{anchor}">{tick:g}</text>')
    for colour, (name, x) in zip(itertools.cycle(COLOURS[1:]), lines.items(), strict=False):
        parts.append(
            f'<path d="M{place(x):.1f} {TOP}V{bottom}" stroke="{colour}" stroke-dasharray="4 3">'
            f"<title>{html.escape(name)}</title></path>"
        )
    for i, (name, values) in enumerate(finite.items()):
        y = TOP + LINE * (i + 0.5)
        parts.append(f'<text x="{left - 6:.1f}" y="{y + 3.5:.1f}" text-anchor="end">{html.escape(_cut(name))}</text>')
        if name in bars:
            mean, spread = bars[name]
            low, high = place(mean - spread), place(mean + spread)
            parts.append(f'<path d="M{low:.1f} {y:.1f}H{high:.1f}" stroke="{COLOURS[0]}" stroke-width="1.6"/>')
            parts.append(f'<path d="M{place(mean):.1f} {y - 5:.1f}v10" stroke="{COLOURS[0]}" stroke-width="1.6"/>')
        for x in values:
            parts.append(f'<circle cx="{place(x):.1f}" cy="{y:.1f}" r="2.6" fill="{COLOURS[0]}" fill-opacity=".55"/>')
    label = html.escape(f"{title}: {', '.join(finite)}", quote=True)
    box = f"0 0 {WIDTH} {bottom + BOTTOM}"
    return f'<svg class="chart" viewBox="{box}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _powers(low: float, high: float) -> list[float]:
    """Powers of ten whose range holds [low, high], at most some eight of them."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    step = -(-(last - first) // 7)
    return [10.0**power for power in range(first, last + step, step)]


def _cut(name: str) -> str:
    most = int(LONGEST / LETTER)
    return name if len(name) <= most else name[: most - 1] + "…"
