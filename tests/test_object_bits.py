"""Status bits of ROOT objects, of which some are followed by the number of a process: against what ROOT reads."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.io import Jagged, open_source
from mlaas4hep.io.root.object_bits import unpack_bits

REFERENCES = Path(__file__).parent / "files" / "references.root"
MUST_CLEAN_UP, IS_REFERENCED, OF_PARAMETERS = 1 << 3, 1 << 4, 1 << 21


def test_referenced_objects_have_one_value_each():
    with open_source(str(REFERENCES), "Delphes") as source:
        bits = source.read(["Particle/Particle.fBits"], 0, 20)["Particle/Particle.fBits"]
        part = source.read(["Particle/Particle.fBits"], 3, 5)["Particle/Particle.fBits"]
    assert bits.counts.tolist() == [event % 5 for event in range(20)]
    assert (
        bits.content.tolist() == [MUST_CLEAN_UP | IS_REFERENCED] * 40
    )  # ROOT adds 0x3000000, which is not in the file
    assert part.counts.tolist() == [3, 4]


def test_a_branch_with_one_object_per_event_is_read_although_its_entries_differ_in_size():
    name = "MET./MET.TObject/MET.TObject.fBits"
    with open_source(str(REFERENCES), "Delphes") as source:
        bits = source.read([name, "MET./MET.fVal"], 0, 20)
    expected = [OF_PARAMETERS | MUST_CLEAN_UP | IS_REFERENCED, *[OF_PARAMETERS | MUST_CLEAN_UP] * 19]
    assert bits[name].tolist() == expected
    assert bits["MET./MET.fVal"].tolist() == list(range(20))


def stored(events):
    """Return the bytes of events, each with some (bits, process) of objects, as TObject::Streamer writes them."""
    entries = []
    for objects in events:
        words = [
            struct.pack(">I", bits) + (struct.pack(">H", process) if bits & 16 else b"") for bits, process in objects
        ]
        entries.append(b"".join(words))
    offsets = np.concatenate([[0], np.cumsum([len(entry) for entry in entries], dtype=np.int64)])
    return Jagged(offsets.astype(np.int64), np.frombuffer(b"".join(entries), np.uint8))


OBJECTS = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1))


@given(st.lists(st.lists(OBJECTS, max_size=5), max_size=8))
def test_any_bits_are_read_as_they_were_stored(events):
    found = unpack_bits(stored(events))
    assert found.counts.tolist() == [len(objects) for objects in events]
    assert found.content.tolist() == [bits for objects in events for bits, _ in objects]
    assert found.content.dtype == np.uint32


@pytest.mark.parametrize("length", [3, 5, 7])
def test_entries_that_end_within_a_value_are_damaged(length):
    content = np.frombuffer(struct.pack(">IHI", 16, 0, 0), np.uint8)[:length]
    with pytest.raises(ValueError, match="status bits of its objects are damaged"):
        unpack_bits(Jagged(np.array([0, length], np.int64), content))
