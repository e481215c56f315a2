"""Time limits for runs of ONNX graphs in this process.

    with deadline(50, onnxruntime.RunOptions()) as run:
        session.run(names, feed, run.options)
    run.late                                       # whether it was stopped

onnxruntime checks between two nodes, also within loops, whether it must stop. One thread checks all runs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mlaas4hep.errors import ServiceError

_POLL = 0.02  # seconds between two checks


class TooLong(ServiceError):
    """A run exceeded its time limit and was stopped."""


@dataclass(eq=False, slots=True)
class LimitedRun:
    """A run with a time limit.

    Attributes:
        options: the `RunOptions` for `InferenceSession.run`.
        late: whether the run was stopped.
    """

    until: float
    options: Any
    late: bool = False

    def end(self) -> None:
        """Stop the run at its next node."""
        self.late = self.options.terminate = True


class _Watchdog:
    """All runs of this process, and the thread that stops them."""

    def __init__(self) -> None:
        self._runs: set[LimitedRun] = set()
        self._has_runs = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False

    def add(self, run: LimitedRun) -> None:
        if self._closed:
            raise ServiceError("the server is shutting down", hint="try again in a minute")
        self._runs.add(run)
        if not self._has_runs.is_set():
            self._has_runs.set()
        if self._thread is None:
            self._start_thread()

    def _start_thread(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._stop_late_runs, name="deadlines", daemon=True)
                self._thread.start()

    def remove(self, run: LimitedRun) -> None:
        self._runs.discard(run)

    def _stop_late_runs(self) -> None:
        while True:
            self._has_runs.wait()
            if not self._runs:
                self._has_runs.clear()
                if self._runs:  # added just now
                    self._has_runs.set()
                continue
            now = time.monotonic()
            for run in self._runs.copy():
                if now > run.until:
                    run.end()
            time.sleep(_POLL)

    def close(self) -> None:
        self._closed = True
        for run in self._runs.copy():
            run.end()


_watchdog = _Watchdog()


@contextmanager
def deadline(seconds: float, options: Any) -> Iterator[LimitedRun]:
    """Yield a run whose `RunOptions` stop it after this many seconds.

    Raises:
        ServiceError: the server is shutting down.
    """
    run = LimitedRun(time.monotonic() + seconds, options)
    _watchdog.add(run)
    try:
        yield run
    finally:
        _watchdog.remove(run)


def end_all() -> None:
    """Stop all runs of this process and permit no more, because the server is shutting down."""
    _watchdog.close()
