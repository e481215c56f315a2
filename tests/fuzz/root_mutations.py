"""Variants of ROOT files that change what is in a record, compressed or not, and keep lengths and checksums valid.

    mutate_root(Path("tree.root").read_bytes(), random.Random(1))

Bytes that change at random would mostly end in the decompression, or at the checksums of an RNTuple.
"""

from __future__ import annotations

import lzma
import random
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import xxhash

from mlaas4hep.io.root.compression import DamagedBlock, decompress

_FIRST = 100  # where the first record begins
_MOST_RECORDS = 500
_CHECKSUM = 8  # bytes
_NUMBERS = [
    *(0, 1, -1, 2, 3, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63)),
    *(0x40000000, 0x40000006, 0x80000002, 0xFFFFFFFF, 1000, 10**6, 10**9, 10**12),
]


class _Record(NamedTuple):
    """A record of a ROOT file: where its key and its content begin, its end, and the length before compression."""

    start: int
    content: int
    end: int
    length: int
    kind: bytes  # name of the class


def _records(data: bytes | bytearray) -> Iterator[_Record]:
    start = _FIRST
    for _ in range(_MOST_RECORDS):
        if record := _record_at(data, start):
            yield record
            start = record.end
        else:  # a gap, whose length may be damaged
            version = data.find(b"\0\x04", start + 5)
            if version < 0:
                return
            start = version - 4


def _record_at(data: bytes | bytearray, start: int) -> _Record | None:
    size = int.from_bytes(data[start : start + 4], "big", signed=True)
    key = int.from_bytes(data[start + 14 : start + 16], "big")
    if not 26 < key < size <= len(data) - start:
        return None
    version, length = (int.from_bytes(data[start + at : start + at + 4], "big") for at in (4, 6))
    name = start + (34 if version >> 16 > 1000 else 26)
    kind = bytes(data[name + 1 : name + 1 + data[name]])
    return _Record(start, start + key, start + size, length, kind)


def mutate_root(data: bytes, rng: random.Random) -> bytes | None:
    """Return a variant of the same length; None if there are no records, or the change does not fit."""
    records = list(_records(data))
    if not records:
        return None
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2))):
        record = rng.choice(records)
        if rng.random() < 0.1:
            _change(changed, record.start, record.content, rng)  # the key
            continue
        if record.length <= record.end - record.content:
            _change_part(changed, record.content, record.end, rng)
        elif not _change_compressed(changed, record, rng):
            return None
    restore_checksums(changed)
    return bytes(changed)


def _change_compressed(data: bytearray, record: _Record, rng: random.Random) -> bool:
    room = record.end - record.content
    try:
        content = bytearray(decompress(memoryview(data)[record.content : record.end], min(record.length, 1 << 20)))
    except DamagedBlock:
        return False
    _change_part(content, 0, len(content), rng)
    for method, block in ((b"ZL\x08", zlib.compress(content, 9)), (b"XZ\x00", lzma.compress(content))):
        packed = method + len(block).to_bytes(3, "little") + len(content).to_bytes(3, "little") + block
        if len(packed) <= room:
            data[record.content : record.content + len(packed)] = packed
            data[record.start : record.start + 4] = (record.content + len(packed) - record.start).to_bytes(4, "big")
            gap = record.end - record.content - len(packed)
            if gap >= 4:
                data[record.content + len(packed) : record.content + len(packed) + 4] = (-gap).to_bytes(
                    4, "big", signed=True
                )
            return True
    return False


def _change_part(data: bytearray, start: int, end: int, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        _change(data, start, end, rng)


def _change(data: bytearray, start: int, end: int, rng: random.Random) -> None:
    """Change some bytes in a stretch in place."""
    if end <= start:
        return
    at, kind = rng.randrange(start, end), rng.randrange(5)
    size = rng.choice((1, 2, 4, 4, 8))
    room = min(size, end - at)
    if kind == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        number = rng.choice(_NUMBERS) % (1 << 8 * size)
        data[at : at + room] = number.to_bytes(size, rng.choice(("big", "big", "little")))[:room]
    elif kind == 2:
        old = int.from_bytes(data[at : at + room], "big")
        number = (old + rng.choice((1, -1, 2, -2, 4, 8, 256, -256))) % (1 << 8 * room)
        data[at : at + room] = number.to_bytes(room, "big")
    elif kind == 3:
        length = min(rng.choice((4, 16, 64)), end - at)
        other = rng.randrange(start, end - length + 1)
        data[at : at + length] = data[other : other + length]
    else:
        length = min(rng.choice((2, 16, 200)), end - at)
        data[at : at + length] = bytes([rng.choice((0, 255, 65))]) * length


def restore_checksums(data: bytearray) -> None:
    """Write the checksums that belong to the parts of an RNTuple: the header first, since others repeat its own."""
    envelopes = [record for record in _records(data) if _is_envelope(data, record)]
    for record in sorted(envelopes, key=lambda record: data[record.content]):
        old, new = bytes(data[record.end - _CHECKSUM : record.end]), _checksum(data, record)
        if data[record.content] == 1 and old != new:
            for start in _places(data, old):
                data[start : start + _CHECKSUM] = new
        data[record.end - _CHECKSUM : record.end] = _checksum(data, record)
    for record in _records(data):
        if record.kind == b"ROOT::RNTuple" and record.end - record.content > 6 + _CHECKSUM:
            content = bytes(data[record.content + 6 : record.end - _CHECKSUM])
            data[record.end - _CHECKSUM : record.end] = xxhash.xxh3_64_digest(content)


def _is_envelope(data: bytearray, record: _Record) -> bool:
    """Tell header (1), footer (2) and page list (3) of an RNTuple from its pages."""
    length = int.from_bytes(data[record.content + 2 : record.content + 8], "little")
    return data[record.content] in (1, 2, 3) and data[record.content + 1] == 0 and 16 < length <= 1 << 20


def _checksum(data: bytearray, record: _Record) -> bytes:
    return xxhash.xxh3_64_digest(bytes(data[record.content : record.end - _CHECKSUM]))[::-1]


def _places(data: bytearray, searched: bytes) -> Iterator[int]:
    start = data.find(searched)
    while start >= 0:
        yield start
        start = data.find(searched, start + len(searched))
