"""Selection of the branches that become features.

    select(columns, ["Jet_*", "/HLT_.*Tau.*/", "@branches.txt"], exclude=["Jet_puId"], identifier=("run", "event"))

Exclusion takes precedence over selection. The name of an existing branch is taken literally, even if it contains
special characters. `pattern_of` returns a pattern that matches one name only, in any file.
"""

from __future__ import annotations

import fnmatch
import glob
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from mlaas4hep.errors import BranchNotFound, ConfigError, FileUnreadable, nearest
from mlaas4hep.expressions.grammar import as_expression
from mlaas4hep.input_files import read_lines
from mlaas4hep.io import Column, Kind


def select(
    columns: Mapping[str, Column],
    selected: Iterable[str] | None,
    exclude: Iterable[str] | None,
    identifier: Collection[str],
    where: str,
    exclude_missing: bool = False,
    required: bool = True,
    optional: bool = False,
) -> list[str]:
    """Return the names of the features: flat and fixed ones, then jagged ones, then nested ones, each sorted.

    Args:
        selected: names, globs, `/regular expressions/` and `@files` with these; None or empty: all numeric columns.
        exclude: columns to leave out, in the same forms.
        identifier: columns that identify an event, which are not features.
        where: the tree and the file, for error messages.
        exclude_missing: whether a pattern in `exclude` may match nothing, because the column is in another file.
        required: whether there must be at least one feature.
        optional: whether a pattern in `selected` may match nothing, because the column is in another file.

    Raises:
        BranchNotFound: a pattern matches no column.
        ConfigError: a selected column cannot be a feature, no features are left, or a regular expression is invalid.
    """
    matched = match(columns, selected, where, optional) if selected else list(columns)
    literal = literal_names(columns, selected or ())
    for name in matched:
        if name in literal and columns[name].kind is Kind.OTHER:
            raise ConfigError(f"branch '{name}' of {where} cannot be a feature: {columns[name].reason}")
    numeric = [name for name in matched if columns[name].kind is not Kind.OTHER]
    if required and not numeric:
        raise ConfigError(
            f"no {'selected ' if selected else ''}branch of {where} is numeric",
            hint="select others; " * bool(selected) + "reader.py --info lists the reasons",
        )
    features = drop_excluded(numeric, columns, exclude, identifier, where, exclude_missing, required)
    return sorted(features, key=lambda name: (columns[name].kind.depth, name))


def drop_excluded(
    names: Iterable[str],
    columns: Mapping[str, object],
    exclude: Iterable[str] | None,
    identifier: Collection[str],
    where: str,
    exclude_missing: bool = False,
    required: bool = True,
) -> list[str]:
    """Return the names without excluded columns and without the identifier; see `select`."""
    excluded = set(match(columns, exclude, where, exclude_missing)) if exclude else set()
    names = [name for name in names if name not in excluded]
    non_features = set(identifier)
    features = [name for name in names if name not in non_features]
    if required and not features:
        hint = f"'{names[0]}' is part of the identifier or an extra column" if names else "exclude fewer branches"
        raise ConfigError(f"no branch of {where} is left as a feature", hint=hint)
    return features


def match(
    columns: Mapping[str, object], patterns: Iterable[str], where: str, missing_allowed: bool = False
) -> list[str]:
    """Return the columns that match any of the patterns, in the order of the file.

    Raise BranchNotFound if a pattern matches no column, unless `missing_allowed`.
    """
    found: set[str] = set()
    for pattern in _expand_files(columns, patterns):
        matches = _matches(columns, pattern)
        if not matches and not missing_allowed:
            hint = _members_hint(columns, pattern)
            raise BranchNotFound(f"branch '{pattern}' is not in {where}", nearest=nearest(pattern, columns), hint=hint)
        found.update(matches)
    return [name for name in columns if name in found]


def literal_names(columns: Mapping[str, object], patterns: Iterable[str]) -> set[str]:
    """Return the patterns that are names of columns."""
    return {pattern for pattern in _expand_files(columns, patterns) if pattern in columns}


