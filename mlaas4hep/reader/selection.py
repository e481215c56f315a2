"""Which branches become features.

    select(columns, ["Jet_*", "/HLT_.*Tau.*/", "@branches.txt"], exclude=["Jet_puId"], identifier=("run", "event"))

Selecting and excluding are independent: what is excluded is gone, selected or not.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence

from mlaas4hep.errors import BranchNotFound, ConfigError, nearest
from mlaas4hep.input_files import read_lines
from mlaas4hep.io import Column, Kind

IDENTIFIER = ("run", "luminosityBlock", "event")
"""What names an event in CMS's formats, and what is looked for where nothing else is asked."""


def select(
    columns: Mapping[str, Column],
    selected: Iterable[str] | None,
    exclude: Iterable[str] | None,
    identifier: Sequence[str],
    where: str,
) -> list[str]:
    """Return the names of the features, sorted, flat and fixed ones before jagged ones.

    Args:
        columns: what there is.
        selected: names, globs, `/regular expressions/` and `@files` of these; None or empty: every numeric column.
        exclude: the same, for what is left out.
        identifier: columns that name the event; never features.
        where: the tree and file, for messages.

    Raises:
        BranchNotFound: a name, or every name that a pattern could mean, is missing.
        ConfigError: a selected branch cannot be a feature, nothing is left, or a regular expression is broken.
    """
    wanted = match(columns, selected, where) if selected else list(columns)
    named = set(_unfold(selected or ()))
    for name in wanted:
        if name in named and columns[name].kind is Kind.OTHER:
            raise ConfigError(f"branch '{name}' of {where} cannot be a feature: {columns[name].reason}")
    numbers = [name for name in wanted if columns[name].kind is not Kind.OTHER]
    features = remaining(numbers, columns, exclude, identifier, where)
    return sorted(features, key=lambda name: (columns[name].kind is Kind.JAGGED, name))


def remaining(
    names: Iterable[str],
    columns: Mapping[str, object],
    exclude: Iterable[str] | None,
    identifier: Sequence[str],
    where: str,
) -> list[str]:
    """Return the names that are neither excluded nor part of the identifier, at least one; see `select`."""
    gone = {*(match(columns, exclude, where) if exclude else ()), *identifier}
    left = [name for name in names if name not in gone]
    if not left:
        raise ConfigError(f"no branch of {where} is left to make features of", hint="widen --branches")
    return left


def match(columns: Mapping[str, object], patterns: Iterable[str], where: str) -> list[str]:
    """Return the columns that any of the patterns means, each once, in the order of the file."""
    found: set[str] = set()
    for pattern in _unfold(patterns):
        matches = _matches(columns, pattern)
        if not matches:
            raise BranchNotFound(f"branch '{pattern}' is not in {where}", nearest=nearest(pattern, columns))
        found.update(matches)
    return [name for name in columns if name in found]


def flat_columns(
    columns: Mapping[str, Column], names: Sequence[str], where: str, optional: bool = False
) -> tuple[str, ...]:
    """Return the names that there are, each of one number an event.

    Args:
        names: columns that come along with the vectors: identifiers, labels.
        optional: whether some may be missing.

    Raises:
        BranchNotFound: a column is missing.
        ConfigError: a column holds more than one number an event, or none.
    """
    present = tuple(name for name in names if name in columns)
    for name in names:
        if name not in columns and not optional:
            raise BranchNotFound(f"branch '{name}' is not in {where}", nearest=nearest(name, columns))
    for name in present:
        if columns[name].kind is not Kind.FLAT:
            raise ConfigError(
                f"branch '{name}' of {where} is not one number an event: it is {columns[name].kind.value}",
                hint='make a number of it with --preproc, as in {"define": {"label": "sum(' + name + ')"}}',
            )
    return present


def check_kept(columns: Mapping[str, object], original: Iterable[str], patterns: Iterable[str], where: str) -> None:
    """Check that nothing is asked for that a file has and its preprocessing removes.

    Args:
        columns: what there is after preprocessing.
        original: what there is in the file.

    Raises:
        BranchNotFound: a pattern means only branches that were removed.
    """
    removed = dict.fromkeys(name for name in original if name not in columns)
    for pattern in _unfold(patterns) if removed else ():
        if _matches(removed, pattern) and not _matches(columns, pattern):
            raise BranchNotFound(
                f"branch '{pattern}' of {where} cannot be selected: the preprocessing removes it",
                hint="let it keep the branch, or leave it out here",
            )


def _unfold(patterns: Iterable[str], within: tuple[str, ...] = ()) -> Iterable[str]:
    """Yield patterns, in place of each @file those that it holds; `within` are the files on the way there."""
    for pattern in patterns:
        if not pattern.startswith("@"):
            yield pattern
            continue
        if pattern in within:
            raise ConfigError(f"a list of branches contains itself: {' -> '.join((*within, pattern))}")
        yield from _unfold(read_lines(pattern[1:]), (*within, pattern))


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
