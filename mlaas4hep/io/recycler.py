"""Large arrays whose memory is used again once nobody looks at them any more.

    x = MEMORY.empty((10_000, 2_466), np.float32)

Fresh memory is dear: the system clears it page by page while it is first written, which for a matrix of 100 MB takes
longer than filling it.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

SMALL = 65_536
"""Arrays of fewer bytes are not worth the trouble."""


class Recycler:
    """Gives out arrays, and takes their memory back when the last view of them is gone; threads may share it."""

    def __init__(self, limit: int, small: int = SMALL) -> None:
        """Keep up to `limit` bytes that nobody uses."""
        self._limit = limit
        self._small = small
        self._free: deque[np.ndarray] = deque()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return an array with any content, as `numpy.empty` does."""
        wanted = np.dtype(dtype).itemsize * int(np.prod(shape))
        if wanted < self._small:
            return np.empty(shape, dtype)
        room = -(-wanted // (step := 1 << max(wanted.bit_length() - 4, 0))) * step  # so that nearly the same fits again
        return np.asarray(_Lease(self._take(room), shape, np.dtype(dtype), self))

    def give_back(self, memory: np.ndarray) -> None:
        """Take memory that nobody uses any more; what was free for longest goes when there is too much."""
        self._free.append(memory)
        while sum(len(free) for free in tuple(self._free)) > self._limit:
            self._pop()

    def _take(self, wanted: int) -> np.ndarray:
        """Return memory that fits; where there is none, new one takes the place of what is a little too small."""
        too_small = None
        for _ in range(len(self._free)):
            memory = self._pop()
            if memory is None:
                break
            if wanted <= len(memory) <= 2 * wanted:
                if too_small is not None:
                    self._free.append(too_small)
                return memory
            if too_small is None and wanted <= 2 * len(memory) < 2 * wanted:
                too_small = memory
            else:
                self._free.append(memory)
        return np.empty(wanted, np.uint8)

    def _pop(self) -> np.ndarray | None:
        try:
            return self._free.popleft()
        except IndexError:  # another thread was quicker
            return None


class _Lease:
    """What an array holds on to instead of its memory; when it goes, so have all views, and the memory is free."""

    def __init__(self, memory: np.ndarray, shape: tuple[int, ...], dtype: np.dtype[Any], owner: Recycler) -> None:
        self._memory = memory
        self._owner = owner
        self.__array_interface__ = {**memory.__array_interface__, "shape": shape, "typestr": dtype.str}

    def __del__(self) -> None:
        self._owner.give_back(self._memory)


MEMORY = Recycler(limit=400_000_000)
"""What all readers of this process share, so that a next file begins with what the last one had."""
