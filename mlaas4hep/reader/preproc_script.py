"""Preprocessing by a person's own Python file.

    preproc = ScriptPreproc.from_file("preproc.py")     # def preprocessing(events): return events[events.nMuon >= 2]
    columns, kept = preproc.apply(source.read(preproc.needs(source.columns, set()), 0, 1000))

The file is code that its user names on the command line; a bundle never carries one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from typing_extensions import Self

from mlaas4hep.errors import BranchNotFound, ConfigError, nearest
from mlaas4hep.input_files import read_text
from mlaas4hep.io import Column, Columns, Jagged, Kind
from mlaas4hep.io.awkward_bridge import from_awkward, to_awkward
from mlaas4hep.io.columns import no_events, select_events
from mlaas4hep.reader.preproc import Preproc, count_events, describe
from mlaas4hep.user_code import explain, run_file

if TYPE_CHECKING:
    import awkward as ak

POSITION = "event_position_"
"""Field of `events` that tells afterwards which events survived: the position of the event in the chunk."""


@dataclass(frozen=True)
class ScriptPreproc(Preproc):
    """Preprocessing by `preprocessing(events)` of a Python file.

    The function gets an awkward record array with a field for each branch, and returns one: `events[condition]` drops
    events, `events["name"] = ...` makes a new column, a new record array of as many events leaves columns out. The
    order of events stays. The file may define `branches`, a list of the branches that the function needs; all others
    then pass it by, and are read only if they are selected. Without it the function gets every numeric branch.

    Attributes:
        path: the file.
        function: its `preprocessing`.
        source: its text.
        branches: its `branches`; None where it has none.
    """

    path: str
    function: Callable[[Any], Any] = field(compare=False)
    source: str
    branches: tuple[str, ...] | None = None
    portable: ClassVar[bool] = False

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Run a Python file and take `preprocessing`, and `branches` where there is one, from it.

        Raises:
            FileUnreadable: there is no such file.
            ConfigError: it fails, or has no function `preprocessing`.
        """
        source, module = read_text(Path(path)), run_file(Path(path), f"mlaas4hep_preproc_{Path(path).stem}")
        function, branches = getattr(module, "preprocessing", None), getattr(module, "branches", None)
        if not callable(function):
            close = nearest("preprocessing", vars(module))
            raise ConfigError(f"{path} defines no function 'preprocessing(events)'", nearest=close)
        if branches is None:
            return cls(os.fspath(path), function, source)
        if isinstance(branches, str) or not all(isinstance(name, str) for name in branches) or not branches:
            raise ConfigError(f"'branches' of {path} is {branches!r}, not a list of names")
        return cls(os.fspath(path), function, source, tuple(branches))

    @property
    def key(self) -> str:
        """The text of the file."""
        return self.source

    def needs(self, available: Mapping[str, Column], selected: set[str]) -> set[str]:
        """Return the function's branches, and those of `selected` that are in the file."""
        return self._inputs(available) | (selected & available.keys())

    def columns(self, available: Mapping[str, Column], sample: Columns | None = None) -> dict[str, Column]:
        """Return the columns after preprocessing, found by running the function.

        Args:
            available: columns of the file.
            sample: some events, for functions that cannot tell the types of their results from no events at all.

        Raises:
            BranchNotFound: the file lacks one of `branches`.
            ConfigError: the function fails, or what it returns has no type without events.
        """
        inputs = self._inputs(available)
        events = no_events(available, inputs) if sample is None else {name: sample[name] for name in inputs}
        made, _ = self._call(events, count_events(events))
        after = {name: column for name, column in available.items() if name not in inputs}
        for name, values in made.items():
            found = describe(name, values)
            before = available.get(name, found)
            after[name] = before if (before.kind, before.dtype) == (found.kind, found.dtype) else found
        return after

    def apply(self, columns: Columns) -> tuple[dict[str, np.ndarray | Jagged], np.ndarray]:
        """Run the function; see `Preproc.apply`."""
        inputs = columns.keys() if self.branches is None else {*self.branches}
        events = count_events(columns)
        made, kept = self._call({name: columns[name] for name in columns if name in inputs}, events)
        by = {name: select_events(values, kept) for name, values in columns.items() if name not in inputs}
        return {**by, **made}, kept

    def to_json(self) -> dict[str, Any]:
        """Refuse: a bundle carries no code.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"{self.path} is Python code, which a bundle does not carry", hint="write it as a preproc.json"
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

    def _call(self, columns: Columns, events: int) -> tuple[dict[str, np.ndarray | Jagged], np.ndarray]:
        """Return what the function makes of the columns, and which events it kept, bool (events,)."""
        import awkward as ak

        fields = {name: to_awkward(values) for name, values in columns.items()}
        record = ak.zip(fields | {POSITION: np.arange(events)}, depth_limit=1)
        try:
            result = self.function(record)
        except Exception as error:
            explain(Path(self.path), error)
        made = ak.fields(result) if isinstance(result, ak.Array) else []
        if not made:
            raise ConfigError(f"preprocessing(events) of {self.path} returns {type(result).__name__}, not events")
        kept = self._kept(result, events)
        return {name: self._column(name, result[name]) for name in made if name != POSITION}, kept

    def _column(self, name: str, array: Any) -> np.ndarray | Jagged:
        if str(array.type.content).endswith("unknown"):
            raise ConfigError(
                f"what '{name}' of {self.path} is cannot be told without events", hint="use awkward's functions"
            )
        try:
            return from_awkward(array)
        except ConfigError as error:
            raise ConfigError(f"column '{name}' that {self.path} makes: {error.what}") from error

    def _kept(self, result: ak.Array, events: int) -> np.ndarray:
        if POSITION in result.fields:
            positions = np.asarray(result[POSITION])
            if np.any(np.diff(positions) <= 0):
                raise ConfigError(f"preprocessing(events) of {self.path} repeats or reorders events")
            kept = np.zeros(events, bool)
            kept[positions] = True
            return kept
        if len(result) != events:
            hint = f"drop them with events[condition], or hand on the field '{POSITION}'"
            raise ConfigError(f"which events preprocessing(events) of {self.path} dropped cannot be told", hint=hint)
        return np.ones(events, bool)
