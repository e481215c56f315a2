"""An end to runs of ONNX graphs that take too long, be it for a loop that the input makes long.

    with deadline(50, onnxruntime.RunOptions()) as run:
        session.run(names, feed, run.options)
    run.late                                       # whether it was ended

onnxruntime looks between two nodes whether it is to end, also within loops. One thread watches over all runs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlaas4hep.errors import ServiceError

LONGEST = 50.0
"""Seconds that a model may take for what it is given at a time."""

_GLANCE = 0.02  # seconds between two looks at the clock


class TooLong(ServiceError):
    """A run was ended."""


class Run:
    """A run under way.

    Attributes:
        options: for `InferenceSession.run`.
        late: whether it was ended.
    """

    __slots__ = ("late", "options", "until")

    def __init__(self, until: float, options: Any) -> None:
        self.until, self.options, self.late = until, options, False

    def end(self) -> None:
        """End it at the next opportunity."""
        self.late = self.options.terminate = True


class _Watch:
    """All runs of this process."""

    def __init__(self) -> None:
        self._runs: set[Run] = set()
        self._there = threading.Event()
        self._thread: threading.Thread | None = None
        self._start = threading.Lock()
        self._over = False

    def add(self, run: Run) -> None:
        if self._over:
            raise ServiceError("the server is being stopped", hint="ask again in a minute")
        self._runs.add(run)
        if not self._there.is_set():
            self._there.set()
        if self._thread is None:
            self._begin()

    def _begin(self) -> None:
        with self._start:
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="deadlines", daemon=True)
                self._thread.start()

    def remove(self, run: Run) -> None:
        self._runs.discard(run)

    def _look(self) -> None:
        while True:
            self._there.wait()
            if not self._runs:
                self._there.clear()
                if self._runs:  # it has come just now
                    self._there.set()
                continue
            now = time.monotonic()
            for run in self._runs.copy():
                if now > run.until:
                    run.end()
            time.sleep(_GLANCE)

    def close(self) -> None:
        self._over = True
        for run in self._runs.copy():
            run.end()


_watch = _Watch()


@contextmanager
def deadline(seconds: float, options: Any) -> Iterator[Run]:
    """Give a run that is ended after so many seconds, by its `RunOptions`.

    Raises:
        ServiceError: no run may begin any more.
    """
    run = Run(time.monotonic() + seconds, options)
    _watch.add(run)
    try:
        yield run
    finally:
        _watch.remove(run)


def end_all() -> None:
    """End all runs of this process, and let none begin any more: it is about to end."""
    _watch.close()
