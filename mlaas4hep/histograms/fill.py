"""Histograms of every branch, before and after normalisation.

for pair in fill_histograms(DataReader("data.root")):
    pair.raw, pair.normalised      # hist.Hist
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlaas4hep import console
from mlaas4hep.io.blocks import READ_ROWS
from mlaas4hep.reader.data_reader import DataReader
from mlaas4hep.reader.layout import Slot
from mlaas4hep.reader.memory_check import BLOCK_BYTES, check_memory, row_bytes

BINS = 60

_BYTES_PER_COLUMN = 100
"""Memory for the normalisation constants of each column."""

_BYTES_PER_VALUE = 60
"""Memory for each value while it is normalised, measured."""


@dataclass(frozen=True)
class HistogramPair:
    """Histograms of one branch before and after normalisation.

    Attributes:
        branch: name of the branch.
        method: its normalisation method.
        raw, normalised: `hist.Hist` of the values before and after normalisation.
    """

    branch: str
    method: str
    raw: Any
    normalised: Any


def fill_histograms(reader: DataReader) -> list[HistogramPair]:
    """Return the histograms of all branches that have values, for all events of the reader.

    Raises:
        ConfigError: the vectors do not fit into memory.
    """
    rows = min(max(BLOCK_BYTES // row_bytes(reader.inputs, raw=True), 1), READ_ROWS, reader.stop)
    column_bytes = _BYTES_PER_COLUMN + _BYTES_PER_VALUE * max(rows, 2)
    check_memory(reader.inputs, rows, "block", "--nevts", column_bytes, "for histograms")
    slots = [slot for slot in reader.layout.slots if slot.width]
    methods = dict(zip(reader.layout.branches, reader.normalisation.methods, strict=True))
    pairs = []
    for slot in slots:
        raw_range, normalised_range = _ranges(reader, slot)
        method = methods[slot.branch]
        pairs.append(HistogramPair(slot.branch, method, _empty(*raw_range), _empty(*normalised_range)))
    with console.progress("histograms", reader.stop) as bar:
        for start, stop in reader.blocks():
            for chunk in reader.read_pieces(start, stop, raw=True):
                x = chunk.x
                for slot, pair in zip(slots, pairs, strict=True):
                    _fill(pair.raw, x[:, slot.first : slot.first + slot.width])
                reader.normalisation.apply(x)
                for slot, pair in zip(slots, pairs, strict=True):
                    _fill(pair.normalised, x[:, slot.first : slot.first + slot.width])
            bar.advance(stop - start)
    for pair in pairs:
        for histogram in (pair.raw, pair.normalised):  # the maximum lies on the upper edge, that is, in the overflow
            counts = histogram.view(flow=True)
            counts[-2:] = counts[-2:].sum(), 0
    return pairs


def needs_log_scale(counts: np.ndarray) -> bool:
    """Return whether a histogram needs a logarithmic scale to be readable."""
    filled = counts[counts > 0]
    return bool(filled.size and filled.max() > 1000 * np.median(filled))


def _ranges(reader: DataReader, slot: Slot) -> tuple[list[float], list[float]]:
    """Return the minimum and maximum of a branch, before and after normalisation."""
    branch = reader.specs.branches[slot.branch]
    if branch.minimum is None or branch.maximum is None:
        return [0.0, 0.0], [0.0, 0.0]
    x = np.full((2, reader.layout.width), np.nan, np.float32)
    x[:, slot.first] = branch.minimum, branch.maximum
    raw: list[float] = x[:, slot.first].tolist()
    reader.normalisation.apply(x)
    return raw, x[:, slot.first].tolist()


def _empty(low: float, high: float) -> Any:
    """Return an empty histogram from `low` to `high`."""
    import hist

    if high <= low:
        low, high = low - 0.5, low + 0.5
    return hist.Hist(hist.axis.Regular(BINS, low, high, underflow=False))


def _fill(histogram: Any, values: np.ndarray) -> None:
    histogram.fill(values[np.isfinite(values)])
