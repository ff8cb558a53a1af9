"""The last few results are kept, the others are made again, and copies begin empty."""

import pickle
import threading

from jam_jax.data.recent import Recent


def test_a_result_is_made_once_while_it_is_recent() -> None:
    recent: Recent[int] = Recent(2)
    made: list[int] = []

    def get(key: int) -> int:
        return recent.get(key, lambda: made.append(key) or key * 10)

    assert [get(k) for k in (1, 2, 1, 2, 3, 2, 1)] == [10, 20, 10, 20, 30, 20, 10]
    assert made == [1, 2, 3, 1]
    copy = pickle.loads(pickle.dumps(recent))
    assert copy.get(1, lambda: -1) == -1


def test_threads_share_it() -> None:
    recent: Recent[int] = Recent(3)
    found: list[bool] = []

    def ask() -> None:
        found.append(all(recent.get(k % 7, lambda k=k: k % 7) == k % 7 for k in range(2000)))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4
