"""Histograms as a PDF, five branches per page.

    write_pdf(fill_histograms(reader), "hists/data.pdf")

The axes are created once, with the style of mplhep, and updated for each page, since creating axes takes longer than
printing them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

from mlaas4hep import console
from mlaas4hep.errors import printable
from mlaas4hep.files import new_file
from mlaas4hep.histograms.fill import BINS, HistogramPair, needs_log_scale

ROWS = 5
SMALL_SIZES = {"font.size": 8, "axes.titlesize": 8, "axes.linewidth": 0.6, "xtick.labelsize": 7, "ytick.labelsize": 7}
"""Sizes for ten histograms per page; the defaults of the style are for one."""


def write_pdf(pairs: Sequence[HistogramPair], path: str | os.PathLike[str]) -> None:
    """Write the histograms of all branches, before normalisation on the left and after it on the right.

    Raise FileUnreadable if that fails.
    """
    import matplotlib
    import mplhep
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    with (
        new_file(path) as temporary,
        temporary.open("wb") as file,  # PdfPages does not close its file if the disk is full
        warnings.catch_warnings(),
        matplotlib.rc_context({**mplhep.style.CMS, **SMALL_SIZES}),
        PdfPages(file, metadata={"Creator": "MLaaS4HEP"}) as pdf,
        console.progress("pages", len(pairs), "branches") as bar,
    ):
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)  # these are shown as boxes
        figure = Figure(figsize=(8.3, 11.7))
        figure.subplots_adjust(left=0.1, right=0.96, bottom=0.04, top=0.96, hspace=0.45, wspace=0.25)
        rows = [[_Panel(axes, column) for column, axes in enumerate(row)] for row in figure.subplots(ROWS, 2)]
        for first in range(0, len(pairs), ROWS):
            page = pairs[first : first + ROWS]
            for (left, right), pair in zip(rows, page, strict=False):
                left.update(pair.raw, pair.branch)
                right.update(pair.normalised, f"{pair.branch}, {pair.method}")
            for panel in (panel for row in rows[len(page) :] for panel in row):
                panel.axes.set_visible(False)
            pdf.savefig(figure)
            bar.advance(len(page))


class _Panel:
    """One histogram of a page; it has few tick labels, since text takes most of the printing time."""

    def __init__(self, axes: Any, column: int) -> None:
        import hist
        import mplhep

        empty: Any = hist.Hist(hist.axis.Regular(BINS, 0, 1))
        self.axes = axes
        artists = mplhep.histplot(empty, ax=axes, histtype="fill", yerr=False, flow=None, color=f"C{column}")
        self._stairs = artists[0].stairs
        axes.minorticks_off()
        axes.tick_params(length=2, width=0.6, top=False, right=False)
        axes.set_xlabel("")
        axes.set_ylabel("")
        axes.autoscale(False)  # otherwise set_yscale("log") searches the empty histogram for positive values
        # y=1.0 skips the automatic placement, which is slow; branch names may contain dollar signs
        self._title = axes.set_title("", loc="center", y=1.0, fontsize=8, parse_math=False)

    def update(self, histogram: Any, title: str) -> None:
        """Show another histogram in the panel."""
        axes, counts, edges = self.axes, histogram.values(), histogram.axes[0].edges
        top = int(counts.max(initial=1))
        scale = "log" if needs_log_scale(counts) else "linear"
        if axes.get_yscale() != scale:
            axes.set_yscale(scale)
            axes.minorticks_off()
        self._stairs.set_data(counts, edges)
        self._title.set_text(printable(title))
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(*((0.5, 2 * top) if scale == "log" else (0, 1.05 * top)))
        ticks = edges[[0, BINS // 2, BINS]]
        axes.set_xticks(ticks, [f"{edge:.4g}" for edge in ticks])
        axes.set_yticks([top], [f"{top:,}"])
