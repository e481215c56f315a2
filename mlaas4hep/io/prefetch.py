"""Compute items ahead in threads, and yield them in order.

for block in map_ordered(read, spans, workers=2):
    use(block)

for batch in prefetch(batches, depth=4):
    use(batch)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Full, Queue
from threading import Event, Thread
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def map_ordered(work: Callable[[Task], Result], tasks: Iterable[Task], workers: int) -> Iterator[Result]:
    """Yield work(task) for each task, in order, computed by `workers` threads, or by the calling thread if it is 1.

    At most `workers` results are pending. An exception of a task is raised in place of its result.
    """
    if workers == 1:
        yield from map(work, tasks)
        return
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for task in tasks:
                if len(pending) == workers:
                    yield pending.popleft().result()
                pending.append(pool.submit(work, task))
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def prefetch(items: Iterable[Result], depth: int) -> Iterator[Result]:
    """Yield the items in order, while a thread computes up to `depth` items ahead.

    An exception is raised in place of its item. The thread starts with the first item, and ends with the iterator.
    """
    queue: Queue[Result | _End] = Queue(depth)
    stop = Event()

    def put(item: Result | _End) -> None:
        while not stop.is_set():
            try:
                return queue.put(item, timeout=0.1)
            except Full:
                continue

    def work() -> None:
        source = iter(items)
        try:
            for item in source:
                put(item)
                if stop.is_set():
                    break
                del item  # so that its memory can be reused for the next one
            put(_End())
        except BaseException as error:
            put(_End(error))
        finally:
            if isinstance(source, Generator):
                source.close()

    thread = Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        while not isinstance(item := queue.get(), _End):
            yield item
            del item
        if item.error is not None:
            raise item.error
    finally:
        stop.set()
        thread.join()


class _End:
    """Marks the end of the items: normal, or because of an error."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
