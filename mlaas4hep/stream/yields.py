"""Yields: numbers of events and sums of weights after cuts, by sample and class.

    for one in yields_of(composition, labels, ["ggH", "VBF"], ["signal", "signal"]):
        print(one.sample, one.label, one.events, one.weighted, one.error)

The statistical error of a sum of weights is the square root of the sum of the squared weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlaas4hep.stream.labels import Labels
from mlaas4hep.stream.sample_statistics import Composition


@dataclass(frozen=True, slots=True)
class Yield:
    """The yield of a class in a sample, or in all samples.

    Attributes:
        sample: name of the sample; "": all samples.
        label: name of the class; "" if the events have no classes.
        events: number of events.
        weighted: sum of weights.
        error: statistical error of the sum of weights.
    """

    sample: str
    label: str
    events: int
    weighted: float
    error: float

    @classmethod
    def of(cls, sample: str, label: str, moments: np.ndarray) -> Yield:
        """Return a yield, given the number of events, the sum of weights and that of squared weights."""
        return cls(sample, label, int(moments[0]), float(moments[1]), math.sqrt(moments[2]))

    def to_json(self) -> dict[str, Any]:
        """Return an entry of `yields` in metrics.json."""
        return {key: value for key, value in asdict(self).items() if value != ""}


def yields_of(
    composition: Composition, labels: Labels, names: Sequence[str], sample_labels: Sequence[str]
) -> list[Yield]:
    """Return the yields of each sample, then those of all samples together if there are several.

    Args:
        names: names of the samples.
        sample_labels: label of each sample, for samples without events.
    """
    moments = composition.yields
    classes = ("",) if labels.task == "regression" or labels.uses_shuffled_copies else labels.classes
    if labels.uses_shuffled_copies:  # events of the sample belong to the second class
        moments = moments[:, 1:]
    rows = []
    for sample, name in enumerate(names):
        present = [index for index in range(len(classes)) if moments[sample, index, 0]]
        rows += [Yield.of(name, classes[index], moments[sample, index]) for index in present]
        if not present:
            label = sample_labels[sample]
            rows.append(Yield.of(name, label if label in classes else "", np.zeros(3)))
    if len(names) > 1:
        rows += [Yield.of("", label, moments[:, index].sum(axis=0)) for index, label in enumerate(classes)]
    return rows
