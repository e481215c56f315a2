"""Baskets that are embedded in the record of a tree, because they were in memory when the tree was written.

    baskets = read_embedded(buffer)                 # those of one branch; `buffer` is at fBaskets
    baskets[0].entries, baskets[0].as_stored(buffer.data)

ROOT embeds the last basket of each branch unless it is flushed before the tree is written. `as_stored` converts such a
basket to the form that it would have in the file, uncompressed, so that the same code decodes both.

The format: ROOT's TBasket::Streamer.
"""

from __future__ import annotations

from typing import NamedTuple

from mlaas4hep.io.root.basket_form import BASKET, KEY, SHORTEST_KEY, stored_basket
from mlaas4hep.io.root.metadata.record_buffer import RecordBuffer, UnsupportedRecord

_LARGE_FILE = 1000
"""Versions of TKey above this number have positions of 8 bytes."""
_ALONE, _WITH_OFFSETS = 12, 11
"""Flags of a basket with its content: numbers only, or also the offset of each entry."""
_HEADER_ONLY = 0


class EmbeddedBasket(NamedTuple):
    """A basket in a record, with at least one entry.

    Attributes:
        number: index of the basket among all baskets of the branch.
        entries: number of entries.
        key: length of its key, which is included in the offsets and in `size`.
        offsets: position of the offsets of the entries, int32 (entries,); 0: there are none.
        at, size: position and length of the key, followed by the numbers.
    """

    number: int
    entries: int
    key: int
    offsets: int
    at: int
    size: int

    @property
    def nbytes(self) -> int:
        """Number of bytes of its numbers."""
        return self.size - self.key

    def as_stored(self, record: bytes) -> memoryview:
        """Return the bytes that the basket would have in the file without compression."""
        offsets = record[self.offsets : self.offsets + 4 * self.entries] if self.offsets else b""
        return stored_basket(self.entries, self.key, record[self.at + self.key : self.at + self.size], offsets)


def read_embedded(buffer: RecordBuffer) -> tuple[EmbeddedBasket, ...]:
    """Read fBaskets of a branch; return the baskets with entries, which follow those that are stored in the file."""
    count, end = buffer.array()
    if end - buffer.at == 4 * count:  # only null pointers
        buffer.at = end
        return ()
    baskets = []
    for index in range(count):
        reference, kind, stop = buffer.object()
        if kind:
            if kind != b"TBasket":
                raise UnsupportedRecord("an unknown class of baskets")
            basket = _read_basket(buffer, index, stop)
            if basket is not None and basket.entries:
                baskets.append(basket)
            buffer.at = stop
        elif reference:
            raise UnsupportedRecord("two references to a basket")
    if buffer.at != end or (baskets and [basket.number for basket in baskets] != list(_consecutive(baskets))):
        raise UnsupportedRecord("embedded baskets in an unknown order")
    return tuple(baskets)


def _consecutive(baskets: list[EmbeddedBasket]) -> range:
    return range(baskets[0].number, baskets[0].number + len(baskets))


def _read_basket(buffer: RecordBuffer, index: int, end: int) -> EmbeddedBasket | None:
    """Read a basket up to its end; return None if the record has only its header."""
    _, version, _, _, key, _ = buffer.unpack(KEY)
    buffer.at += 16 if version > _LARGE_FILE else 8  # fSeekKey, fSeekPdir
    for _ in range(3):
        buffer.string()  # fClassName, fName, fTitle
    _, _, capacity, entries, last = buffer.unpack(BASKET)
    flag = buffer.data[buffer.at]
    buffer.at += 1
    if flag == _HEADER_ONLY:
        return None
    if flag not in (_ALONE, _WITH_OFFSETS) or capacity < 0 or entries < 0 or not SHORTEST_KEY <= key <= last:
        raise UnsupportedRecord("an unknown form of an embedded basket")
    offsets = 0
    if flag == _WITH_OFFSETS:
        offsets = buffer.at + 4  # their number precedes them
        buffer.at = offsets + 4 * entries
    if buffer.at + last != end or end > len(buffer.data):
        raise UnsupportedRecord("an embedded basket of invalid length")
    return EmbeddedBasket(index, entries, key, offsets, buffer.at, last)
