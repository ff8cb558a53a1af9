"""The road itself, every stage from nothing to the report, with everything that costs time made small."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jam_jax import quickstart
from jam_jax.stages import Road

LESS = {  # what is added to a command, by its first words
    ("data", "world"): ["--share", "0.005"],
    ("evaluate", "perplexity"): ["--limit", "4"],
    ("evaluate", "draw"): ["--count", "2"],
    ("evaluate", "answer"): ["--count", "2"],
}
SHORT = ["--steps", "4", "--batch", "2", "--log-every", "2"]
SMALL = {  # what is trained from nothing; a fusion has the size of its parents
    "image_tokenizer": ["--model.codes", "64", "--model.channels", "4"],
    "clip": ["--batch", "8"],
    "llm": ["--model.layers", "1"],
    "img": ["--model.layers", "1"],
}


class ShortRoad(Road):
    """The same commands with fewer examples, steps and layers."""

    def stages(self):
        return [replace(s, commands=lambda s=s: [self.shortened(c) for c in s.commands()]) for s in super().stages()]

    def shortened(self, command):
        if command[0] == "train":
            return [*command, *SHORT, *SMALL.get(Path(command[2]).stem, [])]
        return [*command, *LESS.get(tuple(command[:2]), [])]


@pytest.fixture
def own(tmp_path):
    """A folder of pictures and one of texts, as a user might bring."""
    rng = np.random.default_rng(0)
    pictures, text = tmp_path / "pictures", tmp_path / "text"
    pictures.mkdir(), text.mkdir()
    lines = []
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(pictures / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"picture of thing number {i}"}))
        (text / f"{i}.txt").write_text(" ".join(f"word{j % 7} and {i * j}" for j in range(60)))
    (pictures / "metadata.jsonl").write_text("\n".join(lines))
    return {"pictures": str(pictures), "text": str(text)}


# All fusions take the same road, Width on own data. Uniform is quick: its programs are its parents'.
@pytest.mark.parametrize("fusion", ["uniform", *(pytest.param(f, marks=pytest.mark.long) for f in ("cross", "width"))])
def test_the_whole_road_leads_to_a_report(fusion, tmp_path, own, monkeypatch, capsys):
    monkeypatch.chdir(quickstart.ROOT)
    road = ShortRoad(tmp_path / "run", fusion, 15.0, **(own if fusion == "width" else {}))
    quickstart.follow(road)
    figures = json.loads((road.run / "summary.json").read_text())
    for kind, names in (("text", ("llm_parent", "fused_before", "fused")), ("caption", ("img_parent", "fused"))):
        assert all(figures[f"{kind}_perplexity"][name] > 1 for name in names)
    assert figures["well_formed_percent"] is not None and figures["seconds"] > 0
    assert (figures["graded"]["fused"] is None) == (fusion == "width")  # own pictures have no grader
    if fusion != "width":
        alone, behind = (
            json.loads((road.run / f"measured/{name}-captions.json").read_text())
            for name in ("fused", "fused_retrieving")
        )
        assert behind["neighbours"] == str(road.run / "neighbours/captions-test")
        assert behind["nll"] != alone["nll"] and behind["targets"] == alone["targets"]
        assert figures["graded"]["fused_retrieving"] is not None
        kept = json.loads((road.run / "samples/fused_retrieving/samples.json").read_text())
        assert kept["retrieve"] == 2 and kept["bank"] == str(road.run / "bank")
        assert any(sample["sources"] for sample in kept["samples"])
    assert "<svg" in (road.run / "report.html").read_text()
    measured = {p.stem: json.loads(p.read_text()) for p in (road.run / "measured").glob("*.json")}
    for parent, kind in (("llm", "text"), ("img", "captions")):  # what was exported and imported again is the same
        before = tmp_path / f"{parent}.json"
        model, store = (str(road.run / name) for name in (parent, f"stores/{kind}-test"))
        quickstart.execute(
            road.shortened(["evaluate", "perplexity", "--model", model, "--store", store, "--out", str(before)])
        )
        assert json.loads(before.read_text())["nll"] == measured[f"{parent}_parent-{kind}"]["nll"]
    nll = [json.dumps(m["nll"]) for name, m in measured.items() if name.endswith("-text")]
    assert len(set(nll)) == 5  # both parents, and the fusion before, half-way and after
    inits = {
        name: json.loads((road.run / name / "config.json").read_text())["init"] for name in ("pretrained", "tuned")
    }
    assert inits == {"pretrained": str(road.run / "fused"), "tuned": str(road.run / "pretrained")}
    capsys.readouterr()
    quickstart.follow(road)  # again: all is kept but the report
    shown = capsys.readouterr().out
    assert shown.count(": kept (") == len(road.stages()) - 1
    again = json.loads((road.run / "summary.json").read_text())
    of_the_run = {"seconds": 0, "peak_memory_gib": 0}
    assert again | of_the_run == figures | of_the_run
