"""Preprocessing by a Python file of the user.

    preproc = ScriptPreproc.from_file("preproc.py")     # def preprocessing(events): return events[events.nMuon >= 2]
    columns, kept = preproc.apply(source.read(preproc.needs(source.columns, set()), 0, 1000))

The code runs only if the user names the file on the command line. A bundle contains a copy, which is not run by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from typing_extensions import Self

from mlaas4hep.errors import BranchNotFound, ConfigError, nearest
from mlaas4hep.expressions.preproc import Preproc, count_events, describe_column
from mlaas4hep.input_files import read_text
from mlaas4hep.io import Column, Columns, Kind
from mlaas4hep.io.columns import Values, empty_columns, select_events
from mlaas4hep.io.formats.awkward_bridge import from_awkward, to_awkward
from mlaas4hep.user_code.run import raise_config_error, run_file

if TYPE_CHECKING:
    import awkward as ak

POSITION = "event_position_"
"""Field of `events` with the position of each event in the chunk; it identifies the events that the function keeps."""


@dataclass(frozen=True)
class ScriptPreproc(Preproc):
    """Preprocessing by the function `preprocessing(events)` of a Python file.

    The function takes an awkward record array with a field for each branch, and returns such an array:
    `events[condition]` drops events, `events["name"] = ...` adds a column, and a new record array of the same length
    may leave out columns. The order of events must not change. The file may define `branches`, a list of the branches
    that the function needs; other branches are then not passed to the function, and read only if they are selected.
    Without it, the function gets every numeric branch.

    Attributes:
        path: the file.
        function: its function `preprocessing`.
        source: its text.
        branches: its `branches`; None if the file does not define them.
    """

    path: str
    function: Callable[[Any], Any] = field(compare=False)
    source: str
    branches: tuple[str, ...] | None = None
    portable: ClassVar[bool] = False

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Run a Python file and return its preprocessing.

        Raises:
            FileUnreadable: the file cannot be read.
            ConfigError: the code raises an exception, or does not define a function `preprocessing`.
        """
        source, module = read_text(Path(path)), run_file(Path(path), f"mlaas4hep_preproc_{Path(path).stem}")
        function, branches = getattr(module, "preprocessing", None), getattr(module, "branches", None)
        if not callable(function):
            close = nearest("preprocessing", vars(module))
            raise ConfigError(f"{path} does not define a function 'preprocessing(events)'", nearest=close)
        if branches is None:
            return cls(os.fspath(path), function, source)
        if isinstance(branches, str) or not all(isinstance(name, str) for name in branches) or not branches:
            raise ConfigError(f"'branches' of {path} must be a list of names, not {branches!r}")
        return cls(os.fspath(path), function, source, tuple(branches))

    @property
    def cache_key(self) -> str:
        """The text of the file."""
        return self.source

    def needs(self, available: Mapping[str, Column], selected: set[str]) -> set[str]:
        """Return the branches that the function needs, and those of `selected` that are in the file."""
        return self._inputs(available) | (selected & available.keys())

    def columns(self, available: Mapping[str, Column], sample: Columns | None = None) -> dict[str, Column]:
        """Run the function and return the columns after preprocessing; see `Preproc.columns`.

        Raises:
            BranchNotFound: the file lacks one of `branches`.
            ConfigError: the function raises an exception, the type of a result is unknown, or the function adds a
                column with the name of a branch that was not passed to it.
        """
        inputs = self._inputs(available)
        events = empty_columns(available, inputs) if sample is None else {name: sample[name] for name in inputs}
        results, _ = self._call(events, count_events(events))
        columns = {name: column for name, column in available.items() if name not in inputs}
        for name in results.keys() & (available.keys() - inputs):
            raise ConfigError(
                f"column '{name}' of {self.path}: the file has a branch with this name, which is not in 'events'",
                hint="choose another name" + (", or list it in 'branches'" if self.branches else ""),
            )
        for name, values in results.items():
            after = describe_column(name, values)
            before = available.get(name, after)
            columns[name] = before if (before.kind, before.dtype) == (after.kind, after.dtype) else after
        return columns

    def apply(self, columns: Columns) -> tuple[dict[str, Values], np.ndarray]:
        """Run the function; see `Preproc.apply`."""
        inputs = columns.keys() if self.branches is None else {*self.branches}
        events = count_events(columns)
        results, kept = self._call({name: columns[name] for name in columns if name in inputs}, events)
        others = {name: select_events(values, kept) for name, values in columns.items() if name not in inputs}
        return {**others, **results}, kept

    def sources(self, names: Collection[str]) -> set[str]:
        """Return the names and all `branches`, because the code may compute any new column from any of them."""
        return {*names, *(self.branches or ())}

    def for_prediction(self, names: Collection[str]) -> Self:
        """Return this preprocessing, because its code runs as a whole."""
        return self

    def to_json(self) -> dict[str, Any]:
        """Raise ConfigError, since bundles contain no code."""
        raise ConfigError(
            f"{self.path} is Python code, which bundles do not contain", hint="write it as a preproc.json"
        )

    def __reduce__(self) -> tuple[Callable[[str], Self], tuple[str]]:
        return type(self).from_file, (self.path,)

    def _inputs(self, available: Mapping[str, Column]) -> set[str]:
        if self.branches is None:
            return {name for name, column in available.items() if column.kind is not Kind.OTHER}
        for name in self.branches:
            if name not in available:
                raise BranchNotFound(
                    f"branch '{name}' of {self.path} is not in the file", nearest=nearest(name, available)
                )
            if available[name].kind is Kind.OTHER:
                raise ConfigError(f"branch '{name}' of {self.path} cannot be used: {available[name].reason}")
        return set(self.branches)

    def _call(self, columns: Columns, events: int) -> tuple[dict[str, Values], np.ndarray]:
        """Return the columns that the function returns, and which events it kept, bool (events,)."""
        import awkward as ak

        fields = {name: to_awkward(values) for name, values in columns.items()}
        record = ak.zip(fields | {POSITION: np.arange(events)}, depth_limit=1)
        try:
            result = self.function(record)
        except Exception as error:
            raise_config_error(Path(self.path), error)
        names = ak.fields(result) if isinstance(result, ak.Array) else []
        if not names:
            raise ConfigError(f"preprocessing(events) of {self.path} returns {type(result).__name__}, not events")
        kept = self._kept(result, events)
        return {name: self._column(name, result[name]) for name in names if name != POSITION}, kept

    def _column(self, name: str, array: Any) -> Values:
        if str(array.type.content).endswith("unknown"):
            raise ConfigError(
                f"column '{name}' of {self.path} has an unknown type if there are no events",
                hint="compute it with functions of awkward",
            )
        try:
            return from_awkward(array)
        except ConfigError as error:
            raise ConfigError(f"column '{name}' of {self.path}: {error.what}") from error

    def _kept(self, result: ak.Array, events: int) -> np.ndarray:
        if POSITION in result.fields:
            positions = np.asarray(result[POSITION])
            if np.any(np.diff(positions) <= 0):
                raise ConfigError(f"preprocessing(events) of {self.path} repeats or reorders events")
            kept = np.zeros(events, bool)
            kept[positions] = True
            return kept
        if len(result) != events:
            raise ConfigError(
                f"preprocessing(events) of {self.path} returns {len(result)} of {events} events, but not which",
                hint=f"drop events with events[condition], or keep the field '{POSITION}'",
            )
        return np.ones(events, bool)
