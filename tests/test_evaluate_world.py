"""Captions to draw and questions to answer: which are chosen, how they are marked, what comes of them."""

import json

import pytest
from PIL import Image

from jam_jax import api
from jam_jax.data import world as built_in
from jam_jax.data.formats import tfds
from jam_jax.data.formats.pictures import png
from jam_jax.data.scenes import Scene, Thing, render
from jam_jax.evaluate import __main__ as command
from jam_jax.evaluate import samples, world
from jam_jax.evaluate.samples import FEW, OWN, THREE, Sample

RED = Scene("centre", (Thing("circle", "red", "large"),))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    built_in.write(root, 0, {"train": built_in.Counts(1, 1, 1), "test": built_in.Counts(1, 60, 6)})
    return root


def test_captions_of_few_shapes_come_first_and_a_quarter_of_three(dataset):
    chosen = world.captions(dataset / "captions", "test", 20)
    assert [c.kind for c in chosen] == [FEW] * 20 + [THREE] * 5
    assert all(len(c.scene.things) == (3 if c.kind == THREE else len(c.scene.things)) for c in chosen)
    compositions = [(c.scene.layout, *((t.shape, t.colour) for t in c.scene.things)) for c in chosen[:20]]
    every = [Scene.from_json(e["scene"]) for e in tfds.examples(dataset / "captions", "test")]
    distinct = {(s.layout, *((t.shape, t.colour) for t in s.things)) for s in every if len(s.things) < 3}
    assert len(set(compositions)) == min(20, len(distinct)) < len([s for s in every if len(s.things) < 3])


def test_the_real_pictures_would_all_be_marked_right(dataset):
    for caption in world.captions(dataset / "captions", "test", 20):
        assert world.marked(caption, [caption.picture]).right
        blank = png(render(caption.scene, ()))
        assert not world.marked(caption, [blank]).right
        assert not world.marked(caption, []).right


def test_a_users_own_pictures_are_drawn_without_marks(tmp_path):
    red = png(render(RED))
    for i in range(40):
        (tmp_path / f"{i}.png").write_bytes(red)
    lines = [json.dumps({"file_name": f"{i}.png", "text": f"picture {i}"}) for i in range(40)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    chosen = world.captions(tmp_path, "train", 5)
    assert [c.kind for c in chosen] == [OWN] * 5
    marked = world.marked(chosen[0], [red])
    assert marked.right is None and marked.reference.startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no pictures with captions"):
        (tmp_path / "metadata.jsonl").write_text("\n".join(line.replace('"text"', '"other"') for line in lines))
        world.captions(tmp_path, "train", 5)


def test_questions_ask_for_the_pictures_of_their_real_answers(dataset):
    asked = world.questions(dataset / "illustrated", "test", 4)
    examples = list(tfds.examples(dataset / "illustrated", "test"))[:4]
    assert [q.text for q in asked] == [e["question"] for e in examples]
    numbers = {"one": 1, "two": 2, "three": 3}
    assert [q.pictures for q in asked] == [
        next(n for word, n in numbers.items() if f"{word} picture" in q.text) for q in asked
    ]
    scenes = [Scene.from_json(e["scene"]) for e in examples]
    assert [q.scene for q in asked] == scenes
    for question, example in zip(asked, examples, strict=True):
        blank, pictures = png(render(question.scene, ())), example["steps"]["picture"]
        assert world.answered(question, ["Here.", *pictures], "").right
        assert not world.answered(question, ["Here.", *pictures, blank], "").right
        assert not world.answered(question, ["Nothing."], "").right
    captions = world.questions(dataset / "captions", "test", 1)  # without a question the caption asks
    assert captions == [world.Question(next(tfds.examples(dataset / "captions", "test"))["caption"], 1)]
    with pytest.raises(ValueError, match="no questions"):
        world.questions(dataset / "captions", "test", 0)


class Parrot:
    """Stands for a loaded model: draws a red circle for every prompt, answers every question with one of them."""

    def generate(self, prompts, mode, settings, seed, *, retrieved=None, advance):
        assert retrieved is None
        advance(len(prompts))
        picture = Image.fromarray(render(RED))
        return [api.Answer(p, (picture,) if mode == "picture" else ("Here.", picture), (), (), "") for p in prompts]


def test_the_commands_keep_what_was_drawn_and_answered(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(api, "load", lambda directory, *, rows: Parrot())
    source = ["--captions", str(dataset / "captions"), "--count", "8"]
    command.main(["draw", "--model", "m", *source, "--out", str(tmp_path / "drawn")])
    drawn = samples.load(tmp_path / "drawn")
    captions = world.captions(dataset / "captions", "test", 8)
    expected = [c.scene.layout == "centre" and (c.scene.things[0].shape, c.scene.things[0].colour) for c in captions]
    assert [s.right for s in drawn] == [e == ("circle", "red") for e in expected]
    assert "% of the drawings of one and two shapes are right" in capsys.readouterr().out
    asking = ["--questions", str(dataset / "illustrated"), "--out", str(tmp_path / "answered")]
    command.main(["answer", "--model", "m", *asking])
    answered = samples.load(tmp_path / "answered")
    assert [s.as_asked for s in answered] == [
        q.pictures == 1 for q in world.questions(dataset / "illustrated", "test", 100)
    ]
    scenes = [q.scene for q in world.questions(dataset / "illustrated", "test", 100)]
    thing = [(s.layout, s.things[0].shape, s.things[0].colour) for s in scenes]
    assert [s.right for s in answered] == [t == ("centre", "circle", "red") for t in thing]
    assert "% of the answers end with a picture of what was asked for" in capsys.readouterr().out
    with pytest.raises(ValueError, match="already exists"):
        command.main(["answer", "--model", "m", *asking])


def test_percentages_by_hand():
    marked = [Sample("", (), right=True, kind=FEW)] * 3 + [Sample("", (), right=False, kind=FEW)]
    assert samples.percent_right([*marked, Sample("", (), right=False, kind=THREE)], FEW) == 75
    assert samples.percent_right(marked, THREE) is None
    answers = [
        Sample("", ("a", b"p"), wanted=1),
        Sample("", ("a", b"p"), wanted=2),
        Sample("", ("a",), wanted=1, fault="?"),
        Sample("", ("a",), wanted=0),
    ]
    assert samples.percent_as_asked(answers) == 50
    assert samples.percent_as_asked([]) is None
