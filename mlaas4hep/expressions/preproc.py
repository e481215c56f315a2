"""Preprocessing: new branches and cuts, applied before events are converted to vectors.

    values = source.read(preproc.needs(source.columns, {"ht"}), 0, 1000)
    columns, kept = preproc.apply(values)

`Preproc` is the interface. `preproc_json` implements it for JSON files and `preproc_script` for Python files;
`preproc_file` loads either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import numpy as np

from mlaas4hep.io import Column, Columns, Jagged, Kind, Nested
from mlaas4hep.io.columns import Values


class Preproc(ABC):
    """Interface of preprocessings, which define new columns of a file and drop events.

    Attributes:
        portable: whether a bundle can store it, with `to_json` and `preproc_from_json`.
    """

    portable: ClassVar[bool]

    @abstractmethod
    def needs(self, available: Mapping[str, Column], selected: set[str]) -> set[str]:
        """Return the columns of the file that are needed for the cuts and for `selected` columns after preprocessing.

        Raises:
            BranchNotFound: a branch is neither in the file nor defined.
        """

    @abstractmethod
    def columns(self, available: Mapping[str, Column], sample: Columns | None = None) -> dict[str, Column]:
        """Return the columns after preprocessing: those of the file in its order, then new ones, without removed ones.

        Args:
            available: columns of the file.
            sample: some events, for Python files that need them to determine the types of new columns.

        Raises:
            BranchNotFound: a branch is neither in the file nor defined.
            ConfigError: an expression cannot be applied to the columns, or its type differs from the declared one.
        """

    @abstractmethod
    def apply(self, columns: Columns) -> tuple[dict[str, Values], np.ndarray]:
        """Compute the new columns and drop the events that fail the cuts.

        Args:
            columns: the columns that `needs` returned, and possibly more, for the same events.

        Returns:
            The columns of the remaining events, in order; and bool (events,), True for these events. New columns are
            left out if `columns` lacks a branch that they are computed from.
        """

    @abstractmethod
    def sources(self, names: Collection[str]) -> set[str]:
        """Return some columns, and all columns (new ones and those of the file) from which they are computed."""

    @abstractmethod
    def for_prediction(self, names: Collection[str]) -> Preproc:
        """Return the preprocessing without training-only cuts, and without unused new columns.

        Args:
            names: columns that are needed after the preprocessing.
        """

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the content that `preproc_from_json` accepts."""

    @property
    def cache_key(self) -> Any:
        """JSON value that identifies the preprocessing; it changes whenever the results may change."""
        return self.to_json()


def describe_column(name: str, values: Values) -> Column:
    """Return the description of a new column."""
    if isinstance(values, Nested):
        return Column(name, Kind.NESTED, values.lists.content.dtype, 0)
    if isinstance(values, Jagged):
        return Column.of(name, values.content.dtype, is_list=True)
    return Column.of(name, values.dtype, values.shape[1:])


def count_events(columns: Columns) -> int:
    """Return the number of events in some columns; 0 if there are no columns."""
    return len(next(iter(columns.values()), ()))
