"""Recover ROOT files that were not closed, for example because the job was killed.

    recovered = recover(ranges, header)     # the same bytes, with lists of the keys that were found
    recovered.read([(0, 100)])

The lists of keys of such a file are missing. Like ROOT's TFile::Recover, this module scans the file record by record.
Each record begins with its length and a key. The keys are listed in directories that appear to follow the end of the
file. Baskets that were written after a tree was last saved are lost, for ROOT too.

`check_end` rejects truncated files, which cannot be recovered.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

from mlaas4hep import console
from mlaas4hep.errors import FileUnreadable
from mlaas4hep.io.storage.byte_ranges import ByteRanges, Span
from mlaas4hep.io.storage.location import is_url

RECOVERABLE = ("TTree", "TNtuple", "TNtupleD", "ROOT::RNTuple")
"""Classes of objects that can be read."""

DIRECTORIES = ("TDirectory", "TDirectoryFile")

WINDOW = 65_536
"""Bytes per read from disk."""

REMOTE_WINDOW, MAX_REMOTE_REQUESTS = 262_144, 100
"""Bytes per request to a server, and maximum number of requests to recover a remote file."""

MAX_KEY_BYTES = 4096
"""Maximum size of a key."""

_SMALL = struct.Struct(">4siiiiiiiBiiiH16s")
_LARGE = struct.Struct(">4siiqqiiiBiqiH16s")  # the same fields, for files larger than 2 GB
_LARGE_VERSION = 1_000_000
"""Added to the version of a file with a large header."""

_KEY = struct.Struct(">ihiIhh")  # fNbytes, fVersion, fObjlen, fDatime, fKeylen, fCycle
_SEEKS = {False: struct.Struct(">ii"), True: struct.Struct(">qq")}  # fSeekKey, fSeekPdir
_DIRECTORY = {False: struct.Struct(">hIIiiiii"), True: struct.Struct(">hIIiiqqq")}
_LARGE_OBJECT = 1000
"""Added to the version of keys and directories with 8-byte file positions."""

_POSITION = (1 << 48) - 1
"""Bits of fSeekPdir that are a file position."""


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a ROOT file; see ROOT's TFile.

    Attributes:
        fields: all fields, in order.
        begin: position of the first record.
        end: end of the last record, according to the writer.
        name_length: bytes of the first record before the directory of the file.
    """

    fields: tuple[object, ...]
    begin: int
    end: int
    name_length: int

    @classmethod
    def read(cls, ranges: ByteRanges) -> Header:
        """Read the header of a file of at least 100 bytes; raise OSError if that fails."""
        span = (0, 100)
        content = bytes(ranges.read([span])[span])
        fields = _SMALL.unpack_from(content)
        if fields[1] >= _LARGE_VERSION:
            fields = _LARGE.unpack_from(content)
        return cls(fields, begin=fields[2], end=fields[3], name_length=fields[7])

    def recovered(self, end: int, info: tuple[int, int]) -> bytes:
        """Return a large header with an end of the file, and with position and length of the streamer information."""
        fields = list(self.fields)
        fields[1] = int(str(fields[1])) % _LARGE_VERSION + _LARGE_VERSION
        fields[3], fields[4], fields[5], fields[6], fields[8] = end, 0, 0, 0, 8
        fields[10], fields[11] = info
        return _LARGE.pack(*fields)


def check_end(location: str, size: int, end: int) -> None:
    """Raise FileUnreadable if a file is shorter than its header says."""
    if end > size:
        raise FileUnreadable(
            f"{location} is truncated: it has {size:,} of {end:,} bytes", hint="copy or write it again"
        )


@dataclass(frozen=True, slots=True)
class Key:
    """The key of a record.

    Attributes:
        at: position of the record.
        length: length of the record.
        content: the bytes of the key.
        kind: class of the object.
        name: name of the object.
        directory: position of its directory.
    """

    at: int
    length: int
    content: bytes
    kind: str
    name: str
    directory: int

    @classmethod
    def parse(cls, at: int, head: memoryview) -> Key | None:
        """Return the key at the beginning of a record; None if it is invalid."""
        length, version, _, _, size, _ = _KEY.unpack_from(head)
        seeks = _SEEKS[version > _LARGE_OBJECT]
        if not _KEY.size + seeks.size + 3 <= size <= min(length, len(head)):
            return None
        _, directory = seeks.unpack_from(head, _KEY.size)
        strings = _strings(head[_KEY.size + seeks.size : size])
        kind, name = next(strings, b""), next(strings, b"")
        if not 0 < len(kind) <= 100:
            return None
        return cls(at, length, bytes(head[:size]), str(kind, "latin-1"), str(name, "latin-1"), directory & _POSITION)


def _strings(content: memoryview) -> Iterator[bytes]:
    at = 0
    while at < len(content):
        length, at = content[at], at + 1
        if length == 255:
            length, at = int.from_bytes(content[at : at + 4], "big"), at + 4
        yield bytes(content[at : at + length])
        at += length


