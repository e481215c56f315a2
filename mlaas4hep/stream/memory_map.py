"""Map files into memory without keeping their descriptors open.

    with open(path, "rb") as file:
        memory = map_file(file)             # stays valid after the file is closed

`mmap.mmap` keeps a descriptor for each file. The events of one chunk may come from thousands of blocks, while a process
is often limited to 256 descriptors.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np

_FAILED = ctypes.c_void_p(-1).value


def map_file(file: BinaryIO) -> memoryview:
    """Return the content of a file, mapped read-only. It is unmapped when the memory is no longer referenced.

    Raise OSError if the file cannot be mapped, and ValueError if it is empty.
    """
    size = os.fstat(file.fileno()).st_size
    if not size:
        raise ValueError("the file is empty")
    libc = _libc()
    flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
    address = libc.mmap(None, size, mmap.PROT_READ, flags, file.fileno(), 0)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    mapped = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(mapped, libc.munmap, address, size).atexit = False  # threads may still use the memory at exit
    memory: memoryview = np.ctypeslib.as_array(mapped).data.toreadonly()
    return memory


@lru_cache(1)
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_ssize_t,
    )  # fmt: skip
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    return libc
