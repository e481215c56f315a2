"""Read branches with the status bits of ROOT objects (`Particle.fBits`), whose values are stored in 4 or 6 bytes each.

    if holds_object_bits(branch):
        read_object_bits(branch, 0, 1000)       # uint32, one per event, or `Jagged`

ROOT stores `TObject::fBits` as a 32-bit word. If a `TRef` or `TRefArray` points to the object, the bit kIsReferenced is
set, and the number of a TProcessID follows in two bytes (`TStreamerInfo::ReadBuffer`, case kBits). uproot 5.7 assumes
four bytes per value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from uproot.const import kBits
from uproot.interpretation.jagged import AsJagged
from uproot.interpretation.numerical import AsDtype

from mlaas4hep.io.columns import Column, Jagged, Kind, offsets_of

_IS_REFERENCED = 1 << 4
_WORD, _PROCESS_ID = 4, 2
"""Bytes."""


def holds_object_bits(branch: Any) -> bool:
    """Return whether one of uproot's branches holds status bits, in entries of variable size."""
    leaves = branch.member("fLeaves")
    if len(leaves) != 1 or leaves[0].classname != "TLeafElement" or branch.branches:
        return False
    return bool(leaves[0].member("fType") == kBits and branch.member("fEntryOffsetLen"))


def read_object_bits(branch: Any, column: Column, start: int, stop: int) -> np.ndarray | Jagged:
    """Return the status bits of the entries start <= i < stop.

    Raises:
        ValueError: the data are damaged, or an entry of a flat branch does not have exactly one value.
    """
    array = branch.array(AsJagged(AsDtype("u1")), entry_start=start, entry_stop=stop, array_cache=None)
    layout = array.layout.to_ListOffsetArray64(True)
    offsets, content = np.asarray(layout.offsets), np.asarray(layout.content.to_backend_array())
    if len(array) != stop - start or (np.diff(offsets) < 0).any() or offsets[-1] > len(content):
        raise ValueError("its offsets are damaged")
    bits = unpack_bits(Jagged(offsets, content[: offsets[-1]]))
    if column.kind is Kind.JAGGED:
        return bits
    if (bits.counts != 1).any():
        raise ValueError("an entry does not have exactly one value")
    return bits.content


def unpack_bits(stored: Jagged) -> Jagged:
    """Return the status bits in the bytes of each entry, uint32; raise ValueError if the data are damaged."""
    data = stored.content
    if not len(data) % _WORD and not (stored.offsets % _WORD).any():
        words = data.view(">u4")
        if not (words & _IS_REFERENCED).any():  # each word is one value
            return Jagged(stored.offsets // _WORD, words.astype(np.uint32))
    at, ends = stored.offsets[:-1].copy(), stored.offsets[1:]
    events: list[np.ndarray] = [np.empty(0, np.int64)]
    values: list[np.ndarray] = [np.empty(0, np.uint32)]
    while len(left := np.flatnonzero(at < ends)):  # read the next value of each entry
        if (at[left] + _WORD > ends[left]).any():
            break
        words = data[at[left, None] + np.arange(_WORD)].view(">u4")[:, 0].astype(np.uint32)
        at[left] += np.where(words & _IS_REFERENCED, _WORD + _PROCESS_ID, _WORD)
        events.append(left)
        values.append(words)
    if (at != ends).any():
        raise ValueError("the status bits of its objects are damaged")
    event = np.concatenate(events)
    offsets = offsets_of(np.bincount(event, minlength=len(stored)))
    return Jagged(offsets, np.concatenate(values)[np.argsort(event, kind="stable")])
