"""Dynamic batching: concurrent requests for a model share one run of it.

    batches = Batches()
    scores = await batches.score(predictor, matrix)

While a model runs, requests for it are queued. When the run ends, all queued requests form the next batch. No request
waits for a batch to fill up, and batches grow with the load. A request with many rows is run alone, and so is every
request for a model whose scores of a row depend on the other rows.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np

from mlaas4hep.protocol.limits import DEFAULTS, Limits
from mlaas4hep.serving.models.deadlines import TooLong
from mlaas4hep.serving.models.predictor import Predictor
from mlaas4hep.serving.models.rows import Matrix

_FULL_BATCH = 32  # rows; the time of smaller batches is extrapolated to this number
_QUICK = 0.001  # seconds; a model that needs less for a full batch runs in the event loop: a thread would cost as much
_QUICK_LIMIT = 0.1  # seconds; a model that exceeds it in the event loop is run in threads from then on
_LARGE_REQUESTS = 2  # requests with many rows that one model processes at the same time


OnRun = Callable[[Predictor, int, float], None]
ScoresCallback = Callable[[Matrix | Exception], None]
"""Called in the event loop with the scores or an error; must not raise."""


class Batches:
    """The queues of all models; belongs to one event loop.

    Args:
        threads: number of threads for models in this process, and the same number for models in subprocesses.
        on_run: called after every run with the model, the number of rows and the seconds; maybe in a thread.
        limits: limits of rows, bytes and time per batch. A request with a quarter of the rows or bytes is run alone.
    """

    def __init__(
        self, threads: int = 32, on_run: OnRun = lambda predictor, rows, seconds: None, limits: Limits = DEFAULTS
    ) -> None:
        self._limits = limits
        self._pools = {
            True: ThreadPoolExecutor(threads, thread_name_prefix="model"),
            False: ThreadPoolExecutor(threads, thread_name_prefix="model-process"),
        }
        self._on_run = on_run
        self._queues: dict[int, _Queue] = {}

    def queue(self, predictor: Predictor, rows: Matrix, callback: ScoresCallback) -> bool:
        """Queue rows and pass their scores to the callback later; return False if there are too many rows."""
        if len(rows) >= self._limits.run_rows // 4 or rows.nbytes >= self._limits.run_size // 4:
            return False
        self._queue(predictor).add(predictor, rows, callback)
        return True

    async def score(self, predictor: Predictor, rows: Matrix) -> Matrix:
        """Return the scores, float32 (n, k), of rows, float32 (n, ...).

        Raises:
            ConfigError, ServiceError: see `Predictor.predict`.
        """
        scores: asyncio.Future[Matrix] = asyncio.get_running_loop().create_future()
        if self.queue(predictor, rows, partial(_resolve, scores)):
            return await scores
        async with self._queue(predictor).large_requests:
            return await asyncio.get_running_loop().run_in_executor(
                self._pools[predictor.in_process], self._predict, predictor, rows
            )

    def _predict(self, predictor: Predictor, rows: Matrix) -> Matrix:
        began = time.perf_counter()
        try:
            return predictor.predict(rows, self._limits.request_time)
        finally:
            self._on_run(predictor, len(rows), time.perf_counter() - began)

    def _queue(self, predictor: Predictor) -> _Queue:
        """Return the queue of a model; it is removed when the model is garbage-collected."""
        if id(predictor) not in self._queues:
            self._queues[id(predictor)] = _Queue(self._pools[predictor.in_process], self._on_run, self._limits)
            weakref.finalize(predictor, self._queues.pop, id(predictor), None)
        return self._queues[id(predictor)]

    def close(self) -> None:
        """Shut the threads down without waiting for runs that have begun."""
        for pool in self._pools.values():
            pool.shutdown(wait=False)


def _resolve(scores: asyncio.Future[Matrix], result: Matrix | Exception) -> None:
    if scores.done():  # the request was cancelled
        return
    if isinstance(result, Exception):
        scores.set_exception(result)
    else:
        scores.set_result(result)


class _QueuedRows(NamedTuple):
    rows: Matrix
    callback: ScoresCallback


_Batch = list[_QueuedRows]
Results = list[Matrix | Exception]


class _Queue:
    """The queued requests for one model, which runs one batch at a time. It holds no reference to the model."""

    def __init__(self, pool: ThreadPoolExecutor, on_run: OnRun, limits: Limits) -> None:
        self._pool = pool
        self._limits = limits
        self._on_run = on_run
        self.large_requests = asyncio.Semaphore(_LARGE_REQUESTS)
        self._full_batch_time, self._stays_quick = math.inf, True
        self._queued: list[_QueuedRows] = []
        self._running = False

    def add(self, predictor: Predictor, rows: Matrix, callback: ScoresCallback) -> None:
        self._queued.append(_QueuedRows(rows, callback))
        if not self._running:
            self._running = True
            loop = asyncio.get_running_loop()
            loop.call_soon(self._run, loop, predictor)  # other requests that have arrived join the batch

    def _run(self, loop: asyncio.AbstractEventLoop, predictor: Predictor) -> None:
        batch = self._next_batch(predictor.rows_independent)
        if self._stays_quick and self._full_batch_time < _QUICK:
            results = self._run_timed(predictor, batch, _QUICK_LIMIT)
            self._stays_quick = not any(isinstance(scores, TooLong) for scores in results)
            if self._stays_quick:
                self._deliver(loop, predictor, batch, results)
                return
        run = loop.run_in_executor(self._pool, self._run_timed, predictor, batch, self._limits.request_time)
        run.add_done_callback(lambda done: self._deliver(loop, predictor, batch, done.result()))

    def _next_batch(self, rows_independent: bool) -> _Batch:
        """Remove the requests of the next batch from the queue; return them."""
        taken = count = size = 0
        most, largest = self._limits.run_rows, self._limits.run_size
        for one in self._queued:
            count, size = count + len(one.rows), size + one.rows.nbytes
            if taken and (count > most or size > largest or not rows_independent):
                break
            taken += 1
        batch, self._queued = self._queued[:taken], self._queued[taken:]
        return batch

    def _deliver(self, loop: asyncio.AbstractEventLoop, predictor: Predictor, batch: _Batch, results: Results) -> None:
        for one, scores in zip(batch, results, strict=True):
            one.callback(scores)
        if self._queued:
            loop.call_soon(self._run, loop, predictor)
        else:
            self._running = False

    def _run_timed(self, predictor: Predictor, batch: _Batch, seconds: float) -> Results:
        """Run a model; if it runs in this process, estimate the CPU time of a full batch."""
        began, wall_began, rows = time.thread_time(), time.perf_counter(), sum(len(one.rows) for one in batch)
        results = _scores(predictor, batch, seconds)
        if predictor.in_process:
            self._full_batch_time = (time.thread_time() - began) / min(rows / _FULL_BATCH, 1.0)
        self._on_run(predictor, rows, time.perf_counter() - wall_began)
        return results


def _scores(predictor: Predictor, batch: _Batch, seconds: float) -> Results:
    """Return the scores of each request; if the batch fails, run each request alone, except after a timeout."""
    try:
        if len(batch) == 1:
            return [predictor.predict(batch[0].rows, seconds)]
        scores = predictor.predict(np.concatenate([one.rows for one in batch]), seconds)
        ends = list(itertools.accumulate(len(one.rows) for one in batch))
        return [scores[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    except TooLong as error:
        return [error] * len(batch)
    except Exception as error:
        return [error] if len(batch) == 1 else [_scores(predictor, [one], seconds)[0] for one in batch]
