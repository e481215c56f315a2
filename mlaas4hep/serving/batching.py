"""Requests that come at the same time, in one run of the model.

    batches = Batches()
    scores = await batches.score(predictor, matrix)

While a model runs, requests for it wait, and all that have come by then are its next batch: nobody waits for a batch to
fill up, and the busier the server is, the larger batches are. Many rows at once are a batch by themselves, and so is
every request for a model whose scores of a row depend on the rows beside it.
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

from mlaas4hep.serving.deadlines import LONGEST, TooLong
from mlaas4hep.serving.predictor import Predictor
from mlaas4hep.serving.rows import Matrix

LARGEST, LARGEST_BYTES = 1024, 16_000_000
"""Of a batch, in rows and in bytes; a request of a quarter of either is run alone."""

_MANY = 32  # rows; a batch of so many is counted as a large one
_MOMENT = 0.001  # seconds; a model that takes less for many rows is not worth a thread, which costs as much
_PATIENCE = 0.1  # seconds that such a model may take all the same, before it gets a thread, now and from then on
_ALONE = 2  # requests of many rows that one model works on at the same time


Give = Callable[[Matrix | Exception], None]
"""Is told what came of rows, in the event loop; raises nothing."""


class Batches:
    """The queues of all models; belongs to one event loop.

    Args:
        threads: models that run at the same time in this process, and as many in processes of their own.
        note: is told of every run how many rows it had.
    """

    def __init__(self, threads: int = 32, note: Callable[[int], None] = lambda rows: None) -> None:
        self._pools = {
            True: ThreadPoolExecutor(threads, thread_name_prefix="model"),
            False: ThreadPoolExecutor(threads, thread_name_prefix="model-process"),
        }
        self._note = note
        self._queues: dict[int, _Queue] = {}

    def queue(self, predictor: Predictor, rows: Matrix, give: Give) -> bool:
        """Let a few rows be scored, and what comes of it be given; return False where they are too many for that."""
        if len(rows) >= LARGEST // 4 or rows.nbytes >= LARGEST_BYTES // 4:
            return False
        self._queue(predictor).add(predictor, rows, give)
        return True

    async def score(self, predictor: Predictor, rows: Matrix) -> Matrix:
        """Return the scores of some rows.

        Raises:
            ConfigError: the model cannot take them.
        """
        scores: asyncio.Future[Matrix] = asyncio.get_running_loop().create_future()
        if self.queue(predictor, rows, partial(_settle, scores)):
            return await scores
        async with self._queue(predictor).alone:
            self._note(len(rows))
            return await asyncio.get_running_loop().run_in_executor(
                self._pools[predictor.local], predictor.predict, rows
            )

    def _queue(self, predictor: Predictor) -> _Queue:
        """Return the queue of a model, which goes when the model does."""
        queue = self._queues.get(id(predictor))
        if queue is None:
            queue = self._queues[id(predictor)] = _Queue(self._pools[predictor.local], self._note)
            weakref.finalize(predictor, self._queues.pop, id(predictor), None)
        return queue

    def close(self) -> None:
        """End the threads; what runs goes on to its end."""
        for pool in self._pools.values():
            pool.shutdown(wait=False)


def _settle(scores: asyncio.Future[Matrix], found: Matrix | Exception) -> None:
    if scores.done():  # nobody waits any more
        return
    if isinstance(found, Exception):
        scores.set_exception(found)
    else:
        scores.set_result(found)


class _Waiting(NamedTuple):
    rows: Matrix
    give: Give


class _Queue:
    """What waits for one model, which runs once at a time; it does not keep the model alive by itself."""

    def __init__(self, pool: ThreadPoolExecutor, note: Callable[[int], None]) -> None:
        self._pool = pool
        self._note = note
        self.alone = asyncio.Semaphore(_ALONE)
        self._takes, self._steady = math.inf, True
        self._waiting: list[_Waiting] = []
        self._running = False

    def add(self, predictor: Predictor, rows: Matrix, give: Give) -> None:
        self._waiting.append(_Waiting(rows, give))
        if not self._running:
            self._running = True
            loop = asyncio.get_running_loop()
            loop.call_soon(self._run, loop, predictor)  # whatever else has arrived comes along

    def _run(self, loop: asyncio.AbstractEventLoop, predictor: Predictor) -> None:
        batch = self._take(predictor.together)
        self._note(sum(len(one.rows) for one in batch))
        if self._steady and self._takes < _MOMENT:
            found = self._timed(predictor, batch, _PATIENCE)
            self._steady = not any(isinstance(scores, TooLong) for scores in found)
            if self._steady:
                self._deliver(loop, predictor, batch, found)
                return
        run = loop.run_in_executor(self._pool, self._timed, predictor, batch, LONGEST)
        run.add_done_callback(lambda done: self._deliver(loop, predictor, batch, done.result()))

    def _take(self, together: bool) -> list[_Waiting]:
        """Remove and return as many as one batch has."""
        taken = count = size = 0
        for one in self._waiting:
            count, size = count + len(one.rows), size + one.rows.nbytes
            if taken and (count > LARGEST or size > LARGEST_BYTES or not together):
                break
            taken += 1
        batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return batch

    def _deliver(
        self,
        loop: asyncio.AbstractEventLoop,
        predictor: Predictor,
        batch: list[_Waiting],
        found: list[Matrix | Exception],
    ) -> None:
        for one, scores in zip(batch, found, strict=True):
            one.give(scores)
        if self._waiting:
            loop.call_soon(self._run, loop, predictor)
        else:
            self._running = False

    def _timed(self, predictor: Predictor, batch: list[_Waiting], seconds: float) -> list[Matrix | Exception]:
        """Run a model, and remember what a large batch would take of a core, if it runs in this thread alone."""
        began = time.thread_time()
        found = _scores(predictor, batch, seconds)
        if predictor.local:
            share = sum(len(one.rows) for one in batch) / _MANY
            self._takes = (time.thread_time() - began) / min(share, 1.0)
        return found


def _scores(predictor: Predictor, batch: list[_Waiting], seconds: float) -> list[Matrix | Exception]:
    """Return the scores of each request; where they fail together, each is tried alone, unless that was for time."""
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
