"""List the friends of a TTree.

    friends_of(read_object(ranges, key))      # [DeclaredFriend("scores", "other.root")]

Friends are trees whose branches ROOT treats as branches of the tree. They are only reported; `io.friends` opens those
that the user names.

The format: ROOT's streamers of TList (5) and TFriendElement (2).
"""

from __future__ import annotations

import struct

from mlaas4hep.io.source import DeclaredFriend

_CLASS = b"\xff\xff\xff\xffTFriendElement\0"
"""First bytes, after the length, of the first object of this class."""

_WORD = struct.Struct(">I")
_HEADER_BYTES = 6
"""Size of the length and version of an object in bytes."""
_OBJECT_BYTES = 10
"""Size of a TObject in bytes: version, fUniqueID, fBits."""
_IS_REFERENCED = 1 << 4
"""Bit of fBits of an object that a TRef refers to; two further bytes follow it."""
MAX_FRIENDS = 100
"""Maximum number of friends to list, which bounds the work for damaged records."""


def friends_of(record: bytes) -> list[DeclaredFriend]:
    """Return the friends in the record of a TTree; if it is damaged, those before the damage."""
    start = record.find(_CLASS)
    if start < 0:
        return []
    friends = []
    try:
        count = _word(record, start - 8)  # of the TList; the length of the object is between it and the class
        at = start + len(_CLASS)
        for _ in range(min(count, MAX_FRIENDS)):
            end = at + 4 + (_word(record, at) & ~0x40000000)
            at += _HEADER_BYTES + _HEADER_BYTES + _OBJECT_BYTES
            at += 2 * bool(_word(record, at - 4) & _IS_REFERENCED)
            _, at = _string(record, at)
            file, at = _string(record, at)
            tree, at = _string(record, at)
            friends.append(DeclaredFriend(tree, file))
            _, at = _string(record, end)  # option of TList::Add
            at += 8  # length and class of the next object
    except (IndexError, struct.error, UnicodeDecodeError):
        pass
    return friends


def _word(record: bytes, at: int) -> int:
    (word,) = _WORD.unpack_from(record, at)
    return int(word)


def _string(record: bytes, at: int) -> tuple[str, int]:
    length, at = record[at], at + 1
    if length == 255:
        length, at = _word(record, at), at + 4
    return record[at : at + length].decode(), at + length