def _members_hint(columns: Iterable[str], name: str) -> str:
    """Return a hint on how to select all members of a struct (`p` of `p.px` or `p/px`), or "" if there are none."""
    stem = name.rstrip("./")
    for separator in "./":
        if stem and any(column.startswith(stem + separator) for column in columns):
            return f"'{pattern_of(stem + separator)}*' selects all members"
    return ""


def flat_columns(
    columns: Mapping[str, Column], names: Sequence[str], where: str, optional: bool = False
) -> tuple[str, ...]:
    """Return the names after checking that each is a column with one number per event.

    Args:
        names: columns to return with the vectors: identifiers, labels.
        optional: whether to leave out columns that are missing or not flat, instead of raising an error.

    Raises:
        BranchNotFound: a column is missing.
        ConfigError: a column is not flat.
    """
    if optional:
        return tuple(name for name in names if name in columns and columns[name].kind is Kind.FLAT)
    for name in names:
        if name not in columns:
            raise BranchNotFound(f"branch '{name}' is not in {where}", nearest=nearest(name, columns))
        if columns[name].kind is Kind.OTHER:
            raise ConfigError(f"branch '{name}' of {where} is not one number per event: {columns[name].reason}")
        if columns[name].kind is not Kind.FLAT:
            flattened = " and --nested=flatten" if columns[name].kind is Kind.NESTED else ""
            raise ConfigError(
                f"branch '{name}' of {where} is not one number per event: it is {columns[name].kind.value}",
                hint=f"compute a number from it with --preproc{flattened}, as in {_sum_definition(name)}",
            )
    return tuple(names)


def _sum_definition(name: str) -> str:
    """Return the content of a preproc.json that computes a number from a list."""
    return json.dumps({"define": {"label": f"sum({as_expression(name)})"}}, ensure_ascii=False)


def check_not_removed(
    columns: Mapping[str, object], original: Iterable[str], patterns: Iterable[str], where: str
) -> None:
    """Raise BranchNotFound if a pattern matches only `original` columns that the preprocessing removes."""
    removed = dict.fromkeys(name for name in original if name not in columns)
    for pattern in _expand_files({**columns, **removed}, patterns) if removed else ():
        if _matches(removed, pattern) and not _matches(columns, pattern):
            raise BranchNotFound(
                f"branch '{pattern}' of {where} cannot be selected: the preprocessing removes it",
                hint="do not remove the branch, or do not select it",
            )


def pattern_of(name: str) -> str:
    """Return a pattern that matches the branch with this name and no other branch, in any file."""
    if name.startswith("@"):
        return "[@]" + glob.escape(name[1:])  # "@@x" could be the name of another branch
    if len(name) > 2 and name.startswith("/") and name.endswith("/"):
        return "[/]" + glob.escape(name[1:])
    return glob.escape(name)


def _expand_files(
    columns: Mapping[str, object], patterns: Iterable[str], parents: tuple[str, ...] = ()
) -> Iterable[str]:
    """Yield the patterns, with every @file replaced by the patterns in it; "@@x" means the branch "@x".

    `parents` are the files that contain these patterns, outermost first.
    """
    for pattern in patterns:
        if not pattern.startswith("@") or pattern in columns:
            yield pattern
        elif pattern.startswith("@@"):
            yield pattern[1:]
        elif pattern in parents:
            raise ConfigError(f"a list of branches contains itself: {' -> '.join((*parents, pattern))}")
        else:
            yield from _expand_files(columns, _read_patterns(pattern), (*parents, pattern))


def _read_patterns(pattern: str) -> list[str]:
    try:
        return read_lines(pattern[1:])
    except FileUnreadable as error:
        raise FileUnreadable(
            error.what, nearest=error.nearest, hint=error.hint or f"a branch called '{pattern}' is written '@{pattern}'"
        ) from error


def _matches(columns: Mapping[str, object], pattern: str) -> list[str]:
    if pattern in columns:
        return [pattern]
    if len(pattern) > 2 and pattern.startswith("/") and pattern.endswith("/"):
        try:
            expression = re.compile(pattern[1:-1])
        except re.error as error:
            raise ConfigError(f"'{pattern}' is not a regular expression: {error}") from error
        return [name for name in columns if expression.fullmatch(name)]
    return fnmatch.filter(columns, pattern)
