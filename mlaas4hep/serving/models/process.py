"""Processes that run one model each, with limits on memory and time.

    process = ModelProcess("onnx", ModelLimits())
    answer, scores = process.ask({}, matrix, seconds=10)

A process is stopped when it exceeds a limit, when its object is garbage-collected, when the server exits (even if it is
killed), and when it is idle while another model needs a process. `child` is the code that it runs.
"""

from __future__ import annotations

import select
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from mlaas4hep.errors import ServiceError
from mlaas4hep.serving.models import frames
from mlaas4hep.serving.models.child_process import ChildProcess
from mlaas4hep.serving.models.deadlines import TooLong
from mlaas4hep.serving.models.model_limits import ModelLimits
from mlaas4hep.serving.models.tensor import Array

_CHILD = "mlaas4hep.serving.models.child"
_START = 120.0  # seconds to import the framework, before any work on a model
_POLL = 0.1  # seconds between two checks of the memory

Answer = tuple[dict[str, Any], Array | None]


class ProcessEnded(ServiceError):
    """The process of a model died."""


class TooMuchMemory(ServiceError):
    """A model exceeded its memory limit."""


class ModelProcess(ChildProcess):
    """A process that answers one request at a time.

    Args:
        kind: kind of model, a key of `child.IMPORTS`.
        limits: limits of the process, and of the number of processes.
        background: run with a lower priority than this process.

    Attributes:
        loaded: set it to True to allow `end_if_idle` to stop the process.
        used: time of the last request, by time.monotonic().

    Raises:
        ServiceError: the process cannot start, or the limit of processes is reached and all are busy.
    """

    def __init__(self, kind: str, limits: ModelLimits, *, background: bool = False) -> None:
        self._limits = limits
        self._turn = threading.Lock()
        self.used = time.monotonic()
        self.loaded = False
        arguments = [kind, "background"] if background else [kind]
        with _pool.reserve(limits.processes):
            super().__init__(_CHILD, *arguments, quiet=True, TF_CPP_MIN_LOG_LEVEL="3")
            _pool.running.add(self)
        self._most = float("inf")
        self._exchange(None, None, _START)
        self._most = self._memory() + limits.memory

    def end_if_idle(self) -> bool:
        """Stop the process if its model is loaded and no request is pending; return whether it was stopped."""
        if not self.loaded or not self._turn.acquire(blocking=False):
            return False
        try:
            self.close()
        finally:
            self._turn.release()
        return True

    def ask(self, header: dict[str, Any], array: Array | None, seconds: float) -> Answer:
        """Send a request and return the answer.

        Raises:
            TooLong, TooMuchMemory: the process exceeded a limit and was stopped.
            ProcessEnded: the process died.
            ServiceError: the process is busy, or was stopped before.
        """
        if not self._turn.acquire(timeout=seconds):
            raise ServiceError(f"the model is busy: the request waited for {seconds:g} s")
        try:
            self.used = time.monotonic()
            if not self._end.alive:
                raise ServiceError("the model's process was stopped to make room for another model", hint="try again")
            return self._exchange(header, array, seconds)
        finally:
            self.used = time.monotonic()
            self._turn.release()

    def _exchange(self, header: dict[str, Any] | None, array: Array | None, seconds: float) -> Answer:
        """Send a request, unless it is None, and wait for an answer."""
        try:
            self._connection.settimeout(seconds)
            if header is not None:
                frames.send(self._connection, header, array)
            answer, scores = self._receive(seconds)
        except TimeoutError as error:
            self.close()
            raise TooLong(f"the model exceeded its time limit of {seconds:g} s and was stopped") from error
        except (OSError, EOFError, ValueError) as error:
            if isinstance(error, TooMuchMemory):
                raise
            if _pool.closed:
                raise ServiceError("the server is shutting down", hint="try again in a minute") from error
            what = f"the model's process died{self._reason()}"
            raise ProcessEnded(what, hint="try again: it is restarted") from error
        except BaseException:
            self.close()  # otherwise its answer would be read as the answer to the next request
            raise
        if answer.get("memory"):
            self.close()
            raise self._too_much_memory()
        return answer, scores

    def _receive(self, seconds: float) -> Answer:
        """Wait for an answer, and check the memory of the process meanwhile."""
        until = time.monotonic() + seconds
        ready = select.poll()
        ready.register(self._connection, select.POLLIN)
        while not ready.poll(1000 * min(_POLL, max(0.0, until - time.monotonic()))):
            if time.monotonic() >= until:
                raise TimeoutError
            if self._memory() > self._most:
                self.close()
                raise self._too_much_memory()
        self._connection.settimeout(max(0.1, until - time.monotonic()))
        return frames.receive(self._connection, self._limits.general.scores)

    def _memory(self) -> int:
        with suppress(psutil.Error):
            return int(psutil.Process(self._process.pid).memory_info().rss)
        return 0

    def _too_much_memory(self) -> TooMuchMemory:
        limit = self._limits.memory / 1e9
        return TooMuchMemory(f"the model exceeded its memory limit of {limit:g} GB and was stopped")

    def _reason(self) -> str:
        """Stop the process; return the signal that had ended it, as in " by SIGSEGV", or ""."""
        ended = self._end.alive and _wait(self._process)
        self.close()
        number = -self._process.returncode if ended and self._process.returncode else 0
        return f" by {signal.Signals(number).name}" if number in set(signal.Signals) else ""


def end_all() -> None:
    """Kill all processes and start no more; callers that wait for one get a ServiceError."""
    _pool.close()


class _Pool:
    """The model processes that this process has started.

    Attributes:
        closed: whether no more are started.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.running: weakref.WeakSet[ModelProcess] = weakref.WeakSet()
        self.closed = False

    @contextmanager
    def reserve(self, most: int) -> Iterator[None]:
        """Make room for one more process; the block must add it to `running`.

        Raises:
            ServiceError: the limit is reached and all processes are busy.
        """
        with self._lock:
            self._make_room(most)
            yield
        if self.closed:
            self.close()  # the process started in the meantime

    def _make_room(self, most: int) -> None:
        """Stop idle processes, the least recently used first, until one more may start."""
        if self.closed:
            raise ServiceError("the server is shutting down", hint="try again in a minute")
        alive = sorted((one for one in self.running if one.alive), key=lambda one: one.used)
        for one in alive:
            if len(alive) < most:
                return
            if one.end_if_idle():
                alive = [other for other in alive if other is not one]
        if len(alive) >= most:
            raise ServiceError(
                f"all {most} model processes of the server are busy",
                hint="try again in a minute; --model-processes allows more",
            )

    def close(self) -> None:
        self.closed = True  # without the lock: the start of a process may hold it for long
        for process in list(self.running):
            process.end()


_pool = _Pool()


def _wait(process: subprocess.Popen[bytes]) -> bool:
    """Return whether a process whose connection is closed has exited."""
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return False
    return True
