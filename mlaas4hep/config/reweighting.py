"""Reweighting in params.json: change the distributions of variables in the training set by event weights.

    "reweight": {"by": {"Jet_pt": [200, 300, 500, 1000], "abs(Jet_eta)": [0, 1.3, 2.5]}, "to": "flat", "max": 10}

The keys correspond to `reweight_vars`, `reweight_method` and `reweight_threshold` of weaver-core.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from mlaas4hep.config.checked import CheckedModel

MAX_BINS, MAX_VARIABLES = 100_000, 10
"""Maximum total number of bins, and maximum number of variables."""


class ReweightParams(CheckedModel):
    """How the events of the training set are reweighted."""

    by: dict[str, list[float]] = Field(
        min_length=1,
        description="bin edges of each variable, which is a branch or an expression with one number per event",
    )
    to: str | dict[str, list[Any]] = Field(
        "flat",
        description='"flat": the same sum of weights in each bin; name of a class: the distribution of this class; or'
        " an object with one histogram per class, as nested lists in the order of the variables",
    )
    method: Literal["weights", "sampling"] = Field(
        "weights", description="weights: change the event weights; sampling: repeat or drop events"
    )
    max: float | None = Field(
        10.0, gt=1, description="largest factor of an event, relative to the mean factor of its class; null: no limit"
    )
    threshold: float | None = Field(
        None,
        ge=0,
        lt=100,
        description="limit of the factors, as `reweight_threshold` of weaver-core: percentage of the bins that get the"
        " largest factor; null: no such limit",
    )

    @field_validator("by")
    @classmethod
    def _check_edges(cls, by: dict[str, list[float]]) -> dict[str, list[float]]:
        for text, edges in by.items():
            if len(edges) < 2 or any(high <= low for low, high in pairwise(edges)):
                raise ValueError(f"'{text}' needs at least two bin edges, in increasing order")
        if math.prod(len(edges) - 1 for edges in by.values()) > MAX_BINS:
            raise ValueError(f"there are more than {MAX_BINS:,} bins; use fewer variables or edges")
        if len(by) > MAX_VARIABLES:
            raise ValueError(f"there are more than {MAX_VARIABLES} variables; use fewer")
        return by

    @model_validator(mode="after")
    def _check_histograms(self) -> Self:
        for name, histogram in self.to.items() if isinstance(self.to, dict) else ():
            contents = list(_contents(histogram, self.shape))
            if None in contents:
                raise ValueError(f"the histogram of '{name}' must have the shape {self.shape}, one number per bin")
            if not any(contents) or not all(content is not None and 0 <= content < math.inf for content in contents):
                raise ValueError(f"the histogram of '{name}' must have finite, non-negative contents, not all 0")
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of bins of each variable."""
        return tuple(len(edges) - 1 for edges in self.by.values())


def _contents(histogram: Any, shape: tuple[int, ...]) -> Iterator[float | None]:
    """Yield the contents of nested lists; None in place of everything that does not have the shape."""
    if not shape:
        yield float(histogram) if isinstance(histogram, (int, float)) and not isinstance(histogram, bool) else None
    elif not isinstance(histogram, list) or len(histogram) != shape[0]:
        yield None
    else:
        for part in histogram:
            yield from _contents(part, shape[1:])
