"""Large arrays whose memory is used again once nobody looks at them any more.

    recycler = Recycler(keep=2)
    x = recycler.empty((10_000, 2_466), np.float32)

Fresh memory is dear: the system clears it page by page while it is first written, which for a matrix of 100 MB takes as
long as filling it.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np


class Recycler:
    """Gives out arrays, and takes their memory back when the last view of them is gone; threads may share it."""

    def __init__(self, keep: int) -> None:
        """Keep the memory of up to `keep` arrays that nobody uses."""
        self._free: deque[np.ndarray] = deque(maxlen=keep)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return an array with any content, as `numpy.empty` does."""
        wanted = np.dtype(dtype).itemsize * int(np.prod(shape))
        return np.asarray(_Lease(self._take(wanted), shape, np.dtype(dtype), self._free))

    def _take(self, wanted: int) -> np.ndarray:
        for _ in range(len(self._free)):
            try:
                memory = self._free.popleft()
            except IndexError:  # another thread was quicker
                break
            if wanted <= len(memory) <= 2 * wanted:
                return memory
        return np.empty(wanted, np.uint8)


class _Lease:
    """What an array holds on to instead of its memory; when it goes, so have all views, and the memory is free."""

    def __init__(
        self, memory: np.ndarray, shape: tuple[int, ...], dtype: np.dtype[Any], free: deque[np.ndarray]
    ) -> None:
        self._memory = memory
        self._free = free
        self.__array_interface__ = {**memory.__array_interface__, "shape": shape, "typestr": dtype.str}

    def __del__(self) -> None:
        self._free.append(self._memory)
