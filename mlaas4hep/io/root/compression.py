"""Decompress ROOT's records.

    decompress(memory, 1_200)     # 1,200 bytes

A record is one or several blocks, each with a header of nine bytes: two letters for the algorithm, one byte for the
method, and the compressed and uncompressed length, three bytes each, little-endian (ROOT's core/zip/src/RZip.cxx). LZ4
stores a checksum before the compressed bytes (core/lz4/src/ZipLZ4.cxx). All of the libraries below release the GIL.
"""

from __future__ import annotations

import ctypes
import importlib.util
import lzma
from collections.abc import Callable
from typing import Any

import deflate
import lz4.block
import numpy as np
import xxhash
import zstandard


class DamagedBlock(Exception):
    """Bytes cannot be decompressed."""


OLD_ZLIB = b"CS"
"""Letters of the algorithm that ROOT used until 2003: deflate without the header and checksum of zlib."""

_HEADER = 9
_XZ_MEMORY = 1 << 29  # bytes; eight times what xz -9 takes


def decompress(record: memoryview, length: int) -> Any:
    """Return the decompressed content of a record, a buffer of `length` bytes.

    Raises:
        DamagedBlock: the record is damaged, or its compression algorithm is not supported.
    """
    if len(record) == length:
        return record  # not compressed
    parts, position, filled = [], 0, 0
    while filled < length:
        if position + _HEADER > len(record):
            raise DamagedBlock("a compressed record ends too early")
        header = record[position : position + _HEADER].tobytes()
        packed = int.from_bytes(header[3:6], "little")
        unpacked = int.from_bytes(header[6:9], "little")
        position += _HEADER
        inflate = _ALGORITHMS.get(header[:2])
        if inflate is None:
            raise DamagedBlock(f"unknown compression algorithm {header[:2]!r}")
        if not packed or not unpacked or position + packed > len(record) or filled + unpacked > length:
            raise DamagedBlock("the header of a compressed block is damaged")
        try:
            part = inflate(record[position : position + packed], unpacked)
        except Exception as error:  # each library has exceptions of its own
            raise DamagedBlock(f"a compressed block is damaged: {error}") from error
        if len(part) != unpacked:
            raise DamagedBlock(f"a compressed block has {len(part)} bytes instead of {unpacked}")
        parts.append(part)
        position += packed
        filled += unpacked
    return parts[0] if len(parts) == 1 else b"".join(map(bytes, parts))


def _lz4(block: memoryview, length: int) -> Any:
    checksum, content = block[:8], block[8:]
    if xxhash.xxh64_digest(content) != checksum:
        raise ValueError("wrong checksum")
    return lz4.block.decompress(content, uncompressed_size=length)


def _zstd(block: memoryview, length: int) -> Any:
    declared = zstandard.frame_content_size(block)  # the library would allocate any declared size
    if declared not in (-1, length):
        raise ValueError(f"it declares {declared} bytes instead of {length}")
    return zstandard.ZstdDecompressor().decompress(block, max_output_size=length)


def _xz(block: memoryview, length: int) -> bytes:
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    content = decompressor.decompress(block, length + 1)  # limited, because a few kilobytes may expand to gigabytes
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError("its length differs from that in its header")
    return content


_ALGORITHMS: dict[bytes, Callable[[memoryview, int], Any]] = {
    b"ZL": deflate.zlib_decompress,
    OLD_ZLIB: deflate.deflate_decompress,
    b"L4": _lz4,
    b"ZS": _zstd,
    b"XZ": _xz,
}


def addresses() -> np.ndarray:
    """Return the addresses of the library functions that the compiled loops call (`Libraries`), uint64; 0 if not found.

    Either all functions of an algorithm are found or none: some builds of the libraries do not export them.
    """
    pointers: list[int] = []
    for algorithm in _FUNCTIONS:
        several = [_address(module, name) for module, name in algorithm]
        pointers += several if all(several) else [0] * len(several)
    return np.array(pointers, np.uint64)


_FUNCTIONS = (
    [
        ("deflate._deflate", f"libdeflate_{name}")
        for name in ("alloc_decompressor", "free_decompressor", "zlib_decompress")
    ],
    [("lz4.block._block", "LZ4_decompress_safe"), ("xxhash._xxhash", "XXH64")],
    [("zstandard._cffi", f"ZSTD_{name}") for name in ("createDCtx", "freeDCtx", "decompressDCtx")],
    [("_lzma", "lzma_stream_buffer_decode")],
    [("xxhash._xxhash", "XXH3_64bits")],
)
"""Functions of each algorithm: the module that the function is linked into, and its name."""


def _address(module: str, name: str) -> int:
    spec = importlib.util.find_spec(module)
    try:
        return ctypes.cast(getattr(ctypes.CDLL(spec.origin), name), ctypes.c_void_p).value or 0 if spec else 0
    except (AttributeError, OSError, TypeError):
        return 0
