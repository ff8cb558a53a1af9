"""Moments and the Fréchet distance: streamed as of all at once, shared as of one, as closed forms and scipy have it."""

from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import sqrtm

from jam_jax.evaluate import frechet
from jam_jax.evaluate.frechet import Moments, distance, moments, total
from tests.threads import as_processes


def rows(count: int, width: int = 5, seed: int = 0) -> np.ndarray:
    """Vectors whose columns depend on each other, far from 0."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) + rng.normal(0, 3, width)


def gaussian(mean: np.ndarray, covariance: np.ndarray, count: int = 1000) -> Moments:
    """Moments of a set with just this mean and covariance."""
    return Moments(count, np.asarray(mean, float), covariance * (count - 1))


@pytest.mark.parametrize("far", [0.0, 1e6])
@pytest.mark.parametrize("batch", [1, 2, 7, 100])
def test_moments_of_batches_are_numpys_of_all(batch: int, far: float) -> None:
    whole = rows(43) + far
    found = moments(whole[:0])
    for i in range(0, len(whole), batch):
        found += moments(whole[i : i + batch])
    assert found.count == 43
    np.testing.assert_allclose(found.mean, whole.mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.covariance, np.cov(whole, rowvar=False), rtol=0, atol=1e-9 if far else 1e-13)
    np.testing.assert_allclose(found.errors, whole.std(0, ddof=1) / np.sqrt(43), rtol=1e-8)


def test_features_in_float32_are_summed_in_float64() -> None:
    found = moments(np.full((3, 2), 0.1, np.float32))
    assert found.mean.dtype == found.scatter.dtype == np.float64
    assert found.mean.tolist() == pytest.approx([np.float32(0.1)] * 2, abs=1e-15)


@pytest.mark.parametrize("gathered", [1, 1 << 20])
def test_processes_have_together_what_one_has(gathered: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frechet, "GATHERED", gathered)
    whole = rows(40)
    shares = [moments(part) for part in (whole[:0], whole[:1], whole[1:29], whole[29:])]
    found = as_processes(4, lambda i: total(shares[i]))
    for each in found:
        assert each.count == 40
        np.testing.assert_allclose(each.mean, whole.mean(0), rtol=1e-13)
        np.testing.assert_allclose(each.covariance, np.cov(whole, rowvar=False), rtol=1e-12)
        np.testing.assert_array_equal(each.scatter, found[0].scatter)
    assert total(shares[2]) is shares[2]
    nothing = as_processes(2, lambda i: total(shares[0]))
    assert nothing[0].count == 0 and not nothing[0].mean.any()


def test_gaussians_of_independent_features_have_a_closed_form() -> None:
    m1, m2, s1, s2 = np.abs(rows(4, 6))
    found = distance(gaussian(m1, np.diag(s1**2)), gaussian(m2, np.diag(s2**2)))
    assert found == pytest.approx(((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum(), rel=1e-12)


@pytest.mark.parametrize("count", [30, 8, 3])  # the last two do not have full rank
def test_the_distance_is_that_of_scipys_square_root(count: int) -> None:
    one, other = rows(40, 9), rows(count, 9, seed=1)
    a, b = (np.cov(each, rowvar=False) for each in (one, other))
    # Moved a little, since scipy cannot take the root of a product that is singular.
    root = sqrtm((a + 1e-12 * np.eye(9)) @ (b + 1e-12 * np.eye(9))).real
    expected = ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)
    assert distance(moments(one), moments(other)) == pytest.approx(expected, rel=1e-5 if count < 10 else 1e-9)
    assert distance(moments(other), moments(one)) == pytest.approx(distance(moments(one), moments(other)), rel=1e-7)
    assert moments(other).full_rank == (count > 9)


def test_a_set_is_at_no_distance_from_itself_and_a_moved_one_at_the_square_of_the_way() -> None:
    one = rows(6, 9)
    assert 0 <= distance(moments(one), moments(one)) < 1e-5
    assert distance(moments(one), moments(one + 2.0)) == pytest.approx(9 * 4, rel=1e-6)


def test_what_has_no_distance_is_one_line() -> None:
    with pytest.raises(ValueError, match="needs two pictures or more on either side, got 1"):
        distance(moments(rows(4)), moments(rows(1)))
    assert np.isnan(moments(rows(1)).errors).all() and np.isnan(moments(rows(0)).errors).all()
    with pytest.raises(ValueError, match="NaN or infinite numbers: the network's weights are damaged"):
        moments(np.array([[1, np.nan]]))


def test_moments_are_kept_to_the_bit_and_those_of_another_network_refused(tmp_path: Path) -> None:
    held = {"clip": moments(rows(7)), "other": moments(rows(4, 3))}
    path = tmp_path / "new/real.npz"
    frechet.save(path, held, {"clip": "aa", "other": "bb"})
    found = frechet.load(path, {"clip": "aa"})
    assert found.keys() == {"clip"} and found["clip"].count == 7
    np.testing.assert_array_equal(found["clip"].mean, held["clip"].mean)
    np.testing.assert_array_equal(found["clip"].scatter, held["clip"].scatter)
    assert frechet.load(path, {"clip": "aa", "other": "bb"})["other"].mean.shape == (3,)
    for wanted, message in [
        ({"clip": "cc"}, r"real.npz are of another network \(fingerprint aa\) than --clip names \(cc\)"),
        ({"clip": "aa", "third": "dd"}, "real.npz has no moments by --third"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            frechet.load(path, wanted)
        assert "\n" not in str(error.value)


def test_files_that_hold_no_moments_are_one_line(tmp_path: Path) -> None:
    held = {"clip": moments(rows(7))}
    frechet.save(tmp_path / "whole.npz", held, {"clip": "aa"})
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npz").write_text("nothing")
    (tmp_path / "empty.npz").write_text("")
    np.savez(tmp_path / "others.npz", mu=np.zeros(3), sigma=np.eye(3))
    with np.load(tmp_path / "whole.npz") as arrays:
        np.savez(tmp_path / "shape.npz", **{**arrays, "clip/mean": np.zeros(4)})
        np.savez(tmp_path / "pickle.npz", **{**arrays, "clip/mean": np.array([{}], object)})
    for name in ("half", "text", "empty", "others", "shape", "pickle", "missing"):
        with pytest.raises(ValueError, match=f"{name}.npz holds no moments that can be read") as error:
            frechet.load(tmp_path / f"{name}.npz", {"clip": "aa"})
        assert "\n" not in str(error.value)
