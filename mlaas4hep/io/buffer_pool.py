"""Reuse the memory of large arrays once they are no longer referenced.

    x = BUFFER_POOL.empty((10_000, 2_466), np.float32)

Fresh memory is slow: the operating system clears each page when it is first written, which takes longer than filling
a matrix of 100 MB.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

MIN_BYTES = 65_536
"""Smaller arrays are not pooled."""


class BufferPool:
    """Allocates arrays, and reuses their memory after their last view is deleted. It is thread-safe."""

    def __init__(self, limit: int, min_bytes: int = MIN_BYTES) -> None:
        """Keep up to `limit` bytes of unused memory. Arrays smaller than `min_bytes` are not pooled."""
        self._limit = limit
        self._min_bytes = min_bytes
        self._free: deque[np.ndarray] = deque()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return an array with arbitrary content, as `numpy.empty` does."""
        num_bytes = np.dtype(dtype).itemsize * int(np.prod(shape))
        if num_bytes < self._min_bytes:
            return np.empty(shape, dtype)
        # Round up, so that arrays of similar sizes can reuse each other's memory.
        rounded = -(-num_bytes // (step := 1 << max(num_bytes.bit_length() - 4, 0))) * step
        return np.asarray(_PooledMemory(self._take(rounded), shape, np.dtype(dtype), self))

    def release(self, memory: np.ndarray) -> None:
        """Keep memory for reuse. Beyond the limit, free the memory that was released first."""
        self._free.append(memory)
        while sum(len(free) for free in tuple(self._free)) > self._limit:
            self._pop()

    def _take(self, num_bytes: int) -> np.ndarray:
        """Return memory that fits. If there is none, allocate some, and free memory that is slightly too small."""
        too_small = None
        for _ in range(len(self._free)):
            memory = self._pop()
            if memory is None:
                break
            if num_bytes <= len(memory) <= 2 * num_bytes:
                if too_small is not None:
                    self._free.append(too_small)
                return memory
            if too_small is None and num_bytes <= 2 * len(memory) < 2 * num_bytes:
                too_small = memory
            else:
                self._free.append(memory)
        return np.empty(num_bytes, np.uint8)

    def _pop(self) -> np.ndarray | None:
        try:
            return self._free.popleft()
        except IndexError:  # another thread took it
            return None


class _PooledMemory:
    """The base object of an array and all its views, which releases the memory when the last of them is deleted."""

    def __init__(self, memory: np.ndarray, shape: tuple[int, ...], dtype: np.dtype[Any], pool: BufferPool) -> None:
        self._memory = memory
        self._pool = pool
        self.__array_interface__ = {**memory.__array_interface__, "shape": shape, "typestr": dtype.str}

    def __del__(self) -> None:
        self._pool.release(self._memory)


BUFFER_POOL = BufferPool(limit=400_000_000)
"""The pool that all readers of this process share, so that memory is reused from file to file."""
