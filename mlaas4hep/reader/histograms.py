"""What every branch looks like before and after normalisation, as one PDF.

    write_histograms(DataReader("data.root"), "hists/data.pdf")

It is for people; programs take the specs, which hold the quantiles.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlaas4hep import console
from mlaas4hep.errors import require
from mlaas4hep.files import new_file
from mlaas4hep.reader.data_reader import DataReader
from mlaas4hep.reader.layout import Slot

BINS = 60
ROWS = 5


@dataclass(frozen=True)
class Histogram:
    """Counts (bins,) of the values between edges (bins + 1,)."""

    edges: np.ndarray
    counts: np.ndarray


def write_histograms(reader: DataReader, path: str | os.PathLike[str]) -> None:
    """Pass over the events and write a PDF with two histograms a branch, five branches a page.

    Raises:
        PackageMissing: matplotlib is not installed.
        FileUnreadable: the PDF cannot be written.
    """
    require("matplotlib", "plot", "a page of histograms")
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    raw, normalised = fill_histograms(reader)
    slots = [slot for slot in reader.layout.slots if slot.width]
    with (
        new_file(path) as temporary,
        PdfPages(temporary) as pdf,
        console.progress("plots", len(slots), "branches") as bar,
    ):
        for first in range(0, len(slots), ROWS):
            page = slots[first : first + ROWS]
            figure = Figure(figsize=(8.3, 11.7))
            figure.subplots_adjust(left=0.08, right=0.96, bottom=0.04, top=0.96, hspace=0.45, wspace=0.2)
            for row, slot in zip(figure.subplots(ROWS, 2, squeeze=False), page, strict=False):
                _draw(row[0], raw[slot.branch], slot.branch)
                _draw(
                    row[1],
                    normalised[slot.branch],
                    f"{slot.branch}, {reader.normalisation.methods[reader.layout.slots.index(slot)]}",
                )
            pdf.savefig(figure)
            bar.advance(len(page))


def fill_histograms(reader: DataReader) -> tuple[dict[str, Histogram], dict[str, Histogram]]:
    """Return the histograms of all branches before and after normalisation, over all events of the reader."""
    slots = reader.layout.slots
    extremes = {slot.branch: _extremes(reader, slot) for slot in slots}
    raw = {slot.branch: _empty(*extremes[slot.branch][:2]) for slot in slots}
    normalised = {slot.branch: _empty(*extremes[slot.branch][2:]) for slot in slots}
    with console.progress("histograms", reader.stop) as bar:
        for start, stop in reader.blocks():
            x = reader.read_block(start, stop, raw=True).x
            for slot in slots:
                _fill(raw[slot.branch], x[:, slot.first : slot.first + slot.width])
            reader.normalisation.apply(x)
            for slot in slots:
                _fill(normalised[slot.branch], x[:, slot.first : slot.first + slot.width])
            bar.advance(stop - start)
    return raw, normalised


def _extremes(reader: DataReader, slot: Slot) -> tuple[float, float, float, float]:
    """Minimum and maximum of a branch, before and after normalisation."""
    branch = reader.specs.branches[slot.branch]
    if branch.minimum is None or branch.maximum is None or not slot.width:
        return 0.0, 0.0, 0.0, 0.0
    x = np.full((2, reader.layout.width), np.nan, np.float32)
    x[:, slot.first] = branch.minimum, branch.maximum
    reader.normalisation.apply(x)
    return float(branch.minimum), float(branch.maximum), float(x[0, slot.first]), float(x[1, slot.first])


def _empty(low: float, high: float) -> Histogram:
    if high <= low:
        low, high = low - 0.5, low + 0.5
    return Histogram(np.linspace(low, high, BINS + 1), np.zeros(BINS, np.int64))


def _fill(histogram: Histogram, values: np.ndarray) -> None:
    counts, _ = np.histogram(values[np.isfinite(values)], histogram.edges)
    histogram.counts[:] += counts


def _draw(axes: Any, histogram: Histogram, title: str) -> None:
    """Draw one histogram; few ticks, since text is what takes the time of a page."""
    filled = histogram.counts[histogram.counts > 0]
    top = int(filled.max(initial=1))
    axes.stairs(histogram.counts, histogram.edges, fill=True)
    axes.set_title(title, fontsize=8)
    if filled.size and top > 1000 * np.median(filled):
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.5)
        axes.minorticks_off()
    axes.set_xticks(
        histogram.edges[[0, BINS // 2, BINS]], [f"{edge:.4g}" for edge in histogram.edges[[0, BINS // 2, BINS]]]
    )
    axes.set_yticks([top], [f"{top:,}"])
    axes.tick_params(labelsize=7)
