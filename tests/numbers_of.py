"""Arrays of every type of number, with all that is odd in them, for hypothesis."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlaas4hep.io import Jagged, Nested

TYPES = ["bool", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"]


@st.composite
def offsets_of(draw, count):
    """Offsets of so many lists of random lengths."""
    lengths = draw(st.lists(st.integers(0, 5), min_size=count, max_size=count))
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@st.composite
def columns(draw, events, types=TYPES):
    """A column over so many events: flat, fixed, jagged or nested, of any type."""
    dtype = np.dtype(draw(st.sampled_from(types)))
    kind = draw(st.sampled_from(["flat", "fixed", "jagged", "nested"]))
    if kind == "jagged":
        offsets = draw(offsets_of(events))
        return Jagged(offsets, draw(hnp.arrays(dtype, int(offsets[-1]))))
    if kind == "nested":
        offsets = draw(offsets_of(events))
        inner = draw(offsets_of(int(offsets[-1])))
        return Nested(offsets, Jagged(inner, draw(hnp.arrays(dtype, int(inner[-1])))))
    return draw(hnp.arrays(dtype, (events, 3) if kind == "fixed" else events))


@st.composite
def tables(draw, types=TYPES):
    """Some columns over the same events, and how many events these are."""
    events = draw(st.integers(0, 70))
    count = draw(st.integers(1, 4))
    return {f"c{index}": draw(columns(events, types)) for index in range(count)}, events
