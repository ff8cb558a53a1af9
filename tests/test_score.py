"""Scores through the cache are those of one pass without it."""

import numpy as np
import pytest

from jam_jax.decode import prefill, score
from jam_jax.evaluate.perplexity import perplexity
from jam_jax.losses import token_nll
from tests.tiny import forward
from tests.uncached import CONFIGS, JAM, PARAMS

DOCUMENT = [2, 5, 6, 7, 28, 20, 21, 22, 23, 28, *[8, 9] * 12, 2]


@pytest.mark.parametrize("name", ["decoder", "cross"])
@pytest.mark.parametrize("chunk", [8, 512])
def test_chunks_through_the_cache_equal_one_pass(monkeypatch: pytest.MonkeyPatch, name: str, chunk: int) -> None:
    monkeypatch.setattr(prefill, "CHUNK", chunk)
    ids = np.array([DOCUMENT])
    whole = token_nll(forward(CONFIGS[name], PARAMS[name], ids[:, :-1])[0], ids[:, 1:])[0]
    found = score.nll(CONFIGS[name], PARAMS[name], DOCUMENT)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, whole, atol=1e-3)
    expected = perplexity(CONFIGS[name], PARAMS[name], JAM, [np.array(DOCUMENT[1:])]).all
    np.testing.assert_allclose(np.exp(found.astype(np.float64).mean()), expected, rtol=1e-4)


@pytest.mark.parametrize(("ids", "message"), [([2], "2 to 48"), ([2] * 49, "2 to 48"), ([2, 99], "from 0 to 39")])
def test_what_cannot_be_scored_is_told(ids: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score.nll(CONFIGS["decoder"], PARAMS["decoder"], ids)
