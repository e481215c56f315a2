"""Histograms as a PDF, five branches a page.

    write_pages(fill_histograms(reader), "hists/data.pdf")

mplhep draws and styles one page; each further page puts other numbers and texts into it, since making axes anew
takes longer than printing them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from mlaas4hep import console
from mlaas4hep.files import new_file
from mlaas4hep.reader.histograms import BINS, Pair, is_steep

ROWS = 5
SMALLER = {"font.size": 8, "axes.titlesize": 8, "axes.linewidth": 0.6, "xtick.labelsize": 7, "ytick.labelsize": 7}
"""Sizes for ten histograms a page, where the style's own are for one."""


def write_pages(pairs: Sequence[Pair], path: str | os.PathLike[str]) -> None:
    """Write the histograms of all branches, before normalisation on the left and after it on the right.

    Raises:
        FileUnreadable: the file cannot be written.
    """
    import matplotlib
    import mplhep
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    with (
        new_file(path) as temporary,
        matplotlib.rc_context({**mplhep.style.CMS, **SMALLER}),
        PdfPages(temporary, metadata={"Creator": "MLaaS4HEP"}) as pdf,
        console.progress("pages", len(pairs), "branches") as bar,
    ):
        figure = Figure(figsize=(8.3, 11.7))
        figure.subplots_adjust(left=0.1, right=0.96, bottom=0.04, top=0.96, hspace=0.45, wspace=0.25)
        rows = [[_Panel(axes, column) for column, axes in enumerate(row)] for row in figure.subplots(ROWS, 2)]
        for first in range(0, len(pairs), ROWS):
            page = pairs[first : first + ROWS]
            for (left, right), pair in zip(rows, page, strict=False):
                left.show(pair.raw, pair.branch)
                right.show(pair.normalised, f"{pair.branch}, {pair.method}")
            for panel in (panel for row in rows[len(page) :] for panel in row):
                panel.axes.set_visible(False)
            pdf.savefig(figure)
            bar.advance(len(page))


class _Panel:
    """One histogram of a page; few ticks, since text is what takes the time of a page."""

    def __init__(self, axes: Any, column: int) -> None:
        import hist
        import mplhep

        blank: Any = hist.Hist(hist.axis.Regular(BINS, 0, 1))
        self.axes = axes
        drawn = mplhep.histplot(blank, ax=axes, histtype="fill", yerr=False, flow=None, color=f"C{column}")
        self._stairs = drawn[0].stairs
        axes.minorticks_off()
        axes.tick_params(length=2, width=0.6, top=False, right=False)
        axes.set_xlabel("")
        axes.set_ylabel("")
        self._title = axes.set_title("", loc="center", y=1.0, fontsize=8)  # a place of its own spares a search for one

    def show(self, histogram: Any, title: str) -> None:
        """Put another histogram into the panel."""
        axes, counts, edges = self.axes, histogram.values(), histogram.axes[0].edges
        top = int(counts.max(initial=1))
        scale = "log" if is_steep(counts) else "linear"
        if axes.get_yscale() != scale:
            axes.set_yscale(scale)
            axes.minorticks_off()
        self._stairs.set_data(counts, edges)
        self._title.set_text(title)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(*((0.5, 2 * top) if scale == "log" else (0, 1.05 * top)))
        shown = edges[[0, BINS // 2, BINS]]
        axes.set_xticks(shown, [f"{edge:.4g}" for edge in shown])
        axes.set_yticks([top], [f"{top:,}"])
