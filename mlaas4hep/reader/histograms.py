"""What every branch looks like before and after normalisation: as one PDF, and as a page for a browser.

    write_histograms(DataReader("data.root"), "hists")      # hists/data.pdf and hists/data.html

They are for people; programs take the specs, which hold the quantiles.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlaas4hep import console
from mlaas4hep.errors import require
from mlaas4hep.files import check_replaceable, mentions_us
from mlaas4hep.reader.data_reader import DataReader
from mlaas4hep.reader.layout import Slot

BINS = 60


@dataclass(frozen=True)
class Pair:
    """The histograms of one branch.

    Attributes:
        branch: its name.
        method: how it was normalised.
        raw, normalised: `hist.Hist` of its values before and after that.
    """

    branch: str
    method: str
    raw: Any
    normalised: Any


def write_histograms(reader: DataReader, folder: str | os.PathLike[str], name: str = "") -> list[Path]:
    """Pass over the events and write a PDF and an HTML page; return where they are.

    Args:
        name: of the two files, without ending (default: that of the file of events).

    Raises:
        PackageMissing: hist, matplotlib or mplhep is not installed.
        ConfigError: a file of one of these names exists that was not written here.
        FileUnreadable: the files cannot be written.
    """
    from mlaas4hep.reader.gallery import write_gallery
    from mlaas4hep.reader.histogram_pages import write_pages

    for package in ("matplotlib", "mplhep", "hist"):
        require(package, "plot", "a page of histograms")
    stem = name or Path(reader.location).stem
    paths = [Path(folder) / f"{stem}{ending}" for ending in (".html", ".pdf")]
    for path in paths:
        check_replaceable(path, mentions_us, "histograms of MLaaS4HEP", "move it, or name another folder")
    pairs = fill_histograms(reader)
    write_gallery(reader, pairs, paths[0])
    write_pages(pairs, paths[1])
    return paths


def fill_histograms(reader: DataReader) -> list[Pair]:
    """Return the histograms of all branches that have values, over all events of the reader."""
    slots = [slot for slot in reader.layout.slots if slot.width]
    methods = dict(zip(reader.layout.branches, reader.normalisation.methods, strict=True))
    extremes = {slot.branch: _extremes(reader, slot) for slot in slots}
    pairs = [
        Pair(
            slot.branch,
            methods[slot.branch],
            _empty(*extremes[slot.branch][:2]),
            _empty(*extremes[slot.branch][2:]),
        )
        for slot in slots
    ]
    with console.progress("histograms", reader.stop) as bar:
        for start, stop in reader.blocks():
            x = reader.read_block(start, stop, raw=True).x
            for slot, pair in zip(slots, pairs, strict=True):
                _fill(pair.raw, x[:, slot.first : slot.first + slot.width])
            reader.normalisation.apply(x)
            for slot, pair in zip(slots, pairs, strict=True):
                _fill(pair.normalised, x[:, slot.first : slot.first + slot.width])
            bar.advance(stop - start)
    for pair in pairs:
        for histogram in (pair.raw, pair.normalised):  # the largest value belongs to the last bin
            counts = histogram.view(flow=True)
            counts[-2:] = counts[-2:].sum(), 0
    return pairs


def is_steep(counts: np.ndarray) -> bool:
    """Tell whether a histogram is better seen on a logarithmic scale."""
    filled = counts[counts > 0]
    return bool(filled.size and filled.max() > 1000 * np.median(filled))


def _extremes(reader: DataReader, slot: Slot) -> tuple[float, float, float, float]:
    """Minimum and maximum of a branch, before and after normalisation."""
    branch = reader.specs.branches[slot.branch]
    if branch.minimum is None or branch.maximum is None:
        return 0.0, 0.0, 0.0, 0.0
    x = np.full((2, reader.layout.width), np.nan, np.float32)
    x[:, slot.first] = branch.minimum, branch.maximum
    raw = x[:, slot.first].tolist()
    reader.normalisation.apply(x)
    return raw[0], raw[1], float(x[0, slot.first]), float(x[1, slot.first])


def _empty(low: float, high: float) -> Any:
    """Return a histogram from `low` to `high`."""
    import hist

    if high <= low:
        low, high = low - 0.5, low + 0.5
    return hist.Hist(hist.axis.Regular(BINS, low, high, underflow=False))


def _fill(histogram: Any, values: np.ndarray) -> None:
    histogram.fill(values[np.isfinite(values)])
