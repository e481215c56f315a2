"""The form of a basket in a ROOT file: a key, followed by the numbers, and the offsets of lists.

    stored_basket(entries=2, key=SHORTEST_KEY, numbers=bytes(8))    # what `baskets.decode` accepts

The format: TBasket and TKey in ROOT's TFile specification (root.cern/root/htmldoc, "TFile: logical record format").
"""

from __future__ import annotations

import struct

KEY = struct.Struct(">ihiIhh")
"""Beginning of a TKey: fNbytes, fVersion, fObjlen, fDatime, fKeylen, fCycle."""

BASKET = struct.Struct(">Hiiii")
"""End of the key of a basket, before one byte of flags: fVersion, fBufferSize, fNevBufSize, fNevBuf, fLast."""

SHORTEST_KEY = KEY.size + BASKET.size + 1
"""Length of a key without the parts in between."""


def stored_basket(entries: int, key: int, numbers: bytes, offsets: bytes = b"") -> memoryview:
    """Return a basket that is not compressed.

    Args:
        key: length of its key, at least SHORTEST_KEY.
        numbers: its content, big-endian.
        offsets: position of the first byte of each entry relative to that of the key, big-endian int32 (entries,);
            empty unless the entries are lists.
    """
    tail = struct.pack(">i", entries + 1) + offsets + bytes(4) if offsets or not entries else b""
    length = len(numbers) + len(tail)
    head = KEY.pack(key + length, 4, length, 0, key, 0) + bytes(key - SHORTEST_KEY)
    return memoryview(head + BASKET.pack(3, 0, 0, entries, key + len(numbers)) + b"\0" + numbers + tail)
