"""The plot of a table's column: every figure a dot, inside the picture, and text that cannot become markup."""

import re

import pytest

from jam_jax.dots import dots


def test_every_figure_is_a_dot_and_every_row_of_several_a_bar_of_its_deviation() -> None:
    svg = dots("<b>", {"one & two": [1.0, 3.0], "single": [2.0], "none": [], "lost": [float("nan")]}, {"parent": 2.5})
    assert "<b>" not in svg and "&lt;b&gt;" in svg and "one &amp; two" in svg
    xs = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', svg)]
    assert len(xs) == 3 and all(0 < x < 420 for x in xs)
    unit = (xs[1] - xs[0]) / 2
    low, high = re.findall(r'M([\d.]+) [\d.]+H([\d.]+)" stroke=', svg)[0]
    assert (float(high) - float(low)) / unit == pytest.approx(2 * 2**0.5, abs=0.02)  # both sides of one deviation
    (dashed,) = re.findall(r'M([\d.]+) [^"]*" stroke="[^"]*" stroke-dasharray', svg)
    assert (float(dashed) - xs[0]) / unit == pytest.approx(1.5, abs=0.02)


def test_figures_of_very_different_size_have_a_logarithmic_axis() -> None:
    svg = dots("t", {"small": [1.0, 10.0], "great": [1000.0, 20.0], "low": [2.0, 2.0, 30.0]})
    one, ten, thousand, *_ = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', svg)]
    assert thousand - ten == pytest.approx(2 * (ten - one), abs=0.2)
    assert re.findall(r'text-anchor="middle">([^<]+)<', svg) == ["1", "10", "100", "1000"]
    assert 'text-anchor="end">10000<' in svg  # which would stand half outside
    assert all(0 <= float(x) <= 420 for x in re.findall(r"[MH](-?[\d.]+)", svg))
    linear = dots("t", {"a": [1.0, 49.0], "b": [25.0]})
    low, high, middle = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', linear)]
    assert middle == pytest.approx((low + high) / 2, abs=0.1)


def test_every_mark_is_drawn_however_many_there_are() -> None:
    svg = dots("t", {"a": [1.0]}, {f"parent {i}": float(i) for i in range(7)})
    assert svg.count("stroke-dasharray") == 7


def test_a_plot_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to draw in the chart 'empty'"):
        dots("empty", {"a": [float("inf")]})