def scan(ranges: ByteRanges, begin: int) -> Iterator[Key]:
    """Yield the keys of all complete records, up to the first bytes that are not a record.

    Raises:
        FileUnreadable: the file is remote, and needs more than MAX_REMOTE_REQUESTS.
        OSError: the file cannot be read.
    """
    is_remote = is_url(ranges.location)
    size, requests, start, window = REMOTE_WINDOW if is_remote else WINDOW, 0, 0, memoryview(b"")
    at = begin
    while at + _KEY.size <= ranges.size:
        if not start <= at or at - start + min(MAX_KEY_BYTES, ranges.size - at) > len(window):
            if is_remote and requests == MAX_REMOTE_REQUESTS:
                raise FileUnreadable(
                    f"{ranges.location} was not closed by its writer, and is too large to be recovered remotely",
                    hint="copy it to a local disk, for example with xrdcp",
                )
            span = (at, min(size, ranges.size - at))
            start, window, requests = at, ranges.read([span])[span], requests + 1
        (length,) = struct.unpack_from(">i", window, at - start)
        if length == 0:
            return
        if length > 0:
            key = Key.parse(at, window[at - start :])
            if key is None or at + length > ranges.size:
                return
            yield key
        at += abs(length)  # negative for gaps


def recover(ranges: ByteRanges, header: Header) -> ByteRanges | None:
    """Return the bytes of an unclosed file, changed into those of a closed one; None if no tree was saved in it.

    For errors, see `scan`.
    """
    keys = [key for key in scan(ranges, header.begin) if key.kind not in ("TBasket", "TFile")]
    trees = [key for key in keys if key.kind in RECOVERABLE]
    if not trees:
        return None
    info = next(((key.at, key.length) for key in reversed(keys) if key.name == "StreamerInfo"), (0, 0))
    listed = [key for key in keys if key.name != "StreamerInfo"]
    tail = bytearray()
    patches = []
    top = header.begin + header.name_length
    folders = {key.at + len(key.content): key.at for key in keys if key.kind in DIRECTORIES}
    for at in [top, *folders]:
        directory = _Directory.read(ranges, at)
        if at != top and (directory.list_at > 0 or directory.begin != folders[at]):  # it has, or is, a list of keys
            continue
        members = [key for key in listed if key.directory == directory.begin]
        record = _list_of(members, ranges.size + len(tail), directory.begin)
        patches.append((at, replace(directory, list_at=ranges.size + len(tail), length=len(record)).pack()))
        tail += record
    patches.append((0, header.recovered(ranges.size + len(tail), info)))
    _warn_of_recovery(ranges.location, ", ".join(dict.fromkeys(repr(key.name) for key in trees)))
    return _PatchedRanges(ranges, patches, bytes(tail))


@cache
def _warn_of_recovery(location: str, trees: str) -> None:
    """Print a notice once per file, even if it is opened several times."""
    console.notice(
        f"{location} was not closed by its writer; recovered {trees} as last saved, without events filled since then"
    )


@dataclass(frozen=True, slots=True)
class _Directory:
    """The fields of a directory, the position of its record, and position and length of its list of keys."""

    fields: tuple[int, ...]
    begin: int
    list_at: int
    length: int

    @classmethod
    def read(cls, ranges: ByteRanges, at: int) -> _Directory:
        span = (at, min(_DIRECTORY[True].size, ranges.size - at))
        content = ranges.read([span])[span]
        form = _DIRECTORY[struct.unpack_from(">h", content)[0] > _LARGE_OBJECT]
        fields = form.unpack_from(content)
        return cls(fields, begin=fields[5], list_at=fields[7], length=fields[3])

    def pack(self) -> bytes:
        version, created, modified, _, name_length, begin, parent, _ = self.fields
        version = version % _LARGE_OBJECT + _LARGE_OBJECT
        return _DIRECTORY[True].pack(version, created, modified, self.length, name_length, begin, parent, self.list_at)


def _list_of(keys: list[Key], at: int, directory: int) -> bytes:
    """Return the record at position `at` that lists the keys of a directory."""
    content = struct.pack(">i", len(keys)) + b"".join(key.content for key in keys)
    size = _KEY.size + _SEEKS[True].size + 3
    key = _KEY.pack(size + len(content), _LARGE_OBJECT + 4, len(content), 0, size, 1)
    return key + _SEEKS[True].pack(at, directory) + bytes(3) + content


class _PatchedRanges:
    """A file with replaced and appended bytes; see `ByteRanges`."""

    def __init__(self, ranges: ByteRanges, patches: list[tuple[int, bytes]], tail: bytes) -> None:
        self._ranges = ranges
        self._patches = [*patches, (ranges.size, tail)]
        self.size = ranges.size + len(tail)

    @property
    def location(self) -> str:
        return self._ranges.location

    def read(self, spans: Iterable[Span]) -> Mapping[Span, memoryview]:
        stored = {(start, length): (start, max(min(length, self._ranges.size - start), 0)) for start, length in spans}
        contents = self._ranges.read({span for span in stored.values() if span[1]})
        return {span: self._patched(span, contents.get(part, memoryview(b""))) for span, part in stored.items()}

    def _patched(self, span: Span, content: memoryview) -> memoryview:
        start, length = span
        overlapping = [(at, new) for at, new in self._patches if at < start + length and start < at + len(new)]
        if not overlapping:
            return content
        patched = bytearray(length)
        patched[: len(content)] = content
        for at, new in overlapping:
            begin, end = max(at, start), min(at + len(new), start + length)
            patched[begin - start : end - start] = new[begin - at : end - at]
        return memoryview(patched)

    def reject(self, location: str, reason: str) -> bool:
        return self._ranges.reject(location, reason)

    def close(self) -> None:
        self._ranges.close()
