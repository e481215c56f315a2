"""Decode the bytes of structs into NumPy arrays.

    decode_rows(data, starts, sizes, struct, [0, 1])        # numbers 0 and 1 of one struct per entry
    decode_collection(data, offsets, struct, [0, 1])        # of one std::vector of structs per entry

ROOT writes headers within structs: the number of bytes and the version of a nested object, and the parts of a TObject.
The first struct is parsed header by header. The headers of all other structs are compared with it in one NumPy
operation. Structs with different headers are parsed separately (a referenced TObject is two bytes longer). Bytes that
do not match the description of the class raise `Undecodable`, and are never returned as numbers.

The format: TBufferFile::WriteVersion, TObject::Streamer, and TStreamerInfo::WriteBuffer for collections, which stores
collections of most classes member by member: the first member of all objects, then the second, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mlaas4hep.io.columns import Jagged, Values, offsets_of
from mlaas4hep.io.records.types import Constant, Content, Number, Struct, TObjectPart, Undecodable, numbers_of

_BYTE_COUNT = 0x40000000
"""Flag of a word that is a number of bytes."""
_MEMBERWISE = 0x4000
"""Flag in the version of a collection whose objects are stored member by member."""
_REFERENCED = 0x10
"""Flag in the last byte of fBits of an object that others refer to."""
_MAX_LAYOUTS = 100
"""Maximum number of layouts of the structs in one read."""


@dataclass(slots=True)
class _Layout:
    """Positions of the numbers of a struct, determined by parsing its bytes.

    Attributes:
        data: bytes from the beginning of the struct on.
        at: current position.
        positions: position of each number.
        fixed: masks of the bits that are equal in all structs of this layout, by position of the byte.
    """

    data: memoryview
    at: int = 0
    positions: list[int] = field(default_factory=list)
    fixed: dict[int, int] = field(default_factory=dict)

    def add(self, content: Content) -> None:
        """Parse a part of the struct."""
        if isinstance(content, Number):
            self.positions.append(self.at)
            self._advance(content.stored.itemsize)
        elif isinstance(content, Constant):
            if self._take(len(content.content)) != content.content:
                raise Undecodable(f"an object does not begin with {content.content!r}")
        elif isinstance(content, TObjectPart):
            self._add_tobject()
        else:
            end = self._add_header(content) if content.has_header else None
            for part in content.fields:
                self.add(part.content)
            if end is not None and self.at != end:
                raise Undecodable(f"the length of an object of class {content.name} differs from its description")

    def _add_tobject(self) -> None:
        version = int.from_bytes(self._take(2), "big")
        if not 0 < version < _MEMBERWISE:
            raise Undecodable("a TObject has no version")
        self._advance(8)
        self.fixed[self.at - 1] = _REFERENCED
        if self.data[self.at - 1] & _REFERENCED:
            self._advance(2)

    def _add_header(self, struct: Struct) -> int:
        """Parse a header; return the end of the object."""
        count = int.from_bytes(self._take(4), "big")
        end = self.at + (count & ~_BYTE_COUNT)
        if not count & _BYTE_COUNT or end > len(self.data):
            raise Undecodable(f"an object of class {struct.name} has no length")
        version = int.from_bytes(self._take(2), "big")
        if version == 0 and struct.version is not None:
            checksum = int.from_bytes(self._take(4), "big")
            if checksum != struct.checksum:
                raise Undecodable(f"the version of an object of class {struct.name} differs from its description")
        elif struct.version not in (None, version):
            raise Undecodable(f"an object of class {struct.name} has version {version} instead of {struct.version}")
        return end

    def _take(self, size: int) -> memoryview:
        self.fixed.update(dict.fromkeys(range(self.at, self.at + size), 0xFF))
        self._advance(size)
        return self.data[self.at - size : self.at]

    def _advance(self, size: int) -> None:
        self.at += size
        if self.at > len(self.data):
            raise Undecodable("an object is shorter than the description of its class says")

    def matches(self, rows: np.ndarray) -> np.ndarray:
        """Return which structs, uint8 (structs, bytes), have the same headers: bool (structs,)."""
        if not self.fixed:
            return np.ones(len(rows), bool)
        masks = np.zeros(self.at, np.uint8)
        masks[list(self.fixed)] = list(self.fixed.values())
        different = (rows ^ np.frombuffer(self.data, np.uint8, self.at)) & masks
        return ~np.any(different, axis=1) if different.any() else np.ones(len(rows), bool)


def _measure(data: np.ndarray, content: Content) -> _Layout:
    layout = _Layout(np.ascontiguousarray(data).data)
    layout.add(content)
    return layout


def decode_rows(
    data: np.ndarray, starts: np.ndarray, sizes: np.ndarray, content: Content, wanted: Sequence[int]
) -> dict[int, np.ndarray]:
    """Return some numbers of structs.

    Args:
        data: the bytes, uint8 (bytes,).
        starts, sizes: position and number of bytes of each struct, int64 (structs,).
        wanted: indices of the numbers in `content`.

    Returns:
        Arrays of shape (structs, *shape), by index of the number.

    Raises:
        Undecodable: the bytes do not match the description.
    """
    numbers = [number for _, number in numbers_of(content)]
    decoded = {index: np.empty((len(starts), *numbers[index].shape), numbers[index].dtype) for index in wanted}
    layouts = 0
    for size in [sizes[0].item()] if (sizes == sizes[:1]).all() and len(sizes) else np.unique(sizes).tolist():
        remaining = np.flatnonzero(sizes == size)
        while len(remaining):
            rows = _gather(data, starts[remaining], size)
            layout = _measure(rows[0], content)
            layouts += 1
            if layout.at != size or layouts > _MAX_LAYOUTS:
                raise Undecodable("an object is longer than the description of its class says")
            same = layout.matches(rows)
            rows, into = (rows, remaining) if same.all() else (rows[same], remaining[same])
            complete = len(into) == len(starts)
            for index in wanted:
                begin = layout.positions[index]
                values = numbers[index].decode(rows[:, begin : begin + numbers[index].stored.itemsize])
                if complete:
                    decoded[index] = values
                else:
                    decoded[index][into] = values
            remaining = remaining[~same]
    return decoded


def _gather(data: np.ndarray, starts: np.ndarray, size: int) -> np.ndarray:
    """Return the bytes of structs of one size, uint8 (structs, size), without a copy if they are contiguous."""
    first, stop = int(starts[0]), int(starts[-1]) + size
    if stop > len(data) or first < 0:
        raise Undecodable("an object extends past the end of its basket")
    if stop - first == size * len(starts) and (np.diff(starts) == size).all():
        return data[first:stop].reshape(len(starts), size)
    windows = np.ndarray(len(data) - size + 1, np.dtype((np.void, size)), data.data, strides=(1,))
    return np.asarray(windows[starts].view(np.uint8).reshape(len(starts), size))


def decode_collection(
    data: np.ndarray, offsets: np.ndarray, content: Content, wanted: Sequence[int]
) -> dict[int, Values]:
    """Return some numbers of the objects in collections, one collection per entry, as lists.

    Args:
        data: the bytes, uint8 (bytes,).
        offsets: begin and end of each entry, int64 (entries + 1,).
        wanted: indices of the numbers in `content`, the content of an object.

    Raises:
        Undecodable: the bytes do not match the description.
    """
    begins, sizes = offsets[:-1], np.diff(offsets)
    if (sizes < 10).any():
        raise Undecodable("a collection has no length")
    if ((_integers(data, begins, 4) ^ _BYTE_COUNT) + 4 != sizes).any():
        raise Undecodable("the length of a collection differs from its header")
    versions = _integers(data, begins + 4, 2)
    if (versions != versions[0]).any():
        raise Undecodable("collections of several versions")
    if not versions[0] & _MEMBERWISE:
        counts = _integers(data, begins + 6, 4)
        return decode_items(data, begins + 10, offsets[1:], content, wanted, counts)
    header = _memberwise_header(data, begins, content)
    if (sizes < header).any():
        raise Undecodable("a collection is shorter than its header")
    counts = _integers(data, begins + header - 4, 4)
    return _decode_members(data, begins + header, offsets[1:], content, wanted, counts)


def _memberwise_header(data: np.ndarray, begins: np.ndarray, content: Content) -> int:
    """Return the size of the header before the members: length, version, version of the class, number of objects."""
    versions, struct = _integers(data, begins + 6, 2), content if isinstance(content, Struct) else Struct("", ())
    if (versions != versions[0]).any():
        raise Undecodable("objects of several versions")
    if versions[0]:
        header, stored, expected = 12, versions, struct.version
    else:
        header, stored, expected = 16, _integers(data, begins + 8, 4), struct.checksum
    if expected is not None and (stored != expected).any():
        raise Undecodable(f"the version of objects of class {struct.name} differs from its description")
    return header


def _decode_members(
    data: np.ndarray, begins: np.ndarray, ends: np.ndarray, content: Content, wanted: Sequence[int], counts: np.ndarray
) -> dict[int, Values]:
    """Return some numbers of objects that are stored member by member; see `decode_items`."""
    parts = [part.content for part in content.flat] if isinstance(content, Struct) else [content]
    offsets = offsets_of(counts)
    sizes = _sizes_of_members(data, begins, ends, parts, counts)
    if (ends - begins != counts * sum(sizes)).any():
        raise Undecodable("the length of a collection differs from that of its objects")
    lists: dict[int, Values] = {}
    before, number = 0, 0
    for part, size in zip(parts, sizes, strict=True):
        own = range(number, number + sum(1 for _ in numbers_of(part)))
        number, chosen = own.stop, [index - own.start for index in wanted if index in own]
        if chosen:
            starts = np.repeat(begins + counts * before - offsets[:-1] * size, counts) + np.arange(offsets[-1]) * size
            values = decode_rows(data, starts, np.full(len(starts), size), part, chosen)
            lists.update({own.start + index: Jagged(offsets, values[index]) for index in chosen})
        before += size
    return lists


def _sizes_of_members(
    data: np.ndarray, begins: np.ndarray, ends: np.ndarray, parts: Sequence[Content], counts: np.ndarray
) -> list[int]:
    """Return the size of each member of an object, determined from the first entry that has objects."""
    entries = np.flatnonzero(counts)
    if not len(entries):
        return [0] * len(parts)
    at, end, count = int(begins[entries[0]]), int(ends[entries[0]]), int(counts[entries[0]])
    sizes = []
    for part in parts:
        sizes.append(_measure(data[at:end], part).at)
        at += count * sizes[-1]
    return sizes


def decode_items(
    data: np.ndarray,
    begins: np.ndarray,
    ends: np.ndarray,
    content: Content,
    wanted: Sequence[int],
    counts: np.ndarray | None = None,
) -> dict[int, Values]:
    """Return some numbers of consecutive objects.

    Args:
        begins, ends: begin of the first object and end of the last object of each entry, int64 (entries,).
        counts: number of objects, int64 (entries,); None: determined from the sizes.
        data, content, wanted: see `decode_collection`.
    """
    try:
        starts, sizes, parsed_counts = _equal_items(data, begins, ends, content)
        values = decode_rows(data, starts, sizes, content, wanted)
    except Undecodable:
        starts, sizes, parsed_counts = _measured_items(data, begins, ends, content)
        values = decode_rows(data, starts, sizes, content, wanted)
    if counts is not None and (parsed_counts != counts).any():
        raise Undecodable("the number of objects in a collection differs from its header")
    offsets = offsets_of(parsed_counts)
    return {index: Jagged(offsets, values[index]) for index in wanted}


def _equal_items(
    data: np.ndarray, begins: np.ndarray, ends: np.ndarray, content: Content
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions and sizes of the objects, and their number per entry, if all are as long as the first."""
    entries = np.flatnonzero(begins < ends)
    size = _measure(data[begins[entries[0]] : ends[entries[0]]], content).at if len(entries) else 1
    counts = (ends - begins) // size
    if (counts * size != ends - begins).any():
        raise Undecodable("objects of several sizes")
    offsets = offsets_of(counts)
    starts = np.repeat(begins - offsets[:-1] * size, counts) + np.arange(offsets[-1]) * size
    return starts, np.full(len(starts), size), counts


def _measured_items(
    data: np.ndarray, begins: np.ndarray, ends: np.ndarray, content: Content
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the same as `_equal_items` for objects of different sizes, which are parsed one by one."""
    starts, sizes, counts = [], [], np.zeros(len(begins), np.int64)
    for entry, (at, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        while at < end:
            starts.append(at)
            sizes.append(_measure(data[at:end], content).at)
            at += sizes[-1]
            counts[entry] += 1
    return np.array(starts, np.int64), np.array(sizes, np.int64), counts


def _integers(data: np.ndarray, at: np.ndarray, size: int) -> np.ndarray:
    """Return the big-endian integers of `size` bytes at some positions, int64."""
    return _gather(data, at, size).view(f">u{size}").astype(np.int64).reshape(len(at))
