"""The lock of a models directory, among threads and processes, and a counter of changes that all of them see.

    lock = Lock(path, make)
    with lock:
        lock.note_change()

The lock file may be removed at any time: it is made again, and whoever waited for the old file goes on to the new one.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mlaas4hep.errors import FileUnreadable

_COUNT = np.dtype(np.int64)
SIZE = _COUNT.itemsize
"""Bytes of the lock file."""

_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NoLock:
    """In place of a lock where nothing can be written, and so nothing changes."""

    changes = 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        pass

    def note_change(self) -> None:
        """Do nothing."""


class Lock:
    """A lock among the threads of this process and all processes that use the same file; may be entered repeatedly.

    Args:
        path: the lock file.
        make: makes the folder of the lock file where it is missing; None: never make either of them.

    Raises:
        FileUnreadable: the lock file is not a regular file.
        OSError: it cannot be made or opened.
    """

    def __init__(self, path: Path, make: Callable[[], None] | None) -> None:
        self._path = path
        self._make = make
        self._threads = threading.RLock()
        self._depth = 0
        self._descriptor: int | None = None
        self._counter = np.zeros(1, _COUNT)
        self._mapped: tuple[int, int] | None = None
        with self:
            pass

    @property
    def changes(self) -> int:
        """A number that changes with each model that is uploaded or deleted, by any process; costs nothing to ask."""
        return int(self._counter[0])

    def note_change(self) -> None:
        """Change the number; to be called under the lock."""
        self._counter[0] += 1

    def __enter__(self) -> None:
        self._threads.acquire()
        try:
            if not self._depth:
                self._descriptor = self._locked()
            self._depth += 1
        except BaseException:
            self._threads.release()
            raise

    def __exit__(self, *exception: object) -> None:
        self._depth -= 1
        if not self._depth and self._descriptor is not None:
            os.close(self._descriptor)
        self._threads.release()

    def _locked(self) -> int | None:
        """Return the locked file; None where it is missing and must not be made."""
        while True:
            descriptor = self._open()
            if descriptor is None:
                return None
            try:
                if self._is_locked(descriptor):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _open(self) -> int | None:
        try:
            return os.open(self._path, _FLAGS)
        except FileNotFoundError:
            if self._make is None:
                return None
        self._make()
        return os.open(self._path, _FLAGS | os.O_CREAT, 0o666)

    def _is_locked(self, descriptor: int) -> bool:
        """Lock a file; return False if it was removed meanwhile."""
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FileUnreadable(f"{self._path} is not a regular file", hint="remove it")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            if not os.path.samestat(os.lstat(self._path), status):
                return False
        except FileNotFoundError:
            return False
        if (status.st_dev, status.st_ino) != self._mapped:
            self._map()
            self._mapped = (status.st_dev, status.st_ino)
        return True

    def _map(self) -> None:
        descriptor = os.open(self._path, _FLAGS)  # of its own: what is mapped stays open, and would keep the lock
        try:
            if os.fstat(descriptor).st_size < SIZE:
                if self._make is None:
                    return
                # written, not truncated: a page without a block on a full disk would end the process by SIGBUS
                os.pwrite(descriptor, np.array([time.time_ns()], _COUNT).tobytes(), 0)
            self._counter = np.frombuffer(mmap.mmap(descriptor, SIZE), _COUNT)
        finally:
            os.close(descriptor)
