"""Report section on reweighting: the distributions in the training set before and after.

reweighting_section(sample.reweighting)         # HTML
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np

from mlaas4hep.report import plots
from mlaas4hep.report.page import details, number, paragraph, table, total
from mlaas4hep.stream.reweighting import Reweighting

MAX_PLOTS, MAX_ROWS = 6, 2000
"""Maximum number of variables that are plotted, and of rows in the table of bins."""

_CAPTION = "Fraction of the weights of the training set in each bin: dashed before, solid after reweighting."


def reweighting_section(reweighting: Reweighting) -> str:
    """Show how the distributions of the training set change."""
    params, sums = reweighting.params, reweighting.sums
    drawings = [
        (partial(plots.reweighted, text, edges, *_projections(reweighting, axis), reweighting.classes), _CAPTION)
        for axis, (text, edges) in enumerate(list(params.by.items())[:MAX_PLOTS])
    ]
    target = params.to if isinstance(params.to, str) else "the given histograms"
    how = "by event weights" if params.method == "weights" else "by repeating and leaving out events"
    description = (
        f"The training set is reweighted {how}; target: {target}. In the validation set, the factors multiply the"
        " weights. The metrics in this report do not use the factors. Events outside the bins are not used."
    )
    after = (sums * reweighting.factors).sum(axis=1)
    rows = [
        [name, f"{inside.sum():,}", f"{outside:,}", total(content.sum()), number(float(new)), number(factors.max())]
        for name, inside, outside, content, new, factors in zip(
            reweighting.classes, reweighting.events, reweighting.outside, sums, after, reweighting.factors, strict=True
        )
    ]
    head = ["class", "events", "outside", "Σw before", "Σw after", "largest factor"]
    summary = table("Training events inside and outside the bins.", head, rows, 1)
    return plots.draw(drawings, paragraph(description) + summary, beside=False) + _bins(reweighting)


def _projections(reweighting: Reweighting, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the distributions of a variable before and after, float64 (classes, bins of the variable)."""
    shape = (len(reweighting.classes), *reweighting.params.shape)
    others = tuple(other + 1 for other in range(len(shape) - 1) if other != axis)
    before, after = reweighting.sums, reweighting.sums * reweighting.factors
    return before.reshape(shape).sum(axis=others), after.reshape(shape).sum(axis=others)


def _bins(reweighting: Reweighting) -> str:
    """Return a collapsed table of every bin and class."""
    edges = [[f"{low:g} – {high:g}" for low, high in pairwise(each)] for each in reweighting.params.by.values()]
    rows = []
    for place, index in enumerate(np.ndindex(*reweighting.params.shape)):
        ranges = [names[number] for names, number in zip(edges, index, strict=True)]
        for label, name in enumerate(reweighting.classes):
            cells = [reweighting.sums[label, place], reweighting.factors[label, place]]
            rows.append(
                [*ranges, name, f"{reweighting.events[label, place]:,}", *(number(float(cell)) for cell in cells)]
            )
    head = [*reweighting.params.by, "class", "events", "Σw before", "factor"]
    caption = (
        "Every bin" if len(rows) <= MAX_ROWS else f"The first {MAX_ROWS} of {len(rows)} rows; reweighting.json has all"
    )
    return details("Every bin", table(f"{caption}.", head, rows[:MAX_ROWS], len(edges) + 1))
