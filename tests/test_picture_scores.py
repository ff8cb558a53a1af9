"""The `pictures` command: figures as computed by hand from transformers' model, whoever reads which pictures."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm

from jam_jax import checkpoint
from jam_jax.data.clip_pictures import clip_pictures
from jam_jax.data.clip_text import OPENAI
from jam_jax.data.formats.pictures import png
from jam_jax.evaluate import picture_scores, picture_sets, samples
from jam_jax.evaluate.__main__ import main
from jam_jax.evaluate.frechet import moments
from jam_jax.evaluate.picture_scores import Pictures, Seen, figures, look
from jam_jax.evaluate.samples import FEW, THREE, Sample
from jam_jax.retrieval.encode import Encoder
from tests.banks import VQGAN, clip_model, random_params
from tests.test_convert_clip import MERGES, command, their_vectors, tiny
from tests.threads import as_processes
from tests.training import finish, start

CAPTIONS = [f"the cat {i} " + "and the cat" * (i % 3) for i in range(12)]


def pixels(i: int) -> np.ndarray:
    """Random pictures of several sizes and moods."""
    rng = np.random.default_rng(i)
    return rng.integers(0, min(60 + 12 * i, 256), (18 + i, 21, 3), np.uint8)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory):
    """A directory with a random CLIP of transformers as ours, drawings and real pictures; and that CLIP itself."""
    root, model = tmp_path_factory.mktemp("scores"), tiny()
    model.save_pretrained(root / "published")
    with gzip.open(root / "published" / OPENAI, "wt") as file:
        file.write("\n".join(["a version", *MERGES]))
    assert command("import", "--source", root / "published", "--target", root / "clip") == 0
    for name in ("drawn", "real"):
        (root / name).mkdir()
    for i, caption in enumerate(CAPTIONS):
        Image.fromarray(pixels(i)).save(root / f"drawn/{i:02d}.png")
        (root / f"drawn/{i:02d}.txt").write_text(caption)
        Image.fromarray(pixels(i + 20)[::-1] // 2).save(root / f"real/{i:02d}.png")
    return root, model


@pytest.fixture(scope="module")
def encoder(theirs) -> Encoder:
    return Encoder(theirs[0] / "clip")


def by_hand(model, encoder: Encoder, prefix: str = "") -> dict[str, float]:
    """What transformers' model says of the drawings, the real ones and the captions, all in float64 from there on."""
    ids = encoder.tokenizer.encode([prefix + caption.strip() for caption in CAPTIONS], encoder.config.context)
    squares = clip_pictures(encoder.config, [pixels(i) for i in range(12)])
    real = clip_pictures(encoder.config, [pixels(i + 20)[::-1] // 2 for i in range(12)])
    of_texts, of_pictures, _ = their_vectors(model, ids, squares)
    cosines = (of_texts.astype(float) * of_pictures).sum(1)
    assert cosines.min() < 0 < cosines.max()  # so that the bend at 0 counts
    with torch.no_grad():
        both = [
            model.visual_projection(model.vision_model(torch.tensor(x).permute(0, 3, 1, 2)).pooler_output).numpy()
            for x in (squares, real)
        ]
    (m1, c1), (m2, c2) = ((x.astype(float).mean(0), np.cov(x.astype(float), rowvar=False)) for x in both)
    score = 2.5 * np.maximum(cosines, 0)
    return {
        "clip_score": score.mean(),
        "clip_score_standard_error": score.std(ddof=1) / np.sqrt(12),
        "cosine_x100": 100 * cosines.mean(),
        "cosine_x100_standard_error": 100 * cosines.std(ddof=1) / np.sqrt(12),
        "fd_clip": ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real),
    }


def agrees(found: dict, expected: dict[str, float]) -> None:
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


def test_figures_are_those_computed_by_hand(theirs, encoder: Encoder, tmp_path: Path, capsys) -> None:
    root, model = theirs
    options = ["pictures", "--pictures", f"{root}/drawn", "--clip", f"{root}/clip"]
    expected = by_hand(model, encoder)
    kept = ["--out", f"{tmp_path}/new/a.json", "--save-moments", f"{tmp_path}/real.npz"]
    main([*options, "--reference", f"{root}/real", *kept])
    found = json.loads((tmp_path / "new/a.json").read_text())
    agrees(found, expected)
    assert found["count"] == found["reference_count"] == 12 and found["fd_clip_full_rank"] and not found["damaged"]
    assert found["clip"] == {"path": f"{root}/clip", "fingerprint": encoder.fingerprint, "width": 7}
    said = capsys.readouterr()
    distance = f"FD-CLIP (Fréchet distance over CLIP's features, not FID) {found['fd_clip']:.4f} to"
    assert f"{root}/drawn (12 pictures): {distance} {root}/real (12 pictures), by {root}/clip" in said.out
    assert f"CLIPScore (2.5 max(cos, 0)) {found['clip_score']:.4f} ± " in said.out and "warning" not in said.err

    main(
        [*options, "--reference", f"{tmp_path}/real.npz", "--out", f"{tmp_path}/b.json", "--prefix", "A photo depicts "]
    )
    again = json.loads((tmp_path / "b.json").read_text())
    assert again["fd_clip"] == pytest.approx(found["fd_clip"], rel=1e-9)
    agrees(again, by_hand(model, encoder, "A photo depicts "))
    assert abs(again["clip_score"] - found["clip_score"]) > 1e-3


def test_batches_and_processes_change_nothing(theirs, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = theirs[0]
    drawn, real = picture_sets.open_set(root / "drawn", 0).source, picture_sets.open_reference(root / "real", "test", 0)

    def measured(_: int = 0) -> dict:
        seen = look(drawn, {"clip": encoder}, encoder, task="pictures")
        return figures(seen, look(real, {"clip": encoder}, task="reference"))

    whole = measured()
    monkeypatch.setattr(picture_scores, "BATCH", 5)
    for found in (measured(), *as_processes(3, measured)):
        assert found.keys() == whole.keys()
        for name, value in whole.items():
            assert found[name] == (None if value is None else pytest.approx(value, rel=1e-5)), name


@pytest.mark.long
def test_two_processes_print_what_one_does(theirs, tmp_path: Path) -> None:
    root, found = theirs[0], []
    for processes in (1, 2):
        options = ["pictures", "--pictures", f"{root}/drawn", "--clip", f"{root}/clip", "--reference", f"{root}/real"]
        more = ["--out", f"{tmp_path}/{processes}.json", "--save-moments", f"{tmp_path}/{processes}.npz"]
        said = finish(start([*options, *more], module="evaluate", processes=processes, devices=2))
        assert "FD-CLIP" in said[0] and "FD-CLIP" not in "".join(said[1:])
        found.append(json.loads((tmp_path / f"{processes}.json").read_text()))
    for name in ("fd_clip", "clip_score", "clip_score_standard_error", "cosine_x100"):
        assert found[1][name] == pytest.approx(found[0][name], rel=1e-5)
    with np.load(tmp_path / "1.npz") as one, np.load(tmp_path / "2.npz") as two:
        np.testing.assert_allclose(two["clip/scatter"], one["clip/scatter"], rtol=1e-5)


def test_damaged_pictures_are_counted_and_skipped_on_every_process(encoder: Encoder, tmp_path: Path, capsys) -> None:
    for i in range(12):
        (tmp_path / f"{i:02d}.png").write_bytes(png(pixels(i))[: 40 if i in (2, 11) else None])
    source = picture_sets.open_set(tmp_path, 0.2).source
    whole = look(source, {"clip": encoder}, task="pictures")
    assert whole.damaged == 2 and whole.moments["clip"].count == 10
    assert "skipped 02.png: " in capsys.readouterr().err
    for seen in as_processes(2, lambda _: look(source, {"clip": encoder}, task="pictures")):
        assert seen.damaged == 2 and seen.moments["clip"].count == 10
        np.testing.assert_allclose(seen.moments["clip"].mean, whole.moments["clip"].mean, rtol=1e-5)
    # One of two shares has one damaged of all twelve, and would be let through by itself.
    strict = picture_sets.open_set(tmp_path, 0.1).source
    for error in as_processes(2, lambda _: look(strict, {"clip": encoder}, task="pictures")):
        assert isinstance(error, ValueError) and "2 of 12 records are damaged, more than 10%" in str(error)


def test_few_pictures_are_warned_of_and_one_has_no_distance(theirs, tmp_path: Path, capsys) -> None:
    root = theirs[0]
    samples.save(
        [Sample(f"cat {i}", (png(pixels(i)),) * (i < 4), right=i < 2, kind=THREE if i else FEW) for i in range(5)],
        tmp_path / "drawn",
    )
    options = ["pictures", "--clip", f"{root}/clip", "--out", f"{tmp_path}/out.json"]
    main([*options, "--pictures", f"{tmp_path}/drawn", "--reference", f"{root}/real"])
    said = capsys.readouterr()
    assert said.err.count("\n") == 2 and "no picture came of 1 prompts" in said.err
    assert "warning: 4 pictures are too few for a covariance of 7 features" in said.err
    assert "100.0% of the drawings of one and two shapes are right" in said.out
    found = json.loads((tmp_path / "out.json").read_text())
    assert not found["fd_clip_full_rank"] and found["undrawn"] == 1 and found["right"] == {FEW: 100.0, THREE: 25.0}

    (tmp_path / "one").mkdir()
    (tmp_path / "one/a.png").write_bytes(png(pixels(1)))
    (tmp_path / "one/a.txt").write_text("the cat")
    main([*options, "--pictures", f"{tmp_path}/one"])
    alone = json.loads((tmp_path / "out.json").read_text())
    assert alone["clip_score"] is not None and alone["clip_score_standard_error"] is None and alone["fd_clip"] is None
    with pytest.raises(ValueError, match="needs two pictures or more, and .*one has one"):
        main([*options, "--pictures", f"{tmp_path}/one", "--reference", f"{root}/real"])
    with pytest.raises(ValueError, match="there is no picture that can be read"):
        figures(Seen({"clip": moments(np.empty((0, 3)))}), None)


def test_mistakes_are_one_line_and_write_nothing(theirs, tmp_path: Path) -> None:
    root = theirs[0]
    drawn, clip, out = ["--pictures", f"{root}/drawn"], ["--clip", f"{root}/clip"], ["--out", f"{tmp_path}/out.json"]
    clip_model(tmp_path / "other")
    main(["pictures", *drawn, *clip, "--reference", f"{root}/real", "--save-moments", f"{tmp_path}/real.npz"])
    checkpoint.save_model(tmp_path / "vqgan", VQGAN, random_params(checkpoint.shapes(VQGAN), 0.3))
    plain = ["--pictures", f"{root}/real"]
    for options, message in [
        ([*plain, *clip], "real has no captions and there is no --reference: there is nothing to compare with"),
        (
            [*plain, *clip, "--reference", f"{root}/real", "--prefix", "A photo of "],
            "--prefix stands before captions, and .*real has none",
        ),
        ([*drawn, "--clip", f"{tmp_path}/vqgan"], "vqgan is an image tokenizer, no CLIP"),
        ([*drawn, "--clip", f"{root}/published"], "published is no model directory: it has no model.json"),
        (
            [*drawn, "--clip", f"{tmp_path}/other", "--reference", f"{tmp_path}/real.npz"],
            "real.npz are of another network",
        ),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            main(["pictures", *options, *out])
        assert "\n" not in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "other-text", "real.npz", "vqgan"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "name a network that looks at the pictures: --clip, --inception, or both"),
        ({"inception": "i"}, "FID compares with real pictures: name these with --reference"),
        ({"inception": "i", "reference": "r", "captions": "c"}, "are for the CLIP score: name a CLIP with --clip"),
        ({"clip": "c", "save_moments": "x.npz"}, "keeps the moments of real pictures: name these with --reference"),
        ({"clip": "c", "reference": "r.npz", "save_moments": "x.npz"}, "name these with --reference"),
        ({"clip": "c", "reference": "r", "save_moments": "x"}, "--save-moments writes a file .npz, got x"),
        ({"clip": "c", "damaged": 2}, "--damaged is a share from 0 to 1, got 2"),
    ],
)
def test_options_that_do_not_fit_together_are_one_line(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pictures("p", **options)
