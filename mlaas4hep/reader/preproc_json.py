"""New branches and cuts as expressions: what a preproc.json says.

    preproc = JsonPreproc.read({"define": {"ht": "sum(Jet_pt)"}, "cut": "nMuon >= 2 & ht > 100"}, "preproc.json")

The original's form (`new_branch`, `flat_cut`, `jagged_cut`) and the short one above may stand in one file. What an
expression may say is in `expressions`, what a preprocessing does for its reader in `preproc.Preproc`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, ClassVar

import numpy as np
from typing_extensions import Self

from mlaas4hep.errors import BranchNotFound, ConfigError, nearest
from mlaas4hep.io import Column, Columns, Jagged, Kind
from mlaas4hep.io.columns import no_events, select_events
from mlaas4hep.reader.arithmetic import Unfit, truth
from mlaas4hep.reader.expressions import Expression
from mlaas4hep.reader.functions import holds_for_all, holds_for_any
from mlaas4hep.reader.preproc import Preproc, count_events, describe

_SECTIONS = {
    "new_branch": ("def", "type", "remove", "keys_to_remove"),
    "flat_cut": ("remove",),
    "jagged_cut": ("remove",),
}
_CUT = re.compile(r"cut(_\d+)?")
_OVER = {"any": holds_for_any, "all": holds_for_all}
_SHAPES = {Kind.FLAT: "one number an event", Kind.JAGGED: "a list an event"}


@dataclass(frozen=True, slots=True)
class Definition:
    """A new branch.

    Attributes:
        name: of the branch.
        expression: what it is.
        kind: FLAT or JAGGED as declared; None where that is left to the expression.
    """

    name: str
    expression: Expression
    kind: Kind | None = None

    def make(self, columns: Columns) -> np.ndarray | Jagged:
        """Return the branch, float64 (events,) or lists of float64.

        Raises:
            ConfigError: the expression does not give the declared type.
        """
        with _place(f"new branch '{self.name}'"):
            values = self.expression.evaluate(columns)
            _check_kind(values, self.kind, self.expression)
        if isinstance(values, Jagged):
            return Jagged(values.offsets, values.content.astype(np.float64))
        return values.astype(np.float64)


@dataclass(frozen=True, slots=True)
class Cut:
    """A condition that events must fulfil.

    Attributes:
        where: what it belongs to, for messages.
        expression: the condition.
        over: "any" or "all" of a list's values must fulfil it. An empty list fails "any" and passes "all".
        kind: FLAT or JAGGED, where the condition must be one a number or one a list; None where either will do.
    """

    where: str = field(compare=False)
    expression: Expression
    over: str = "any"
    kind: Kind | None = None

    def passes(self, columns: Columns) -> np.ndarray:
        """Return which events fulfil it, bool (events,).

        Raises:
            ConfigError: the expression is no condition, or not of the kind that it must be.
        """
        with _place(self.where):
            values = self.expression.evaluate(columns)
            _check_kind(values, self.kind, self.expression)
            try:
                condition = truth(values)
            except Unfit as error:
                raise ConfigError(f"expression '{self.expression.text}': {error}") from error
        return _OVER[self.over](condition) if isinstance(condition, Jagged) else condition


@dataclass(frozen=True)
class JsonPreproc(Preproc):
    """New branches and cuts as expressions: what a preproc.json says.

    A cut sees every branch, those too that are removed afterwards. Comparisons with NaN are False: an event that lacks
    what a cut compares does not survive it.

    Attributes:
        definitions: new branches, each after those that it is made of.
        cuts: conditions, all of which an event must fulfil.
        removed: branches that are gone afterwards.
        subjects: further branches that the file must have, since it names them.
        content: what was read.
    """

    definitions: tuple[Definition, ...]
    cuts: tuple[Cut, ...]
    removed: frozenset[str]
    subjects: frozenset[str]
    content: Mapping[str, Any] = field(repr=False, compare=False)
    portable: ClassVar[bool] = True

    @classmethod
    def read(cls, content: Any, where: str) -> Self:
        """Read the content of a preproc.json.

        Args:
            where: the file, for messages.

        Raises:
            ConfigError: it is of neither form; the message says where and what.
        """
        _check_form(content, where)
        definitions = _in_order(_definitions(content, where), where)
        cuts, removed = tuple(_all_cuts(content, where)), frozenset(_all_removed(content, where))
        return cls(
            definitions,
            cuts,
            removed,
            frozenset((*content.get("flat_cut", ()), *content.get("jagged_cut", ()))),
            content,
        )

    def needs(self, available: Mapping[str, Column], selected: set[str]) -> set[str]:
        """See `Preproc.needs`."""
        self._check(available)
        for name in sorted(selected & self.removed):
            raise ConfigError(f"branch '{name}' cannot be selected: the preprocessing removes it")
        wanted = selected.union(*(cut.expression.names for cut in self.cuts))
        for definition in reversed(self.definitions):
            if definition.name in wanted:
                wanted.remove(definition.name)
                wanted |= definition.expression.names
        for name in sorted(wanted):
            self._find(name, available)
        return wanted

    def columns(self, available: Mapping[str, Column], sample: Columns | None = None) -> dict[str, Column]:
        """See `Preproc.columns`; the expressions are tried on no events, so no sample is looked at."""
        self._check(available)
        columns = no_events(available, self._ingredients() & available.keys())
        made = self._make(columns)
        for cut in self.cuts:
            cut.passes(made)
        new = {definition.name: describe(definition.name, made[definition.name]) for definition in self.definitions}
        return {name: column for name, column in {**available, **new}.items() if name not in self.removed}

    def apply(self, columns: Columns) -> tuple[dict[str, np.ndarray | Jagged], np.ndarray]:
        """See `Preproc.apply`."""
        made = self._make(columns)
        kept = np.ones(count_events(columns), bool)
        for cut in self.cuts:
            for name in sorted(cut.expression.names - made.keys()):
                raise BranchNotFound(f"{cut.where}: branch '{name}' was not read", nearest=nearest(name, made))
            kept &= cut.passes(made)
        whole = bool(kept.all())
        survivors = {name: values if whole else select_events(values, kept) for name, values in made.items()}
        return {name: values for name, values in survivors.items() if name not in self.removed}, kept

    def to_json(self) -> dict[str, Any]:
        """Return what was read."""
        return dict(self.content)

    def _make(self, columns: Columns) -> dict[str, np.ndarray | Jagged]:
        """Return the columns and, of the new branches, those whose ingredients are there."""
        made = dict(columns)
        for definition in self.definitions:
            if definition.expression.names <= made.keys():
                made[definition.name] = definition.make(made)
        return made

    def _ingredients(self) -> set[str]:
        """Return every name that an expression uses."""
        expressions = [new.expression for new in self.definitions] + [cut.expression for cut in self.cuts]
        return {name for expression in expressions for name in expression.names}

    def _check(self, available: Mapping[str, Column]) -> None:
        for definition in self.definitions:
            if not definition.name.strip() or not definition.name.isprintable():
                raise ConfigError(f"new branch {definition.name!r}: that is no name that can be shown; choose another")
            if definition.name in available:
                raise ConfigError(f"new branch '{definition.name}': the file has a branch of that name; choose another")
        for name in sorted(self.subjects | self.removed | self._ingredients()):
            self._find(name, available)
        for name in sorted(self._ingredients() & available.keys()):
            if available[name].kind is Kind.OTHER:
                raise ConfigError(f"branch '{name}' cannot be calculated with: {available[name].reason}")

    def _find(self, name: str, available: Mapping[str, Column]) -> None:
        known = [*available, *(definition.name for definition in self.definitions)]
        if name not in known:
            raise BranchNotFound(f"branch '{name}' is neither in the file nor defined", nearest=nearest(name, known))


def _check_form(content: Any, where: str) -> None:
    _check_keys(content, (*_SECTIONS, "define"), where)
    for section in (*_SECTIONS, "define"):
        if not isinstance(content.get(section, {}), dict):
            raise ConfigError(f"{where}: '{section}' is {content[section]!r}, not names with what belongs to them")
    for section, keys in _SECTIONS.items():
        for _, entry, place in _entries(content, section, where):
            _check_keys(entry, keys, place)


def _check_keys(entry: Any, known: Iterable[str], where: str) -> None:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: {entry!r} is not an object with keys and values")
    for key in entry:
        if key not in known and not _CUT.fullmatch(key):
            raise ConfigError(f"{where}: unknown key '{key}'", nearest=nearest(key, [*known, "cut"]))


def _entries(content: Mapping[str, Any], section: str, where: str) -> Iterator[tuple[str, Any, str]]:
    """Yield name, entry and the place, for messages, of what stands in a section."""
    noun = "new branch" if section in ("new_branch", "define") else section
    for name, entry in content.get(section, {}).items():
        yield name, entry, f"{where}: {noun} '{name}'"


def _definitions(content: Mapping[str, Any], where: str) -> Iterator[Definition]:
    for name, entry, place in _entries(content, "new_branch", where):
        yield Definition(name, _expression(entry.get("def"), place), _kind(entry, place))
    for name, text, place in _entries(content, "define", where):
        yield Definition(name, _expression(text, place))


def _all_cuts(content: Mapping[str, Any], where: str) -> Iterator[Cut]:
    for _, entry, place in _entries(content, "new_branch", where):
        yield from _cuts(entry, place, _kind(entry, place))
    for section, kind in (("flat_cut", Kind.FLAT), ("jagged_cut", Kind.JAGGED)):
        for _, entry, place in _entries(content, section, where):
            yield from _cuts(entry, place, kind)
    yield from _cuts(content, where, None)


def _all_removed(content: Mapping[str, Any], where: str) -> Iterator[str]:
    for section in _SECTIONS:
        for name, entry, place in _entries(content, section, where):
            yield from _removed(name, entry, place)


def _expression(text: Any, where: str) -> Expression:
    if not isinstance(text, str):
        raise ConfigError(f"{where}: an expression is needed, not {text!r}")
    with _place(where):
        expression = Expression.parse(text)
    if not expression.names:
        raise ConfigError(f"{where}: expression '{text}' uses no branch")
    return expression


def _kind(entry: Mapping[str, Any], where: str) -> Kind | None:
    declared = entry.get("type")
    if declared not in (None, "flat", "jagged"):
        raise ConfigError(f"{where}: type is {declared!r}; it is 'flat' or 'jagged'")
    return None if declared is None else Kind(declared)


def _cuts(entry: Mapping[str, Any], where: str, kind: Kind | None) -> Iterator[Cut]:
    """Yield the cuts of an entry by number."""
    for key in sorted(filter(_CUT.fullmatch, entry), key=lambda key: (len(key), key)):
        cut = entry[key]
        if isinstance(cut, str) and kind is not Kind.JAGGED:
            yield Cut(f"{where}, {key}", _expression(cut, f"{where}, {key}"), kind=kind)
        elif isinstance(cut, list) and len(cut) == 2 and cut[1] in ("any", "all") and kind is not Kind.FLAT:
            yield Cut(f"{where}, {key}", _expression(cut[0], f"{where}, {key}"), cut[1], Kind.JAGGED)
        else:
            forms = {Kind.FLAT: "an expression", Kind.JAGGED: "a pair of an expression and 'any' or 'all'"}
            wanted = forms[kind] if kind else " or ".join(forms.values())
            raise ConfigError(f"{where}, {key}: {cut!r} is not {wanted}")


def _removed(name: str, entry: Mapping[str, Any], where: str) -> set[str]:
    """Return the branches that an entry removes."""
    flag, others = entry.get("remove", False), entry.get("keys_to_remove", [])
    if str(flag).lower() not in ("true", "false"):
        raise ConfigError(f"{where}: remove is {flag!r}; it is true or false")
    if not isinstance(others, list) or not all(isinstance(other, str) for other in others):
        raise ConfigError(f"{where}: keys_to_remove is {others!r}, not a list of names")
    return {*others, name} if str(flag).lower() == "true" else {*others}


def _in_order(definitions: Iterable[Definition], where: str) -> tuple[Definition, ...]:
    """Return definitions such that each follows those that it is made of."""
    by_name: dict[str, Definition] = {}
    for definition in definitions:
        if definition.name in by_name:
            raise ConfigError(f"{where}: new branch '{definition.name}' is defined twice")
        by_name[definition.name] = definition
    ingredients = {name: sorted(new.expression.names & by_name.keys()) for name, new in by_name.items()}
    try:
        return tuple(by_name[name] for name in TopologicalSorter(ingredients).static_order())
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise ConfigError(f"{where}: new branches are made of each other: {circle}") from error


def _check_kind(values: np.ndarray | Jagged, kind: Kind | None, expression: Expression) -> None:
    found = Kind.JAGGED if isinstance(values, Jagged) else Kind.FLAT
    if kind not in (None, found):
        wanted = f"{kind.value}, {_SHAPES[kind]}, is declared"
        raise ConfigError(f"{wanted}, but '{expression.text}' gives {_SHAPES[found]}", hint=f"it is {found.value}")


@contextmanager
def _place(where: str) -> Iterator[None]:
    """Put the place in front of what goes wrong."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.what}", nearest=error.nearest, hint=error.hint) from error
