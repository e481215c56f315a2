"""The lock of a models directory for threads and processes, and a counter of changes that they share.

    lock = Lock(path, make)
    with lock:
        lock.note_change()

The lock file may be removed at any time: it is created again, and processes that wait for the old file then wait for
the new one. It may also be truncated or overwritten. The counter is therefore read by `pread`: reading a truncated
memory-mapped file would kill the process by SIGBUS.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from mlaas4hep.errors import FileUnreadable

_COUNT = struct.Struct("=Q")
SIZE = _COUNT.size
"""Bytes of the lock file."""

_LARGEST_COUNT = 2**64 - 1

_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NoLock(nullcontext[None]):
    """Replaces the lock if no process can write to the directory, so that the counter never changes."""

    changes = 0

    def note_change(self) -> None:
        """Do nothing."""


class Lock:
    """A re-entrant lock for the threads of this process and all processes that use the same file.

    Args:
        path: the lock file.
        make: creates the folder of the lock file if it is missing; None: create neither of them.

    Raises:
        FileUnreadable: the lock file is not a regular file.
        OSError: the lock file cannot be created or opened.
    """

    def __init__(self, path: Path, make: Callable[[], None] | None) -> None:
        self._path = path
        self._make = make
        self._threads = threading.RLock()
        self._depth = 0
        self._descriptor: int | None = None
        self._counter = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)  # reads as an empty file
        self._counted: tuple[int, int] | None = None
        weakref.finalize(self, os.close, self._counter)
        with self:
            pass

    @property
    def changes(self) -> int:
        """A number that changes with every upload and deletion by any process; cheap to read."""
        count = os.pread(self._counter, SIZE, 0)
        return _COUNT.unpack(count)[0] if len(count) == SIZE else 0

    def note_change(self) -> None:
        """Change the counter; must be called under the lock.

        Raises:
            OSError: the lock file was truncated, and the disk is full.
        """
        os.pwrite(self._counter, _COUNT.pack((self.changes or time.time_ns()) + 1 & _LARGEST_COUNT), 0)

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
        """Return the locked file; None if it is missing and must not be created."""
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
        if status.st_size < SIZE and self._make is not None:  # new, or truncated
            os.pwrite(descriptor, _COUNT.pack(time.time_ns()), 0)
        if (status.st_dev, status.st_ino) != self._counted:
            self._use_counter()
            self._counted = (status.st_dev, status.st_ino)
        return True

    def _use_counter(self) -> None:
        descriptor = os.open(self._path, _FLAGS)  # a separate one: it stays open, which would keep the lock held
        try:
            os.dup2(descriptor, self._counter, inheritable=False)  # atomic, because other threads may be reading
        finally:
            os.close(descriptor)
