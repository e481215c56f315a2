"""Work in threads, results in order.

for block in ahead(read, spans, workers=2):
    use(block)

for batch in in_background(batches, depth=4):
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


def ahead(work: Callable[[Task], Result], tasks: Iterable[Task], workers: int) -> Iterator[Result]:
    """Yield work(task) for every task in order, with `workers` of them under way; one worker is the caller itself.

    No more results than workers wait to be taken. An error is raised where its result would have come, and ends it all.
    """
    if workers == 1:
        yield from map(work, tasks)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for task in tasks:
                if len(waiting) == workers:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(work, task))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def in_background(items: Iterable[Result], depth: int) -> Iterator[Result]:
    """Yield the items in order, while a thread makes up to `depth` more of them.

    An error is raised where its item would have come. The thread begins with the first item that is asked for, and ends
    with the iterator.
    """
    waiting: Queue[Result | _End] = Queue(depth)
    stop = Event()

    def put(item: Result | _End) -> None:
        while not stop.is_set():
            try:
                return waiting.put(item, timeout=0.1)
            except Full:
                continue

    def work() -> None:
        source = iter(items)
        try:
            for item in source:
                put(item)
                if stop.is_set():
                    break
                del item  # or its memory could not be used for the next
            put(_End())
        except BaseException as error:
            put(_End(error))
        finally:
            if isinstance(source, Generator):
                source.close()

    thread = Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        while not isinstance(item := waiting.get(), _End):
            yield item
            del item
        if item.error is not None:
            raise item.error
    finally:
        stop.set()
        thread.join()


class _End:
    """What comes after the last item: nothing, or an error."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
