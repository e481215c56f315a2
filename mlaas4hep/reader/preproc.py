"""New branches and cuts, before events become vectors.

    preproc = load_preproc("preproc.json")           # {"define": {"ht": "sum(Jet_pt)"}, "cut": "nMuon >= 2 & ht > 100"}
    values = source.read(preproc.needs(source.columns, {"ht"}), 0, 1000)
    columns, kept = preproc.apply(values)

This is what readers know of it. `preproc_json` does what a JSON file says, `preproc_script` what a Python file does.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from mlaas4hep.input_files import read_json
from mlaas4hep.io import Column, Columns, Jagged, Kind


class Preproc(ABC):
    """What is done to the columns of a file before they become features; the same for a JSON and a Python file.

    Attributes:
        portable: whether a bundle can carry it, by `to_json` and `from_json`.
    """

    portable: ClassVar[bool]

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Preproc:
        """Read a file; see `load_preproc`."""
        return load_preproc(path)

    @staticmethod
    def from_json(content: Any) -> Preproc:
        """Read what `to_json` gave.

        Raises:
            ConfigError: it is not that.
        """
        from mlaas4hep.reader.preproc_json import JsonPreproc

        return JsonPreproc.read(content, "preproc")

    @abstractmethod
    def needs(self, available: Mapping[str, Column], selected: set[str]) -> set[str]:
        """Return the columns of the file that must be read for `selected` and for the cuts.

        Args:
            available: columns of the file.
            selected: columns after preprocessing.

        Raises:
            BranchNotFound: a name is neither in the file nor defined.
        """

    @abstractmethod
    def columns(self, available: Mapping[str, Column], sample: Columns | None = None) -> dict[str, Column]:
        """Return the columns after preprocessing: those of the file in its order, then new ones, less those removed.

        Args:
            available: columns of the file.
            sample: some events; only a Python file may need them, and it can mostly do without.

        Raises:
            BranchNotFound: a name is neither in the file nor defined.
            ConfigError: an expression does not suit the columns, or does not give the type that is declared for it.
        """

    @abstractmethod
    def apply(self, columns: Columns) -> tuple[dict[str, np.ndarray | Jagged], np.ndarray]:
        """Make the new columns and cut.

        Args:
            columns: at least what `needs` returned, over the same events.

        Returns:
            The columns of the surviving events, in order; and which of the events survived, bool (events,). New columns
            whose ingredients were not read are left out.
        """

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""

    @property
    def key(self) -> Any:
        """What it does, as JSON would have it: with another key events are others."""
        return self.to_json()


def load_preproc(path: str | os.PathLike[str]) -> Preproc:
    """Read a preproc.json, or a Python file that defines `preprocessing(events)`.

    Raises:
        FileUnreadable: there is no such file.
        ConfigError: what it says makes no sense; the message names file, entry and expression.
    """
    if os.fspath(path).endswith(".py"):
        from mlaas4hep.reader.preproc_script import ScriptPreproc

        return ScriptPreproc.from_file(path)
    from mlaas4hep.reader.preproc_json import JsonPreproc

    return JsonPreproc.read(read_json(path), os.fspath(path))


def describe(name: str, values: np.ndarray | Jagged) -> Column:
    """Return the description of a column that was made."""
    if isinstance(values, Jagged):
        return Column(name, Kind.JAGGED, values.content.dtype)
    if values.ndim == 1:
        return Column(name, Kind.FLAT, values.dtype)
    return Column(name, Kind.FIXED, values.dtype, values.shape[1])


def count_events(columns: Columns) -> int:
    """Return how many events some columns hold."""
    return len(next(iter(columns.values()), ()))
