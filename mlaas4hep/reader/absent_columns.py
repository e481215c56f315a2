"""Features that a file lacks although other files of the sample have them: all of their values are missing.

    absent = AbsentColumns.of({"Jet_puId": column}, features, inputs)
    absent.add_to(values, events)["Jet_puId"]        # NaN for each jet

A flat column is NaN, and so is each number of a fixed-size column. Lists are empty, unless they belong to the objects
of an input: there they have a NaN for each object, or for each part of an object. If the file lacks the parts, too, its
objects have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from typing_extensions import Self

from mlaas4hep.config import InputParams
from mlaas4hep.io import Column, Columns, Jagged, Kind, Nested
from mlaas4hep.io.columns import Values, empty_lists
from mlaas4hep.reader.inputs import branches_of


@dataclass(frozen=True)
class AbsentColumns:
    """The columns that a file lacks.

    Attributes:
        columns: their descriptions, by name.
        siblings: columns of the file that have the same objects, by name of the absent column.
    """

    columns: Mapping[str, Column]
    siblings: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, columns: Mapping[str, Column], features: Sequence[str], inputs: Mapping[str, InputParams]) -> Self:
        """Find the siblings of absent columns among the features, given the inputs of the model."""
        siblings: dict[str, list[str]] = {}
        for name, one in inputs.items() if columns else ():
            if one.length is not None:
                members = branches_of({name: one}, dict.fromkeys(features), "", optional=True)
                present = [member for member in members if member not in columns]
                siblings |= {member: present for member in members if member in columns}
        return cls(columns, siblings)

    def add_to(self, values: Columns, events: int, names: Sequence[str] | None = None) -> Columns:
        """Return the values of some events with the absent columns among `names`; None: with all of them."""
        wanted = self.columns if names is None else [name for name in names if name in self.columns]
        return {**values, **{name: self._missing(name, values, events) for name in wanted}} if wanted else values

    def _missing(self, name: str, values: Columns, events: int) -> Values:
        column = self.columns[name]
        if not column.kind.depth:
            shape = (events, column.size) if column.kind is Kind.FIXED else (events,)
            return np.full(shape, np.nan, np.float32)
        siblings = [values[sibling] for sibling in self.siblings.get(name, ()) if sibling in values]
        return _missing_lists(column, siblings, events)


def _missing_lists(column: Column, siblings: Sequence[Values], events: int) -> Values:
    """Return lists of NaN, or lists of lists, with the lengths of those of the siblings; empty lists without any."""
    lists = [one for one in siblings if isinstance(one, (Jagged, Nested))]
    nested = [one for one in lists if isinstance(one, Nested)]
    if not lists:
        return empty_lists(column, events)
    if column.kind is Kind.JAGGED:
        return _fill_with_nan(lists[0].offsets)
    if nested:
        return Nested(nested[0].offsets, _fill_with_nan(nested[0].lists.offsets))
    offsets = lists[0].offsets
    return Nested(offsets, _fill_with_nan(np.zeros(offsets[-1] + 1, np.int64)))


def _fill_with_nan(offsets: np.ndarray) -> Jagged:
    return Jagged(offsets, np.full(offsets[-1], np.nan, np.float32))
