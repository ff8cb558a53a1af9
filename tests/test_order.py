"""Orders: each number once, another order for every key, and no table for many rows."""

import pickle

import numpy as np
import pytest

from jam_jax.data import order
from jam_jax.data.order import Order, Orders


@pytest.mark.parametrize("shuffled", [1 << 20, 0])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 64, 1000, 1025])
def test_every_number_comes_once(monkeypatch: pytest.MonkeyPatch, shuffled: int, count: int) -> None:
    monkeypatch.setattr(order, "SHUFFLED", shuffled)
    made = Order((7, 1), count)
    places = np.arange(count)
    numbers = made(places)
    assert numbers.dtype == np.int64
    assert len(made) == count
    assert sorted(numbers.tolist()) == places.tolist()
    np.testing.assert_array_equal(made(places[::-1]), numbers[::-1])  # each place on its own
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(made))(places), numbers)
    np.testing.assert_array_equal(Order((7, 1), count)(places), numbers)
    if count >= 64:
        others = [Order(key, count)(places) for key in ((7, 2), (8, 1), (7,))]
        assert all((other != numbers).mean() > 0.9 for other in others)


def test_a_bijection_without_a_table_looks_shuffled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "SHUFFLED", 0)
    count = 50_000  # far from a power of two, so that numbers outside of the range come up
    for seed in range(3):
        numbers = Order((seed,), count)(np.arange(count))
        steps = np.diff(numbers)
        assert abs(np.corrcoef(np.arange(count), numbers)[0, 1]) < 0.02
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.02
        assert len(np.unique(steps)) > 0.5 * count  # a mere multiplication would have a few steps only
        # Any run of places holds numbers from everywhere.
        held = np.histogram(numbers[:5000], bins=10, range=(0, count))[0]
        assert (abs(held - 500) < 120).all()


def test_orders_of_epochs_are_made_when_asked_for_and_travel() -> None:
    orders = Orders((3, 4), 100)
    places = np.arange(100)
    first = [orders[epoch](places) for epoch in range(4)]
    assert len({row.tobytes() for row in first}) == 4
    again = pickle.loads(pickle.dumps(orders))
    assert all((again[epoch](places) == first[epoch]).all() for epoch in (3, 0, 2))
    np.testing.assert_array_equal(first[2], Order((3, 4, 2), 100)(places))
