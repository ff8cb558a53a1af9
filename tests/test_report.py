"""The report: figures from the stages' files, text escaped, pictures inlined, nothing loaded from elsewhere."""

import io
import json
import re

import pytest
from PIL import Image

from jam_jax import report, report_figures
from jam_jax.chart import chart, ticks
from jam_jax.evaluate import samples
from jam_jax.evaluate.samples import FEW, OWN, THREE, Sample, Source


def png(colour="red", side=32):
    data = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(data, "PNG")
    return data.getvalue()


NASTY = '<script>alert("x")</script> & "quotes"'


def measured(text, image, everything):
    return json.dumps({"text": text, "image": image, "all": everything})


@pytest.fixture
def run(tmp_path):
    """A quickstart's directory as its stages leave it, with figures that can be checked by hand."""
    for name in ("stages", "measured", "samples", "llm"):
        (tmp_path / name).mkdir()
    figures = {
        "llm_parent": (5, 99, 900),
        "img_parent": (40, 4, 3),
        "fused_before": (50, 8, 6),
        "fused": (5.5, 4.2, 3.3),
    }
    for name, (text, image, everything) in figures.items():
        (tmp_path / f"measured/{name}-text.json").write_text(measured(text, None, text))
        (tmp_path / f"measured/{name}-captions.json").write_text(measured(2, image, everything))
    for number, (name, seconds, memory) in enumerate([("llm", 60, 1.5), ("fused", 30.5, 2.25), ("report", 1, 2)], 1):
        stamp = {
            "name": name,
            "title": f"Stage {name}",
            "number": number,
            "seconds": seconds,
            "peak_memory_gib": memory,
        }
        (tmp_path / f"stages/{name}.json").write_text(json.dumps(stamp))
    lines = [{"step": 20, "loss": 3.0, "text_loss": 3.0}, {"step": 40, "loss": 2.0, "text_loss": 2.0}]
    (tmp_path / "llm/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    drawn = [Sample(f"a red circle {i}", (png(),), right=i % 4 != 0, kind=FEW) for i in range(20)]
    drawn += [Sample("three shapes", (png("blue"),), right=False, kind=THREE)]
    samples.save(drawn, tmp_path / "samples/img_parent")
    samples.save([Sample("a red circle", (png(),), right=True, kind=FEW)] * 10, tmp_path / "samples/fused")
    answers = [Sample(NASTY, (f"First {NASTY}", png(), "Done."), wanted=1, right=True)] * 13
    answers += [
        Sample("two?", ("one only", png()), wanted=2, right=False),
        Sample("?", ("…",), fault="it breaks off", wanted=0),
    ]
    samples.save(answers, tmp_path / "samples/answers")
    return tmp_path


def test_the_summary_has_the_measured_figures(run):
    assert report.write(run) == json.loads((run / "summary.json").read_text())
    assert json.loads((run / "summary.json").read_text()) == {
        "text_perplexity": {"llm_parent": 5, "img_parent": 40, "fused_before": 50, "fused": 5.5},
        "caption_perplexity": {
            "llm_parent": 900,
            "img_parent": 3,
            "fused_before": 6,
            "fused": 3.3,
            "fused_retrieving": None,
        },
        "graded": {"img_parent": 75.0, "fused": 100.0, "fused_retrieving": None},
        "well_formed_percent": 86.7,
        "answers_right_percent": 92.9,
        "seconds": 91.5,
        "peak_memory_gib": 2.25,
    }


def test_the_tables_give_ratios_to_the_parents(run):
    found = report_figures.collect(run)
    assert report_figures.rows(found) == [
        ("Text parent", "5.00", "900.00", "99.00"),
        ("Image parent", "40.00", "3.00", "4.00"),
        ("Fusion, before training", "50.00 (10.00x)", "6.00 (2.00x)", "8.00 (2.00x)"),
        ("Fusion, after instruction tuning", "5.50 (1.10x)", "3.30 (1.10x)", "4.20 (1.05x)"),
    ]
    header, table = report_figures.marks(found)
    assert header == ("", "Image parent", "Fusion")
    assert table == [
        (f"Held-out captions of {FEW}, drawn right", "75%", "100%"),
        (f"Held-out captions of {THREE}, drawn right", "0%", "–"),
        ("Answers well formed, with the pictures asked for", "–", "86.7%"),
        ("Answers whose last picture is right", "–", "92.9%"),
    ]


def test_what_is_drawn_and_measured_behind_retrieved_documents_stands_beside(run, capsys):
    (run / "measured/fused_retrieving-captions.json").write_text(measured(1.5, 3.0, 2.4))
    found = (Source(17, 0.8125, "a green square", png("green")), Source(3, 0.5, NASTY, b""))
    drawn = [Sample(f"a blue square {i}", (png("blue"),), right=i < 3, kind=FEW, sources=found) for i in range(4)]
    samples.save(drawn, run / "samples/fused_retrieving")
    figures = report.write(run)
    assert figures["caption_perplexity"]["fused_retrieving"] == 2.4 and figures["graded"]["fused_retrieving"] == 75.0
    assert "fused_retrieving" not in figures["text_perplexity"]
    found = report_figures.collect(run)
    assert report_figures.rows(found)[-1] == (
        "The same, behind retrieved documents",
        "–",
        "2.40 (0.80x)",
        "3.00 (0.75x)",
    )
    header, table = report_figures.marks(found)
    assert header[-1] == "Fusion, behind retrieved documents" and table[0][1:] == ("75%", "100%", "75%")
    assert [line[-1] for line in table[1:]] == ["–", "–", "–"]
    page = (run / "report.html").read_text()
    assert page.count("retrieved: document 17, 0.812: a green square") == 2 * 4 and NASTY not in page
    assert page.count('alt="drawn: a blue square') == 4 and "the parent’s it is, without retrieval" in page
    assert "2.40 (0.80x)" in capsys.readouterr().out


def test_the_same_table_is_printed_with_the_path(run, capsys):
    report.main(["--run", str(run)])
    shown = capsys.readouterr().out
    assert "5.50 (1.10x)" in shown and "100%" in shown and str(run / "report.html") in shown


def test_the_page_stands_alone_and_escapes_what_it_shows(run):
    report.write(run)
    page = (run / "report.html").read_text()
    assert NASTY not in page and "&lt;script&gt;alert(" in page
    assert "<script" not in page
    assert not [s for s in re.findall(r'(?:src|href)="([^"]*)"', page) if not s.startswith("data:image/png;base64,")]
    assert page.count('class="document"') == report.ANSWERS
    assert page.count("✓ right") == 10 + report.ANSWERS and "it breaks off" not in page  # twelve answers only
    assert "sizes are not counted" in page
    assert page.count("<svg") == 1 and "Text parent, loss" in page


def test_own_pictures_are_shown_beside_the_real_ones_without_marks(run):
    import shutil

    shutil.rmtree(run / "samples/fused")
    shutil.rmtree(run / "samples/answers")
    samples.save([Sample("a smiling face", (png(),), kind=OWN, reference=png("green"))], run / "samples/fused")
    figures = report.write(run)
    assert figures["graded"]["fused"] is None
    page = (run / "report.html").read_text()
    assert 'alt="drawn: a smiling face"' in page and 'alt="real: a smiling face"' in page and "✓" not in page


@pytest.mark.parametrize("path", ["measured/fused-text.json", "stages/llm.json", "llm/metrics.jsonl"])
def test_a_damaged_file_is_named(run, path):
    (run / path).write_text('{"text": 1')
    with pytest.raises(ValueError, match=f"{path} is damaged"):
        report.write(run)
    assert not (run / "report.html").exists()


def test_samples_come_back_as_they_were(tmp_path):
    several = [
        Sample(NASTY, ("text", png(), "more"), fault="broken", wanted=2),
        Sample("c", (png("blue"),), right=True, kind=FEW, reference=png("green")),
        Sample("s", (png(),), sources=(Source(1, 0.5, NASTY, png("green")), Source(2, 0.25, "t", b""))),
    ]
    samples.save(several, tmp_path / "kept", model="m")
    assert samples.load(tmp_path / "kept") == several
    assert [s.as_asked for s in several] == [False, True, True]
    with pytest.raises(ValueError, match="already exists"):
        samples.save(several, tmp_path / "kept")


def test_mistakes_end_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="no quickstart's directory"):
        report.write(tmp_path)
    (tmp_path / "samples.json").write_text("{}")
    with pytest.raises(ValueError, match="no samples that can be read"):
        samples.load(tmp_path)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 4, [0, 1, 2, 3, 4]),
        (20, 300, [0, 100, 200, 300]),
        (1.9, 3.1, [1.5, 2, 2.5, 3, 3.5]),
        (2, 2, [1.5, 1.75, 2, 2.25, 2.5]),
    ],
)
def test_ticks_are_round_and_hold_the_range(low, high, expected):
    assert ticks(low, high) == expected


def test_a_chart_has_a_line_per_curve_inside_its_frame():
    svg = chart("<loss>", {"text": [(0, 3.0), (50, 1.0), (100, float("nan"))], "image": [(0, 2.0), (100, 0.5)]}, "step")
    lines = re.findall(r'points="([^"]*)"', svg)
    assert len(lines) == 2 and "<loss>" not in svg and "&lt;loss&gt;" in svg
    for point in " ".join(lines).split():
        x, y = map(float, point.split(","))
        assert 44 <= x <= 408 and 34 <= y <= 190
    with pytest.raises(ValueError, match="nothing to draw"):
        chart("empty", {"a": [(0, float("nan"))]}, "step")
