"""Processes that run one model each, with limits of memory and time.

    process = ModelProcess("onnx", ModelLimits())
    answer, scores = process.ask({}, matrix, seconds=10)

A process is ended when it passes a limit, when its object goes, when the server ends, however that happens, and when it
is idle and another model needs its place. What it does is in `model_child`.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from mlaas4hep.errors import ServiceError
from mlaas4hep.serving import frames
from mlaas4hep.serving.deadlines import TooLong
from mlaas4hep.serving.model_limits import ModelLimits
from mlaas4hep.serving.tensor import Array

_CHILD = "mlaas4hep.serving.model_child"
_START = 120.0  # seconds to import the framework, before any work on a model
_GLANCE = 0.1  # seconds between two looks at the memory


class ProcessEnded(ServiceError):
    """The process of a model ended by itself."""


class TooMuchMemory(ServiceError):
    """A model needed more memory than it may have."""


class ModelProcess:
    """A process that answers one request at a time.

    Args:
        kind: of the model, as `model_child` knows it.
        limits: what it may use.

    Raises:
        ServiceError: it cannot start, or all processes that there may be are busy.
    """

    def __init__(self, kind: str, limits: ModelLimits) -> None:
        self._limits = limits
        self._turn = threading.Lock()
        self._used = time.monotonic()
        self._loaded = False
        self._connection, theirs = socket.socketpair()
        with theirs, _pool.place(limits.processes):
            self._process = subprocess.Popen(
                [sys.executable, "-m", _CHILD, kind, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the server, which finishes what is under way
            )
            self._end = weakref.finalize(self, _end, self._process, self._connection)
            _pool.running.add(self)
        self._most = float("inf")
        self._exchange(None, None, _START)
        self._most = self._memory() + limits.memory

    def end(self) -> None:
        """End it now, whatever it does."""
        self._process.kill()

    def end_if_idle(self) -> bool:
        """End it if it has loaded its model and nobody waits for it; return whether it was ended."""
        if not self._loaded or not self._turn.acquire(blocking=False):
            return False
        try:
            self._end()
        finally:
            self._turn.release()
        return True

    def close(self) -> None:
        """End it, and wait for that."""
        self._end()

    @property
    def alive(self) -> bool:
        return self._end.alive and self._process.poll() is None

    @property
    def used(self) -> float:
        """When it was last asked something, by time.monotonic()."""
        return self._used

    def mark_loaded(self) -> None:
        """Let it be ended from now on while it is idle."""
        self._loaded = True

    def ask(self, header: dict[str, Any], array: Array | None, seconds: float) -> tuple[dict[str, Any], Array | None]:
        """Send a request, and return the answer.

        Raises:
            TooLong, TooMuchMemory: it passed a limit, and was ended.
            ProcessEnded: it ended by itself.
            ServiceError: it is busy.
        """
        if not self._turn.acquire(timeout=seconds):
            raise ServiceError(f"the model is busy, and did not get to this request within {seconds:g} s")
        try:
            self._used = time.monotonic()
            if not self._end.alive:
                raise ProcessEnded("the model's process was ended for another model", hint="ask again")
            return self._exchange(header, array, seconds)
        finally:
            self._used = time.monotonic()
            self._turn.release()

    def _exchange(
        self, header: dict[str, Any] | None, array: Array | None, seconds: float
    ) -> tuple[dict[str, Any], Array | None]:
        """Send a request, if there is one, and wait for an answer."""
        try:
            self._connection.settimeout(seconds)
            if header is not None:
                frames.send(self._connection, header, array)
            answer, scores = self._receive(seconds)
        except TimeoutError as error:
            self._end()
            raise TooLong(f"the model takes longer than {seconds:g} s for this, and was stopped") from error
        except (OSError, EOFError, ValueError) as error:
            if isinstance(error, TooMuchMemory):
                raise
            if _pool.closed:
                raise ServiceError("the server is being stopped", hint="ask again in a minute") from error
            raise ProcessEnded(
                f"the model's process ended{self._reason()}", hint="ask again: it is started anew"
            ) from error
        except BaseException:
            self._end()  # or its answer would be taken for that to the next request
            raise
        if answer.get("memory"):
            self._end()
            raise self._too_much_memory()
        return answer, scores

    def _receive(self, seconds: float) -> tuple[dict[str, Any], Array | None]:
        """Wait for an answer, and look at the memory of the process meanwhile."""
        until = time.monotonic() + seconds
        ready = select.poll()
        ready.register(self._connection, select.POLLIN)
        while not ready.poll(1000 * min(_GLANCE, max(0.0, until - time.monotonic()))):
            if time.monotonic() >= until:
                raise TimeoutError
            if self._memory() > self._most:
                self._end()
                raise self._too_much_memory()
        self._connection.settimeout(max(0.1, until - time.monotonic()))
        return frames.receive(self._connection, frames.LARGEST_ANSWER)

    def _memory(self) -> int:
        with suppress(psutil.Error):
            return int(psutil.Process(self._process.pid).memory_info().rss)
        return 0

    def _too_much_memory(self) -> TooMuchMemory:
        limit = self._limits.memory / 1e9
        return TooMuchMemory(f"the model needs more than {limit:g} GB of memory for this, and was stopped")

    def _reason(self) -> str:
        """End the process; return the signal that it ended by, if it did so itself."""
        ended = self._end.alive and _wait(self._process)
        self._end()
        number = -self._process.returncode if ended and self._process.returncode else 0
        return f" by {signal.Signals(number).name}" if number in set(signal.Signals) else ""


def end_all() -> None:
    """End all processes, and let none start any more; callers that wait for one get a ServiceError."""
    _pool.close()


class _Pool:
    """The model processes of this process.

    Attributes:
        closed: no more are started.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.running: weakref.WeakSet[ModelProcess] = weakref.WeakSet()
        self.closed = False

    @contextmanager
    def place(self, most: int) -> Iterator[None]:
        """Hold a place for one more process, which is to be among `running` when the block ends.

        Raises:
            ServiceError: there are as many as there may be, and all are busy.
        """
        with self._lock:
            self._make_room(most)
            yield
        if self.closed:
            self.close()  # it started in the meantime

    def _make_room(self, most: int) -> None:
        """End idle processes, the least recently used first, until one more may start."""
        if self.closed:
            raise ServiceError("the server is being stopped", hint="ask again in a minute")
        alive = sorted((one for one in self.running if one.alive), key=lambda one: one.used)
        for one in alive:
            if len(alive) < most:
                return
            if one.end_if_idle():
                alive = [other for other in alive if other is not one]
        if len(alive) >= most:
            raise ServiceError(
                f"the server runs {most} models in processes of their own, and all are busy",
                hint="ask again in a minute; --model-processes allows more",
            )

    def close(self) -> None:
        self.closed = True  # without the lock, which a start may hold for long
        for process in list(self.running):
            process.end()


_pool = _Pool()


def _wait(process: subprocess.Popen[bytes]) -> bool:
    """Say whether a process whose connection is closed has ended."""
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return False
    return True


def _end(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    connection.close()
    process.kill()  # it has nothing to save
    process.wait()


def _environment() -> dict[str, str]:
    """Return the environment of a process that finds what this one finds, and says less."""
    path = os.pathsep.join(place for place in sys.path if place)
    return {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
