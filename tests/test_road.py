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
    ("train", "image"): ["--steps", "4", "--batch", "2", "--model.codes", "64", "--model.channels", "4"],
    ("train",): ["--steps", "2", "--batch", "2", "--model.layers", "1"],
    ("evaluate", "perplexity"): ["--limit", "4"],
    ("evaluate", "draw"): ["--count", "2"],
    ("evaluate", "answer"): ["--count", "2"],
}


class ShortRoad(Road):
    """The same commands with fewer examples, steps and layers."""

    def stages(self):
        return [replace(s, commands=lambda s=s: [self.shortened(c) for c in s.commands()]) for s in super().stages()]

    def shortened(self, command):
        words = tuple(command[:2])
        if command[0] == "train":
            named = Path(command[2]).stem
            # A fusion has the layers of its parents: only what is trained from nothing has a model in its config.
            words = ("train", "image") if named == "image_tokenizer" else ("train",)
            less = LESS[words] if named in ("image_tokenizer", "llm", "img") else LESS[words][:4]
            return [*command, *less]
        return [*command, *LESS.get(words, [])]


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


@pytest.mark.parametrize("fusion", ["cross", "width"])
def test_the_whole_road_leads_to_a_report(fusion, tmp_path, own, monkeypatch, capsys):
    monkeypatch.chdir(quickstart.ROOT)
    road = ShortRoad(tmp_path / "run", fusion, 15.0, **(own if fusion == "width" else {}))
    quickstart.follow(road)
    figures = json.loads((road.run / "summary.json").read_text())
    for kind, names in (("text", ("llm_parent", "fused_before", "fused")), ("caption", ("img_parent", "fused"))):
        assert all(figures[f"{kind}_perplexity"][name] > 1 for name in names)
    assert figures["well_formed_percent"] is not None and figures["seconds"] > 0
    assert (figures["graded"]["fused"] is None) == (fusion == "width")  # own pictures have no grader
    assert "<svg" in (road.run / "report.html").read_text()
    capsys.readouterr()
    quickstart.follow(road)  # again: all is kept but the report
    shown = capsys.readouterr().out
    assert shown.count(": kept (") == len(road.stages()) - 1
