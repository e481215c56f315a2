"""Decode pages into NumPy arrays.

    outcomes = decode_pages(spans, jobs, content)        # int64 (pages,): `Outcome`

The compiled loop (`kernel_pages.cpp`) decodes all pages of a call. NumPy code does the same if the loop was not built,
and for pages whose compression the loop does not support.
"""

from __future__ import annotations

from enum import IntEnum
from itertools import pairwise

import numpy as np
import xxhash

from mlaas4hep.compiled import KERNEL
from mlaas4hep.io.rntuple.encodings import Code
from mlaas4hep.io.rntuple.envelopes import CHECKSUM
from mlaas4hep.io.root.compression import DamagedBlock, addresses, decompress

_XXH3_ADDRESS = int(addresses()[-1])


class PageJob(IntEnum):
    """Columns of the array that describes pages (`PageJob` in `kernel_pages.cpp`)."""

    span, at, size, checked, elements, skip, take, code, bits, to, low, high = range(12)


class Outcome(IntEnum):
    """The result of decoding a page (`Outcome` in `kernel_pages.cpp`)."""

    DECODED = 0
    WRONG_CHECKSUM = 1
    NOT_DECOMPRESSED = 2


def item_sizes(code: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Return the bytes per decoded element, given its encoding and stored bits; int64, of the same shape."""
    sizes = np.where(code == Code.BIT, 1, bits // 8)
    sizes = np.where((code == Code.INDEX) | (code == Code.DELTA), 8, sizes)
    return np.where((code == Code.TRUNCATED) | (code == Code.QUANTISED), 4, sizes)


def decode_pages(spans: list[memoryview], jobs: np.ndarray, content: np.ndarray) -> np.ndarray:
    """Check and decompress pages, and write their elements to `content`, uint8, in native byte order.

    Args:
        spans: byte ranges of the file that contain the pages.
        jobs: int64 (pages, 12), with the columns `PageJob`; `low` and `high` are the bytes of a float64.

    Returns:
        The outcome of each page, int64 (pages,), see `Outcome`.
    """
    outcomes = np.full(len(jobs), Outcome.NOT_DECOMPRESSED, np.int64)
    is_built = KERNEL is not None and (_XXH3_ADDRESS or not jobs[:, PageJob.checked].any())
    if is_built:
        KERNEL.decode_pages(spans, jobs, content, outcomes)
    for index in np.flatnonzero(outcomes == Outcome.NOT_DECOMPRESSED).tolist():
        outcomes[index] = _decode_page(spans, jobs[index], content)
    return outcomes


def _decode_page(spans: list[memoryview], job: np.ndarray, content: np.ndarray) -> Outcome:
    """Decode one page."""
    span, at, size, checked, elements, skip, take, code, bits, to, _, _ = job.tolist()
    dtype = np.dtype(f"u{int(item_sizes(job[PageJob.code], job[PageJob.bits]))}")
    out = content[to : to + take * dtype.itemsize].view(dtype)
    if code == Code.ZERO:
        out[:] = 0
        return Outcome.DECODED
    stored = spans[span][at : at + size + CHECKSUM * checked]
    if checked and xxhash.xxh3_64_digest(stored[:size])[::-1] != stored[size:]:
        return Outcome.WRONG_CHECKSUM
    try:
        data = memoryview(decompress(stored[:size], (elements * bits + 7) // 8)).cast("B")
    except DamagedBlock:
        return Outcome.NOT_DECOMPRESSED
    low, high = job[PageJob.low :].view(np.float64)
    decoded = _elements(np.frombuffer(data, np.uint8), elements, Code(code), bits, low, high)
    out[:] = decoded[skip : skip + take].view(dtype)
    return Outcome.DECODED


def _elements(data: np.ndarray, count: int, code: Code, bits: int, low: np.float64, high: np.float64) -> np.ndarray:
    """Return the elements of a decompressed page."""
    if code is Code.BIT:
        return np.unpackbits(data, bitorder="little")[:count]
    if code in (Code.TRUNCATED, Code.QUANTISED):
        packed = _packed(data, count, bits)
        if code is Code.TRUNCATED:
            return np.asarray(packed << np.uint32(32 - bits))
        return (low + packed * (high - low) / float((1 << bits) - 1)).astype(np.float32)
    unsigned = np.dtype(f"u{bits // 8}")
    if code in (Code.PLAIN, Code.INDEX):
        stored: np.ndarray = data.view(unsigned)
        return stored.astype(np.uint64) if code is Code.INDEX else stored
    joined: np.ndarray = np.ascontiguousarray(data.reshape(bits // 8, count).T).view(unsigned).reshape(count)
    if code is Code.ZIGZAG:
        return np.asarray((joined >> unsigned.type(1)) ^ (unsigned.type(0) - (joined & unsigned.type(1))))
    return np.cumsum(joined, dtype=np.uint64) if code is Code.DELTA else joined


def _packed(data: np.ndarray, count: int, bits: int) -> np.ndarray:
    """Unpack numbers of `bits` bits each, the lowest bits first; return uint32 (count,)."""
    lowest_first = np.unpackbits(data, bitorder="little")[: count * bits].reshape(count, bits)
    padded = np.zeros((count, 32), np.uint8)
    padded[:, :bits] = lowest_first
    return np.asarray(np.packbits(padded, axis=1, bitorder="little").view(np.uint32).reshape(count))


def join_offsets(offsets: np.ndarray, positions: np.ndarray, edges: np.ndarray, ranges: np.ndarray) -> int:
    """Join the offsets of several clusters; return the index of a column whose lists are out of order, or -1.

    Args:
        offsets: int64; for each column, starting at its position: the end of the list before the first one, and the end
            of each list, relative to the beginning of its cluster. Replaced by the offsets of all lists, from 0.
        positions: int64 (columns,).
        edges: int64 (columns, clusters + 1): numbers of the first list of each cluster, and number of lists.
        ranges: int64 (columns, clusters, 2), receives the first and the end of the items in each cluster.
    """
    if KERNEL is not None:
        return int(KERNEL.join_offsets(offsets, positions, edges, ranges))
    for column, (position, bounds) in enumerate(zip(positions.tolist(), edges.tolist(), strict=True)):
        lists = offsets[position : position + bounds[-1] + 1]
        begin, filled, lists[0] = int(lists[0]), 0, 0
        if begin < 0:
            return column
        for cluster, (first, stop) in enumerate(pairwise(bounds)):
            ends = lists[first + 1 : stop + 1]
            last = int(ends[-1]) if len(ends) else begin
            if (len(ends) and (ends[0] < begin or (ends[1:] < ends[:-1]).any())) or last - begin > (1 << 60) - filled:
                return column
            ends += filled - begin
            ranges[column, cluster] = begin, last
            filled, begin = filled + last - begin, 0
    return -1
