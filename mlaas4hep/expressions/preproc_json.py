"""Preprocessing by a preproc.json, which defines new branches and cuts as expressions.

    preproc = JsonPreproc.read({"define": {"ht": "sum(Jet_pt)"}, "cut": "nMuon >= 2 & ht > 100"}, "preproc.json")
    JsonPreproc.read({"cuts": ["ht > 100", {"cut": "genPartFlav >= 0", "training_only": true}]}, "preproc.json")

A file may use the form of the original MLaaS4HEP (`new_branch`, `flat_cut`, `jagged_cut`), the short form above, or
both. See `expression` for expressions, and `preproc.Preproc` for the interface.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any, ClassVar

import numpy as np
from typing_extensions import Self

from mlaas4hep.errors import BranchNotFound, ConfigError, error_context, nearest
from mlaas4hep.expressions.cut import Cut, check_kind
from mlaas4hep.expressions.expression import Expression
from mlaas4hep.expressions.preproc import Preproc, count_events, describe_column
from mlaas4hep.io import Column, Columns, Jagged, Kind
from mlaas4hep.io.columns import Values, empty_columns, select_events

_SECTIONS = {
    "new_branch": ("def", "type", "remove", "keys_to_remove"),
    "flat_cut": ("remove",),
    "jagged_cut": ("remove",),
}
_CUT = re.compile(r"cut(_\d+)?")
_TRAINING_ONLY = "training_only"


@dataclass(frozen=True, slots=True)
class Definition:
    """The definition of a new branch.

    Attributes:
        name: name of the branch.
        expression: expression that gives its values.
        kind: FLAT or JAGGED if declared in the file, otherwise None.
    """

    name: str
    expression: Expression
    kind: Kind | None = None

    def evaluate(self, columns: Columns) -> np.ndarray | Jagged:
        """Return the values of the branch, float64 (events,) or lists of float64.

        Raise ConfigError if the expression does not give the declared kind.
        """
        with error_context(f"new branch '{self.name}'"):
            values = self.expression.evaluate(columns)
            check_kind(values, self.kind, self.expression)
        if isinstance(values, Jagged):
            return Jagged(values.offsets, values.content.astype(np.float64))
        return values.astype(np.float64)


@dataclass(frozen=True)
class JsonPreproc(Preproc):
    """Preprocessing by a preproc.json.

    Cuts may use every branch, including those that are removed afterwards. Comparisons with NaN are False, so an event
    does not pass a comparison of a missing value.

    Attributes:
        definitions: new branches, each after those that it depends on.
        cuts: conditions that an event must pass.
        removed: branches that are removed.
        must_exist: branches that must exist, even if no expression uses them: those that are removed, and the names of
            the cuts in `flat_cut` and `jagged_cut`.
        content: the content of the file.
    """

    definitions: tuple[Definition, ...]
    cuts: tuple[Cut, ...]
    removed: frozenset[str]
    must_exist: frozenset[str]
    content: Mapping[str, Any] = field(repr=False, compare=False)
    portable: ClassVar[bool] = True

    @classmethod
    def read(cls, content: Any, where: str) -> Self:
        """Create a preprocessing from the content of a preproc.json.

        Raise ConfigError if the content is invalid; the message names the file (`where`) and the place in it.
        """
        _check_structure(content, where)
        definitions = _by_dependency(_definitions(content, where), where)
        cuts, removed = tuple(_all_cuts(content, where)), frozenset(_all_removed(content, where))
        cut_names = frozenset((*content.get("flat_cut", ()), *content.get("jagged_cut", ())))
        return cls(definitions, cuts, removed, removed | cut_names, content)

    def needs(self, available: Mapping[str, Column], selected: set[str]) -> set[str]:
        """See `Preproc.needs`."""
        self._check(available)
        for name in sorted(selected & self.removed):
            raise ConfigError(f"branch '{name}' cannot be selected: the preprocessing removes it")
        names = selected.union(*(cut.expression.names for cut in self.cuts))
        required = self.sources(names) - {definition.name for definition in self.definitions}
        for name in sorted(required):
            self._check_exists(name, available)
        return required

    def columns(self, available: Mapping[str, Column], sample: Columns | None = None) -> dict[str, Column]:
        """See `Preproc.columns`; the expressions are evaluated for zero events, and `sample` is not used."""
        self._check(available)
        values = self._with_new_branches(empty_columns(available, self.used_names & available.keys()))
        for cut in self.cuts:
            cut.passes(values)
        new = {one.name: describe_column(one.name, values[one.name]) for one in self.definitions}
        return {name: column for name, column in {**available, **new}.items() if name not in self.removed}

    def apply(self, columns: Columns) -> tuple[dict[str, Values], np.ndarray]:
        """See `Preproc.apply`."""
        values = self._with_new_branches(columns)
        kept = np.ones(count_events(columns), bool)
        for cut in self.cuts:
            for name in sorted(cut.expression.names - values.keys()):
                raise BranchNotFound(f"{cut.where}: branch '{name}' was not read", nearest=nearest(name, values))
            kept &= cut.passes(values)
        remaining = {name: column for name, column in values.items() if name not in self.removed}
        if not kept.all():
            remaining = {name: select_events(column, kept) for name, column in remaining.items()}
        return remaining, kept

    def sources(self, names: Collection[str]) -> set[str]:
        """See `Preproc.sources`."""
        found = set(names)
        for definition in reversed(self.definitions):
            if definition.name in found:
                found |= definition.expression.names
        return found

    def for_prediction(self, names: Collection[str]) -> Self:
        """See `Preproc.for_prediction`. Branches that are removed need not exist."""
        cuts = tuple(cut for cut in self.cuts if not cut.training_only)
        needed = self.sources({*names}.union(*(cut.expression.names for cut in cuts)))
        definitions = tuple(definition for definition in self.definitions if definition.name in needed)
        return replace(self, definitions=definitions, cuts=cuts, must_exist=frozenset())

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        return dict(self.content)

    def _with_new_branches(self, columns: Columns) -> dict[str, Values]:
        """Return the columns and those new branches that can be computed from them."""
        values = dict(columns)
        for definition in self.definitions:
            if definition.expression.names <= values.keys():
                values[definition.name] = definition.evaluate(values)
        return values

    @property
    def used_names(self) -> set[str]:
        """The names of all branches that the expressions use, including new ones."""
        expressions = [new.expression for new in self.definitions] + [cut.expression for cut in self.cuts]
        return {name for expression in expressions for name in expression.names}

    def _check(self, available: Mapping[str, Column]) -> None:
        for definition in self.definitions:
            name = definition.name
            if not name.strip() or not name.isprintable():
                raise ConfigError(f"invalid name {name!r} of a new branch", hint="use printable characters")
            if name in available:
                raise ConfigError(f"new branch '{name}': the file has a branch with this name", hint="choose another")
        for name in sorted(self.must_exist | self.used_names):
            self._check_exists(name, available)
        for name in sorted(self.used_names & available.keys()):
            if available[name].kind is Kind.OTHER:
                raise ConfigError(f"branch '{name}' cannot be used in an expression: {available[name].reason}")

    def _check_exists(self, name: str, available: Mapping[str, Column]) -> None:
        names = [*available, *(definition.name for definition in self.definitions)]
        if name not in names:
            raise BranchNotFound(f"branch '{name}' is neither in the file nor defined", nearest=nearest(name, names))


def _check_structure(content: Any, where: str) -> None:
    _check_keys(content, (*_SECTIONS, "define", "cuts"), where)
    for section in (*_SECTIONS, "define"):
        if not isinstance(content.get(section, {}), dict):
            raise ConfigError(
                f"{where}: '{section}' must be a JSON object with names as keys, not {content[section]!r}"
            )
    for section, keys in _SECTIONS.items():
        for _, entry, place in _entries(content, section, where):
            _check_keys(entry, keys, place)


def _check_keys(entry: Any, allowed: Iterable[str], where: str) -> None:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: {entry!r} is not a JSON object")
    for key in entry:
        if key not in allowed and not _CUT.fullmatch(key):
            raise ConfigError(f"{where}: unknown key '{key}'", nearest=nearest(key, [*allowed, "cut"]))


def _entries(content: Mapping[str, Any], section: str, where: str) -> Iterator[tuple[str, Any, str]]:
    """Yield the name, the content and the place (for error messages) of each entry in a section."""
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
    yield from _listed_cuts(content.get("cuts", []), f"{where}, cuts")


def _all_removed(content: Mapping[str, Any], where: str) -> Iterator[str]:
    for section in _SECTIONS:
        for name, entry, place in _entries(content, section, where):
            yield from _removed(name, entry, place)


def _expression(text: Any, where: str) -> Expression:
    if not isinstance(text, str):
        raise ConfigError(f"{where}: expected an expression, got {text!r}")
    with error_context(where):
        expression = Expression.parse(text)
    if not expression.names:
        raise ConfigError(f"{where}: expression '{text}' uses no branch")
    return expression


def _kind(entry: Mapping[str, Any], where: str) -> Kind | None:
    declared = entry.get("type")
    if declared not in (None, "flat", "jagged"):
        raise ConfigError(f"{where}: type must be 'flat' or 'jagged', not {declared!r}")
    return None if declared is None else Kind(declared)


def _cuts(entry: Mapping[str, Any], where: str, kind: Kind | None) -> Iterator[Cut]:
    """Yield the cuts of an entry in the order of their numbers."""
    for key in sorted(filter(_CUT.fullmatch, entry), key=lambda key: (len(key), key)):
        yield _cut(entry[key], f"{where}, {key}", kind)


def _listed_cuts(listed: Any, where: str) -> Iterator[Cut]:
    """Yield the cuts of the list `cuts`, each with or without the key `training_only`."""
    if not isinstance(listed, list):
        raise ConfigError(f"{where}: expected a list of cuts, got {listed!r}", hint="a single cut is called 'cut'")
    for number, one in enumerate(listed, 1):
        place = f"{where}, number {number}"
        if not isinstance(one, dict):
            yield _cut(one, place, None)
            continue
        for key in one:
            if key not in ("cut", _TRAINING_ONLY):
                raise ConfigError(f"{place}: unknown key '{key}'", nearest=nearest(key, ("cut", _TRAINING_ONLY)))
        flag = one.get(_TRAINING_ONLY, False)
        if not isinstance(flag, bool):
            raise ConfigError(f"{place}: {_TRAINING_ONLY} must be true or false, not {flag!r}")
        yield replace(_cut(one.get("cut"), place, None), training_only=flag)


def _cut(cut: Any, where: str, kind: Kind | None) -> Cut:
    """Parse a cut on values of a kind; None: of any kind."""
    if isinstance(cut, str) and kind is not Kind.JAGGED:
        return Cut(where, _expression(cut, where), kind=kind)
    if isinstance(cut, list) and len(cut) == 2 and cut[1] in ("any", "all") and kind is not Kind.FLAT:
        return Cut(where, _expression(cut[0], where), cut[1], Kind.JAGGED)
    forms = {Kind.FLAT: "an expression", Kind.JAGGED: "a pair of an expression and 'any' or 'all'"}
    expected = forms[kind] if kind else " or ".join(forms.values())
    raise ConfigError(f"{where}: {cut!r} is not {expected}")


def _removed(name: str, entry: Mapping[str, Any], where: str) -> set[str]:
    """Return the branches that an entry removes."""
    flag, others = entry.get("remove", False), entry.get("keys_to_remove", [])
    if str(flag).lower() not in ("true", "false"):
        raise ConfigError(f"{where}: remove must be true or false, not {flag!r}")
    if not isinstance(others, list) or not all(isinstance(other, str) for other in others):
        raise ConfigError(f"{where}: keys_to_remove must be a list of names, not {others!r}")
    return {*others, name} if str(flag).lower() == "true" else {*others}


def _by_dependency(definitions: Iterable[Definition], where: str) -> tuple[Definition, ...]:
    """Return the definitions, each after those that it depends on."""
    by_name: dict[str, Definition] = {}
    for definition in definitions:
        if definition.name in by_name:
            raise ConfigError(f"{where}: new branch '{definition.name}' is defined twice")
        by_name[definition.name] = definition
    dependencies = {name: sorted(new.expression.names & by_name.keys()) for name, new in by_name.items()}
    try:
        return tuple(by_name[name] for name in TopologicalSorter(dependencies).static_order())
    except CycleError as error:
        cycle = " -> ".join(reversed(error.args[1]))
        raise ConfigError(f"{where}: new branches depend on each other: {cycle}") from error
