"""Requests that wait for a model are its next batch, and each gets its own scores."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from mlaas4hep.errors import ConfigError
from mlaas4hep.protocol.limits import DEFAULTS
from mlaas4hep.serving.models.batching import Batches
from mlaas4hep.serving.models.rows import Matrix


class Sums:
    """A model that sums up rows, refuses those with a negative number, and waits in its first run if it is told to."""

    in_process = False
    rows_independent = True

    def __init__(self, wait: bool = False) -> None:
        self.runs: list[int] = []
        self.begun, self.may_end = threading.Event(), threading.Event()
        self._wait = wait

    def predict(self, rows: Matrix, seconds: float = 50) -> Matrix:
        self.runs.append(len(rows))
        if self._wait and len(self.runs) == 1:
            self.begun.set()
            assert self.may_end.wait(20)
        if (rows < 0).any():
            raise ConfigError("the model cannot take negative numbers")
        return np.sum(rows, axis=1, keepdims=True)


def run(ask: Callable[[Batches], Awaitable[None]], note: Callable[[int], None] = lambda rows: None) -> None:
    async def main() -> None:
        batches = Batches(on_run=lambda predictor, rows, seconds: note(rows))
        try:
            await asyncio.wait_for(ask(batches), 20)
        finally:
            batches.close()

    asyncio.run(main())


def test_requests_that_arrive_during_a_run_are_scored_as_one_batch() -> None:
    model, noted = Sums(wait=True), []

    async def ask(batches: Batches) -> None:
        first = asyncio.ensure_future(batches.score(model, np.full((1, 2), 100, np.float32)))
        await asyncio.get_running_loop().run_in_executor(None, model.begun.wait, 20)
        later = [asyncio.ensure_future(batches.score(model, np.full((2, 2), n, np.float32))) for n in range(50)]
        await asyncio.sleep(0)  # they ask
        model.may_end.set()
        assert (await first).tolist() == [[200]]
        for number, scores in enumerate(await asyncio.gather(*later)):
            assert scores.tolist() == [[2 * number], [2 * number]]

    run(ask, noted.append)
    assert model.runs == noted == [1, 100]


def test_requests_of_the_same_moment_are_one_batch() -> None:
    model = Sums()

    async def ask(batches: Batches) -> None:
        rows = [np.full((1, 3), n, np.float32) for n in range(20)]
        scores = await asyncio.gather(*(batches.score(model, row) for row in rows))
        assert [float(one[0, 0]) for one in scores] == [3.0 * n for n in range(20)]

    run(ask)
    assert model.runs == [20]


def test_a_request_that_the_model_refuses_does_not_spoil_the_others() -> None:
    model = Sums()

    async def ask(batches: Batches) -> None:
        rows = [np.full((1, 2), n, np.float32) for n in (1, -1, 3)]
        good, bad, other = await asyncio.gather(*(batches.score(model, row) for row in rows), return_exceptions=True)
        assert (good.tolist(), other.tolist()) == ([[2]], [[6]])
        assert isinstance(bad, ConfigError)

    run(ask)


def test_many_rows_do_not_wait_for_others_and_others_not_for_them() -> None:
    model = Sums(wait=True)

    async def ask(batches: Batches) -> None:
        many = asyncio.ensure_future(batches.score(model, np.ones((DEFAULTS.run_rows, 2), np.float32)))
        await asyncio.get_running_loop().run_in_executor(None, model.begun.wait, 20)
        assert (await batches.score(model, np.ones((1, 2), np.float32))).tolist() == [[2]]
        model.may_end.set()
        assert (await many).shape == (DEFAULTS.run_rows, 1)

    run(ask)


def test_a_batch_has_an_end() -> None:
    model = Sums()

    async def ask(batches: Batches) -> None:
        rows = np.ones((DEFAULTS.run_rows // 5, 1), np.float32)
        await asyncio.gather(*(batches.score(model, rows) for _ in range(12)))

    run(ask)
    assert max(model.runs) <= DEFAULTS.run_rows
    assert sum(model.runs) == 12 * (DEFAULTS.run_rows // 5)


def test_a_quick_model_of_this_process_needs_no_thread() -> None:
    class Quick(Sums):
        in_process = True
        threads: set[int]

        def predict(self, rows: Matrix, seconds: float = 50) -> Matrix:
            self.threads = {*getattr(self, "threads", ()), threading.get_ident()}
            return super().predict(rows)

    model = Quick()

    async def ask(batches: Batches) -> None:
        for number in range(200):
            scores = await batches.score(model, np.full((1, 2), number, np.float32))
            assert scores.tolist() == [[2 * number]]

    run(ask)
    assert threading.get_ident() in model.threads


def test_a_client_that_has_left_is_not_waited_for() -> None:
    model = Sums(wait=True)

    async def ask(batches: Batches) -> None:
        first = asyncio.ensure_future(batches.score(model, np.ones((1, 1), np.float32)))
        await asyncio.get_running_loop().run_in_executor(None, model.begun.wait, 20)
        gone, stays = (asyncio.ensure_future(batches.score(model, np.ones((1, 1), np.float32))) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        model.may_end.set()
        assert (await stays).tolist() == (await first).tolist() == [[1]]
        with pytest.raises(asyncio.CancelledError):
            await gone

    run(ask)
