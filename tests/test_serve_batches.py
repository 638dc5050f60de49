"""Scoring together: what arrives in one turn is one batch, answers find their requests, bundles are
never mixed.
"""

import asyncio

import numpy as np
import pytest

from serve.batches import MAX_ROWS, Batches


class Sum:
    """A bundle that scores a row by its sum, and remembers how many rows came at once."""

    def __init__(self, error=None):
        self.sizes, self.error = [], error

    def predict(self, X):
        self.sizes.append(len(X))
        if self.error:
            raise self.error
        return (X.sum(axis=1) > 10).astype(np.int8), X.sum(axis=1).astype(np.float64)


def rows(n, value=1.0):
    return np.full((n, 3), value, np.float32)


def together(*requests):
    """The outcomes of requests (bundle, X) that arrive in one turn of the loop."""

    async def ask():
        batches = Batches()
        return await asyncio.gather(
            *(batches.score(*request) for request in requests), return_exceptions=True
        )

    return asyncio.run(ask())


def test_what_arrives_together_is_one_batch_and_each_gets_its_own():
    bundle = Sum()
    found = together(*((bundle, rows(n, value)) for n, value in ((1, 1.0), (3, 2.0), (2, 5.0))))
    assert bundle.sizes == [6]
    assert [scores.tolist() for _, scores, _ in found] == [[3.0], [6.0] * 3, [15.0] * 2]
    assert [predictions.tolist() for predictions, _, _ in found] == [[0], [0] * 3, [1] * 2]
    assert all(seconds >= 0 for _, _, seconds in found)


def test_a_batch_is_bounded_but_takes_one_request_of_any_size():
    bundle = Sum()
    together(*((bundle, rows(n)) for n in (200, 200, 200, MAX_ROWS + 1, 5)))
    assert bundle.sizes == [400, 200, MAX_ROWS + 1, 5]


def test_two_bundles_are_not_mixed():
    old, new = Sum(), Sum()
    found = together((old, rows(1)), (old, rows(1)), (new, rows(2)), (old, rows(1)))
    assert (old.sizes, new.sizes) == ([2, 1], [2])
    assert [len(scores) for _, scores, _ in found] == [1, 1, 2, 1]


def test_a_failure_is_told_to_its_batch_only():
    broken, whole = Sum(error=ValueError("broken")), Sum()
    found = together((broken, rows(1)), (broken, rows(1)), (whole, rows(1)))
    assert [type(each) for each in found] == [ValueError, ValueError, tuple]


def test_a_client_that_has_gone_does_not_disturb_the_others():
    async def ask(error=None):
        batches, bundle = Batches(), Sum(error)
        gone = asyncio.ensure_future(batches.score(bundle, rows(1)))
        stays = asyncio.ensure_future(batches.score(bundle, rows(2)))
        await asyncio.sleep(0)
        gone.cancel()
        return await stays

    assert asyncio.run(ask())[1].tolist() == [3.0, 3.0]
    with pytest.raises(ValueError, match="broken"):
        asyncio.run(ask(ValueError("broken")))


def test_other_work_gets_its_turn_between_two_batches():
    async def ask():
        batches, bundle, seen = Batches(), Sum(), []
        waiting = [asyncio.ensure_future(batches.score(bundle, rows(MAX_ROWS))) for _ in range(3)]
        while not all(each.done() for each in waiting):
            seen.append(len(bundle.sizes))
            await asyncio.sleep(0)
        return seen

    assert {1, 2} <= set(asyncio.run(ask()))
