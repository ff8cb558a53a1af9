"""FID's Inception: features as PyTorch computes them, weights to the bit, FID by hand, misfits in one line."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from jam_jax import checkpoint
from jam_jax.config import model_from_dict, to_dict
from jam_jax.convert import families
from jam_jax.data.formats.pictures import png
from jam_jax.data.inception_pictures import inception_pictures
from jam_jax.evaluate.__main__ import main
from jam_jax.evaluate.inception import Features
from jam_jax.model_config import InceptionConfig
from jam_jax.models import inception
from jam_jax.trees import paths
from tests.banks import clip_model
from tests.inceptions import Inception
from tests.test_convert_clip import command, gathered

SIDES = [(299, 299), (31, 64), (400, 321), (1, 500), (299, 17), (64, 64), (5, 5), (700, 90)]


def pictures(seed: int = 0) -> list[np.ndarray]:
    """Random pictures of all sorts of sizes, of few colours to begin with."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 60 + 28 * i, (*side, 3), np.uint8) for i, side in enumerate(SIDES)]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory):
    """A narrow network of PyTorch, its file in the form of the published one, what it makes of pictures, and ours."""
    root, network = tmp_path_factory.mktemp("inception"), Inception(2)
    expected = [network.features(pictures(seed)) for seed in (0, 1)]
    classifier = {"fc.weight": torch.zeros(1008, 128), "fc.bias": torch.zeros(1008)}
    path = root / "pt_inception-2015-12-05-6726825d.pth"
    torch.save(network.state | classifier, path, _use_new_zipfile_serialization=False)
    assert command("import", "--source", path, "--target", root / "ours") == 0
    return root, network.state, expected


def test_features_are_those_of_pytorch(theirs) -> None:
    root, _, expected = theirs
    ours = Features(root / "ours")
    assert ours.config == InceptionConfig(channels=2) and ours.width == 128
    found = ours.features([png(p) for p in pictures()])
    assert found.dtype == np.float32 and found.shape == expected[0].shape == (8, 128)
    assert (expected[0].std(axis=0) > 1e-3).mean() > 0.5  # those that no picture wakes say nothing
    np.testing.assert_allclose(found, expected[0], rtol=2e-3, atol=2e-4)
    assert ours.features([]).shape == (0, 128)


def test_the_real_size_is_torchvisions() -> None:
    shapes = paths(inception.shapes(InceptionConfig()))
    convolutions = [path for path in shapes if path.endswith("/kernel")]
    assert len(convolutions) == 94 and InceptionConfig().width == 2048
    # 23,834,568 of torchvision with 1,000 classes and without the second classifier, less the classifier; ours counts
    # the means and variances too.
    trained = sum(leaf.size for path, leaf in shapes.items() if path.split("/")[-1] in ("kernel", "scale", "bias"))
    assert trained == 23_834_568 - 2049 * 1000


@pytest.mark.parametrize("side", SIDES)
def test_pictures_are_resized_as_pytorch_does_it(side: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*side, 3), np.uint8)
    found = inception_pictures(299, [png(pixels)])
    scaled = torch.tensor(pixels).permute(2, 0, 1)[None] / 255
    expected = 2 * F.interpolate(scaled, (299, 299), mode="bilinear", align_corners=False) - 1
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.permute(0, 2, 3, 1).numpy(), atol=2e-4)  # places are rounded in float32


def test_an_average_leaves_the_padding_out_and_a_maximum_knows_none() -> None:
    ones = -np.ones((1, 4, 4, 1), np.float32)
    for pool in ("average", "maximum", "reduce"):
        np.testing.assert_allclose(inception._pooled(ones, pool), -1, rtol=1e-6)


