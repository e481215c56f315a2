"""Readers that stay open between the blocks that are read of their files, few in the whole process.

    readers = OpenReaders(lambda index: DataReader.open(files[index], options))
    with readers.lend(3) as reader:
        reader.read_block(0, 1000)

A sample may have thousands of files, and a cross-validation has a sample for each fold, while a process may often open
256 files only. So the limit is common to all samples.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlaas4hep.reader import DataReader

MAX_IDLE = 32
"""Readers that stay open while nobody uses them, of all samples together."""

_numbers = itertools.count()
_idle: OrderedDict[tuple[int, int], DataReader] = OrderedDict()
"""Idle readers by the number of their owner and of their file, the one that was used last at the end."""

_lock = threading.Lock()


class OpenReaders:
    """The readers of one sample's files; threads may share it."""

    def __init__(self, open_file: Callable[[int], DataReader]) -> None:
        """Open files with a function that takes the index of a file."""
        self._open = open_file
        self._number = next(_numbers)

    @contextmanager
    def lend(self, index: int) -> Iterator[DataReader]:
        """Lend the reader of a file to one thread; another thread that asks at the same time gets another reader."""
        with _lock:
            reader = _idle.pop((self._number, index), None)
        reader = reader or self._open(index)
        try:
            yield reader
        finally:
            with _lock:
                surplus = self._give_back(index, reader)
            if surplus is not None:
                surplus.close()

    def _give_back(self, index: int, reader: DataReader) -> DataReader | None:
        """Keep a reader; return one to close, if there is one too many."""
        key = (self._number, index)
        if key in _idle:  # two were lent at the same time; one is enough to keep
            return reader
        _idle[key] = reader
        return _idle.popitem(last=False)[1] if len(_idle) > MAX_IDLE else None

    def close(self) -> None:
        """Close all readers that are not lent; files are opened again when they are needed."""
        with _lock:
            own = [_idle.pop(key) for key in list(_idle) if key[0] == self._number]
        for reader in own:
            reader.close()
