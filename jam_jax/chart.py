"""Curves as SVG that stands inside an HTML page: no script, no library, colours that read on light and on dark."""

import html
import math
from collections.abc import Mapping, Sequence

Points = Sequence[tuple[float, float]]

COLOURS = ("#3b7dd8", "#d9772b", "#3f9b5f", "#a259b5")  # of the curves, in order
WIDTH, HEIGHT = 420, 220  # of the picture, in SVG units
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 34, 30  # margins around the curves


def chart(title: str, curves: Mapping[str, Points], x_label: str) -> str:
    """One `<svg>` of named curves over the same axes; title, names and label are text and get escaped.

    Points that are not finite are left out; ValueError if none is left.
    """
    finite = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)] for name, points in curves.items()
    }
    everything = [point for points in finite.values() for point in points]
    if not everything:
        raise ValueError(f"there is nothing to draw in the chart {title!r}")
    xs = ticks(min(x for x, _ in everything), max(x for x, _ in everything))
    ys = ticks(min(y for _, y in everything), max(y for _, y in everything))
    across = (WIDTH - LEFT - RIGHT) / (xs[-1] - xs[0])
    down = (HEIGHT - TOP - BOTTOM) / (ys[-1] - ys[0])

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + (x - xs[0]) * across, HEIGHT - BOTTOM - (y - ys[0]) * down

    bottom = HEIGHT - BOTTOM
    parts = [f'<text x="{LEFT}" y="14" class="title">{html.escape(title)}</text>']
    for tick in ys:
        y = place(xs[0], tick)[1]
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in xs:
        x = place(tick, ys[0])[0]
        anchor = "end" if x > WIDTH - RIGHT - 12 else "middle"
        parts.append(f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="{anchor}">{tick:g}</text>')
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 3}">{html.escape(x_label)}</text>')
    legend = WIDTH - RIGHT
    for colour, (name, points) in reversed(list(zip(COLOURS, finite.items(), strict=False))):
        line = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        parts.append(f'<text x="{legend}" y="14" text-anchor="end" style="fill:{colour}">{html.escape(name)}</text>')
        legend -= 7 * len(name) + 14
    label = html.escape(f"{title}: {', '.join(finite)} by {x_label}", quote=True)
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def ticks(low: float, high: float) -> list[float]:
    """Two to seven round numbers, evenly spaced, whose range holds [low, high]."""
    if high <= low:
        low, high = low - 0.5, low + 0.5
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


STYLE = """
svg.chart { width: 100%; font: 11px system-ui, sans-serif; } svg.chart text { fill: var(--soft); }
svg.chart .title { fill: var(--ink); font-weight: 600; } svg.chart .grid { stroke: var(--line); }
"""