def test_weights_are_kept_to_the_bit_whatever_the_file(theirs, tmp_path: Path) -> None:
    root, state, _ = theirs
    config, params = checkpoint.load_model(root / "ours")
    assert model_from_dict(to_dict(config)) == config
    ours = paths(params)
    assert len(ours) == len(state) == 94 * 5
    kernel = ours["Mixed_6b/branch7x7_2/kernel"]
    np.testing.assert_array_equal(kernel, state["Mixed_6b.branch7x7_2.conv.weight"].permute(2, 3, 1, 0).numpy())
    np.testing.assert_array_equal(
        ours["Mixed_7c/branch1x1/variance"], state["Mixed_7c.branch1x1.bn.running_var"].numpy()
    )
    counted = {"Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(3)}
    torch.save(state | counted, tmp_path / "new.pt")
    save_file(state, tmp_path / "safe.safetensors")
    for name in ("new.pt", "safe.safetensors"):
        again, same = gathered(tmp_path / name)
        assert again == config
        jax.tree.map(np.testing.assert_array_equal, same, params)


def test_fid_is_the_distance_computed_by_hand(theirs, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root, _, expected = theirs
    for seed, name in enumerate(("drawn", "real")):
        (tmp_path / name).mkdir()
        for i, pixels in enumerate(pictures(seed)):
            (tmp_path / name / f"{i}.png").write_bytes(png(pixels))
    options = ["pictures", "--pictures", f"{tmp_path}/drawn", "--inception", f"{root}/ours"]
    main(
        [
            *options,
            "--reference",
            f"{tmp_path}/real",
            "--out",
            f"{tmp_path}/out.json",
            "--save-moments",
            f"{tmp_path}/m.npz",
        ]
    )
    found = json.loads((tmp_path / "out.json").read_text())
    apart = [(x - x.mean(0, dtype=float)) / np.sqrt(7) for x in expected]
    # Of centred rows A and B: the trace of the root of their covariances' product is the nuclear norm of A B^T.
    both = np.linalg.norm(apart[0] @ apart[1].T, "nuc")
    means = ((expected[0].mean(0, dtype=float) - expected[1].mean(0, dtype=float)) ** 2).sum()
    fid = means + sum((x**2).sum() for x in apart) - 2 * both
    assert found["fid"] == pytest.approx(fid, rel=5e-3)
    assert found["fd_clip"] is found["clip_score"] is None and not found["fid_full_rank"] and "clip" not in found
    said = capsys.readouterr()
    assert f"(8 pictures): FID {found['fid']:.4f} to {tmp_path}/real (8 pictures), by {root}/ours" in said.out
    assert "8 pictures are too few for a covariance of 128 features" in said.err
    for wrong, message in [
        (
            [*options, "--reference", f"{tmp_path}/m.npz", "--clip", str(clip_model(tmp_path / "clip"))],
            "no moments by --clip",
        ),
        ([*options[:3], "--inception", f"{tmp_path}/clip", "--reference", "x"], "no file or directory x"),
        (
            [*options[:3], "--inception", f"{tmp_path}/clip", "--reference", f"{tmp_path}/real"],
            "clip is a CLIP, not the Inception network of FID",
        ),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            main(wrong)
        assert "\n" not in str(error.value)


def test_files_that_are_no_inception_are_one_line(theirs, tmp_path: Path) -> None:
    root, state, _ = theirs
    without = {name: tensor for name, tensor in state.items() if name != "Mixed_5b.branch1x1.bn.running_mean"}
    cases = {
        "missing": (without, r"missing: Mixed_5b\.branch1x1\.bn\.running_mean"),
        "extra": (state | {"AuxLogits.fc.bias": torch.zeros(1)}, r"left over: AuxLogits\.fc\.bias"),
        "odd": (state | {"Conv2d_1a_3x3.conv.weight": torch.zeros(3, 3, 3, 3)}, r"is \[3, 3, 3, 3\], not \[32, 3"),
        "other": ({"fc.weight": torch.zeros(1)}, "no Inception network of FID: expected the file pt_inception-2015"),
        "shape": (state | {"Conv2d_2a_3x3.conv.weight": torch.zeros(2, 2, 1, 3)}, "mis-shaped: Conv2d_2a_3x3.conv"),
    }
    for name, (held, message) in cases.items():
        torch.save(held, tmp_path / f"{name}.pth")
        with pytest.raises(ValueError, match=message) as error:
            families.read(tmp_path / f"{name}.pth", "inception")
        assert "\n" not in str(error.value)
    whole = (root / "pt_inception-2015-12-05-6726825d.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="half.pth"):
        families.read(tmp_path / "half.pth", "inception")
    with pytest.raises(ValueError, match=r"this Inception reads pictures \[B, 80, 80, 3\], got \[1, 81, 80, 3\]"):
        inception.features(InceptionConfig(2, 80), {}, np.zeros((1, 81, 80, 3)))
    for wrong, message in (((3, 299), "channels must be even"), ((2, 74), "resolution must be at least 75")):
        with pytest.raises(ValueError, match=message):
            InceptionConfig(*wrong)
