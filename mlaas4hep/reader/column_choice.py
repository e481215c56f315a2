"""Choice of the columns of a file that a reader uses.

choices = ColumnChoices()
chosen = choices.choose(source, ReadOptions(selected_branches=["Jet_*"]), specs=None)
chosen.features, chosen.identifier
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import NamedTuple

from mlaas4hep.config import IDENTIFIER
from mlaas4hep.errors import ConfigError, SpecsMismatch, error_context
from mlaas4hep.expressions.cut import Cut
from mlaas4hep.expressions.derived import DerivedColumns, check_branches
from mlaas4hep.expressions.expression import Expression
from mlaas4hep.io import Column, Kind, Source
from mlaas4hep.io.columns import empty_columns
from mlaas4hep.io.nested_lists import describe_nested
from mlaas4hep.reader.friends import keys_of_friends
from mlaas4hep.reader.inputs import Inputs, branches_of
from mlaas4hep.reader.layout import VectorLayout
from mlaas4hep.reader.read_options import ReadOptions
from mlaas4hep.reader.selection import (
    check_not_removed,
    drop_excluded,
    flat_columns,
    literal_names,
    match,
    select,
)
from mlaas4hep.specs.specs import BranchSpecs, Specs, check_columns_match

MAX_CHOICES = 8
"""Number of choices that `ColumnChoices` remembers."""


@dataclass(frozen=True)
class ChosenColumns:
    """The columns that a reader uses.

    Attributes:
        available: every column of the file after preprocessing, including those that are not numeric, and `absent`.
        absent: features that the file lacks, whose values are missing.
        features: branches of the vector: flat branches sorted by name, then jagged branches sorted by name.
        identifier: columns of the file that identify an event.
        extra: flat columns that are returned in addition to the features.
        derived: expressions whose values are returned in addition to the features.
        cut: condition that events must pass; None: all pass.
        specs: specs of the features; None: no specs were given.
    """

    available: Mapping[str, Column]
    absent: Mapping[str, Column]
    features: Sequence[str]
    identifier: tuple[str, ...]
    extra: tuple[str, ...]
    derived: DerivedColumns
    cut: Cut | None
    specs: Specs | None

    @cached_property
    def empty_specs(self) -> Specs:
        """Specs of the features from no events: fixed branches have their size, lists have the length 0."""
        return Specs({name: _empty_specs(self.available[name]) for name in self.features})


class ColumnChoices:
    """Chooses the columns of many files, once for files with the same columns. It is thread-safe."""

    def __init__(self) -> None:
        self._recent: deque[_Choice] = deque(maxlen=MAX_CHOICES)

    def choose(self, source: Source, options: ReadOptions, specs: Specs | None) -> ChosenColumns:
        """Choose and check the columns of a file.

        Raises:
            BranchNotFound: the file lacks a branch that the options name.
            ConfigError: a branch cannot be used as the options request.
            SpecsMismatch: the specs do not belong to the file.
        """
        columns = list(source.columns.items())
        for choice in tuple(self._recent):
            if choice.specs is specs and choice.options == options and choice.columns == columns:
                chosen = choice.chosen
                break
        else:
            chosen = _choose(source, options, specs)
            self._recent.appendleft(_Choice(columns, options, specs, chosen))
        if chosen.specs is not None and not (chosen.specs.events or chosen.specs.legacy) and source.num_entries:
            raise SpecsMismatch(
                "the specs were made from files without events",
                hint="make specs from files with events: reader.py --fin=FILE --fout=specs.json",
            )
        return chosen


class _Choice(NamedTuple):
    """The columns that were chosen, and what they were chosen from."""

    columns: Sequence[tuple[str, Column]]
    options: ReadOptions
    specs: Specs | None
    chosen: ChosenColumns


def _choose(source: Source, options: ReadOptions, specs: Specs | None) -> ChosenColumns:
    """Choose columns; see `ColumnChoices.choose`. Only error messages depend on the file itself."""
    where = f"tree '{options.branch}' of {source.location}"
    optional = tuple(options.identifier) == IDENTIFIER
    derived = DerivedColumns(options.derived)
    available = source.columns
    if options.preproc is not None:
        after = options.preproc.columns(available)
        available = {name: describe_nested(column, options.nested) for name, column in after.items()}
        requested = (options.selected_branches, options.exclude_branches, options.extra, derived.names)
        inputs = (one.branches for one in options.inputs.values())
        required = () if optional else options.identifier
        check_not_removed(available, source.columns, chain(*requested, *inputs, required), where)
    identifier = flat_columns(available, options.identifier, where, optional)
    extra = flat_columns(available, match(available, options.extra, where), where)
    derived.check(available, where)
    cut = _cut(options.cut, available, where)
    for name in {*extra} & options.derived.keys():
        raise ConfigError(
            f"'{name}' names both a branch of {where} and an expression",
            hint=f'give the branch another name with --preproc, as in {{"define": {{"{name}_": "{name}"}}}}',
        )
    absent = _absent(available, options, specs)
    available = {**available, **absent}
    chosen = options.selected_branches
    named = [*chosen, *chain.from_iterable((*one.branches, one.key) for one in options.inputs.values())]
    if options.inputs:
        if chosen:
            raise ConfigError("selected branches and inputs exclude each other", hint="name all branches in the inputs")
        chosen = branches_of(options.inputs, available, where, options.optional_branches)
    non_features = {*(identifier if optional else options.identifier), *extra}
    if specs is None or chosen:
        non_features |= keys_of_friends(options, available).difference(literal_names(available, named))
    excluded = (options.exclude_branches, non_features, where, options.exclude_missing, options.require_features)
    if specs is not None and not chosen:
        features = drop_excluded(VectorLayout.of(specs).branches, {**available, **specs.branches}, *excluded)
    elif options.all_features is not None:
        features = list(options.all_features)
    else:
        features = select(available, chosen, *excluded, options.optional_branches)
    if specs is not None:
        specs = options.limited(specs.select(features))
        check_columns_match(specs, {name: available[name] for name in features if name in available}, where)
    found = ChosenColumns(available, absent, features, identifier, extra, derived, cut, specs)
    if specs is None and not options.optional_branches:  # reports mistakes before the first pass
        Inputs.of(options.limited(found.empty_specs), options.inputs, options.normalise)
    return found


def _empty_specs(column: Column) -> BranchSpecs:
    dim = 0 if column.kind.depth else column.size
    return BranchSpecs(column.kind, dim, inner=column.size if column.kind is Kind.NESTED else 1)


def _cut(text: str, available: Mapping[str, Column], where: str) -> Cut | None:
    """Return the cut after checking that it can be applied to the columns of a file."""
    if not text:
        return None
    with error_context("cut"):
        cut = Cut("cut", Expression.parse(text))
    if not cut.expression.names:
        raise ConfigError(f"cut: expression '{text}' uses no branch", hint="leave the cut out, or name a branch")
    check_branches("cut", cut.expression.names, available, where)
    cut.passes(empty_columns(available, cut.expression.names))
    return cut


def _absent(available: Mapping[str, Column], options: ReadOptions, specs: Specs | None) -> dict[str, Column]:
    """Return the features of other files that this one lacks."""
    if specs is not None:
        absent = [name for name in specs.missing if name in specs.branches and name not in available]
        return {name: specs.branches[name].as_column(name) for name in absent}
    return {name: column for name, column in (options.all_features or {}).items() if name not in available}
