"""Check that all files of a sample have the same branches, and suggest which ones to exclude if they do not.

    check_same_branches([FileSummary("a.root", ...), FileSummary("b.root", ...)], exclude=[], verbose=False)

All files are compared before any events are read, because the pass that computes the specs takes long.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from mlaas4hep import console
from mlaas4hep.comma_lists import first_few, join_list, list_setting
from mlaas4hep.errors import BranchNotFound, ConfigError, SpecsMismatch, nearest
from mlaas4hep.io import Column
from mlaas4hep.reader import DataReader
from mlaas4hep.reader.covering import covering_patterns
from mlaas4hep.reader.selection import match, pattern_of
from mlaas4hep.shell import quoted

MAX_PATTERNS = 20
"""Number of patterns up to which an error message suggests a setting, unless verbose is set."""

_ACCEPT_HINT = 'set "missing_branches" to "common" or "nan", or '


@dataclass(frozen=True)
class FileSummary:
    """The columns of an open file.

    Attributes:
        file: name of the file, as shown in messages.
        available: names of all columns.
        features: columns that become features, by name.
        identifier: columns that identify an event.
        extra: label branches.
    """

    file: str
    available: Set[str]
    features: Mapping[str, Column]
    identifier: tuple[str, ...]
    extra: tuple[str, ...]

    @classmethod
    def of(cls, reader: DataReader) -> FileSummary:
        """Summarise the file of a reader without reading events."""
        features = {name: reader.available[name] for name in reader.features if name in reader.available}
        return cls(reader.name, frozenset(reader.available), features, reader.identifier, reader.extra)

    def sharing(self, other: FileSummary) -> FileSummary:
        """Return this summary with the objects of `other` in place of equal ones, which saves memory for many files."""
        available = other.available if self.available == other.available else self.available
        features = other.features if self.features == other.features else self.features
        return replace(self, available=available, features=features)


def check_excluded_branches(
    files: Sequence[FileSummary], patterns: Iterable[str], specs_branches: Iterable[str] = ()
) -> None:
    """Raise BranchNotFound if a pattern of excluded branches matches no branch of the files and of the specs."""
    names = dict.fromkeys(sorted(set(specs_branches).union(*(file.available for file in files))))
    for pattern in patterns:
        if not match(names, [pattern], "", missing_allowed=True):
            raise BranchNotFound(
                f"excluded branch '{pattern}' does not exist in any of the {len(files)} files",
                nearest=nearest(pattern, names),
            )


def check_same_branches(files: Sequence[FileSummary], exclude: Sequence[str] = (), verbose: bool = False) -> None:
    """Check that all files have the same features, identifiers and label branches.

    Args:
        exclude: patterns of branches that are excluded already.
        verbose: whether to print every branch in which the files differ.

    Raises:
        SpecsMismatch: the files differ; the message says how to exclude the branches in which they differ.
    """
    first = files[0]
    for file in files:
        if file.identifier != first.identifier:
            raise SpecsMismatch(
                f"events are identified by {_listed(file.identifier)} in {file.file}, but by"
                f" {_listed(first.identifier)} in {first.file}",
                hint="choose branches that all files have: "
                + list_setting("identifier", "identifier", _common([file.identifier for file in files])),
            )
        if file.extra != first.extra:
            common = _common([file.extra for file in files])
            raise SpecsMismatch(
                f"label branches differ: {', '.join(file.extra)} in {file.file}, but {', '.join(first.extra)} in"
                f" {first.file}",
                hint="choose branches that all files have"
                + (f": --labels={quoted(join_list(common))}" if common else ""),
            )
    differences = _differences(files)
    if differences:
        raise _mismatch(files, differences, exclude, verbose)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "their entry numbers"


def _common(lists: Sequence[Iterable[str]]) -> list[str]:
    """Return the names that occur in all lists, in the order of the first list."""
    rest = [set(names) for names in lists[1:]]
    return [name for name in lists[0] if all(name in names for names in rest)]


def check_selected_branches(files: Sequence[FileSummary], patterns: Iterable[str]) -> None:
    """Raise BranchNotFound if a pattern of selected branches matches no branch of any file."""
    names = dict.fromkeys(sorted(set().union(*(file.available for file in files))))
    match(names, patterns, f"any of the {len(files)} files")


def check_different_files(files: Sequence[object], identities: Sequence[str]) -> None:
    """Raise ConfigError if two names refer to the same file, given descriptions and identities of the files."""
    first: dict[str, object] = {}
    for file, identity in zip(files, identities, strict=True):
        if identity in first:
            raise ConfigError(
                f"{first[identity]} and {file} are the same file, so its events would count twice",
                hint="name the file once",
            )
        first[identity] = file


def reconcile_branches(
    files: Sequence[FileSummary], missing_branches: str, exclude: Sequence[str] = (), verbose: bool = False
) -> tuple[dict[str, Column], tuple[str, ...]]:
    """Return the features of files that need not have the same branches.

    Args:
        missing_branches: "common": the features are the branches that all files have; "nan": all branches.
        exclude, verbose: see `check_same_branches`.

    Returns:
        The features by name, in the order of vectors; and the names of the branches that some of the files lack.

    Raises:
        SpecsMismatch: the files have no branch in common, a branch has different kinds, or the identifiers or label
            branches differ.
    """
    union = {name: column for file in reversed(files) for name, column in file.features.items()}
    lacking = {name: [file.file for file in files if name not in file.features] for name in sorted(union)}
    missing = {name: lacks for name, lacks in lacking.items() if lacks}
    present = [replace(file, features={**{name: union[name] for name in missing}, **file.features}) for file in files]
    check_same_branches(present if missing else files, exclude, verbose)
    common = union.keys() - missing.keys()
    if missing_branches == "common" and not common:
        raise SpecsMismatch(
            f"the {len(files)} files have no branch in common", hint='set "missing_branches" to "nan" in the params'
        )
    if missing:
        listed = [f"'{name}' (not in {first_few(lacks, 1)})" for name, lacks in missing.items()]
        shown = ", ".join(listed) if verbose else first_few(listed)
        what = "left out" if missing_branches == "common" else "NaN in these files"
        console.notice(f"branches that some of the files lack are {what}: {shown}")
    names = common if missing_branches == "common" else union
    ordered = sorted(names, key=lambda name: (union[name].kind.depth, name))
    return {name: union[name] for name in ordered}, tuple(missing)


def _differences(files: Sequence[FileSummary]) -> dict[str, str]:
    """Return a description of the difference for each branch that differs between files, sorted by branch."""
    if all(file.features is files[0].features for file in files):  # see `FileSummary.sharing`
        return {}
    differences = {}
    for name in sorted({name for file in files for name in file.features}):
        missing = [file.file for file in files if name not in file.features]
        forms: dict[str, str] = {}  # the first file of each form
        for file in files:
            if name in file.features:
                forms.setdefault(_form(file.features[name]), file.file)
        if missing:
            differences[name] = f"'{name}' is not in {first_few(missing, 1)}"
        elif len(forms) > 1:
            differences[name] = f"'{name}' is " + ", ".join(f"{form} in {file}" for form, file in forms.items())
    return differences


def _form(column: Column) -> str:
    return f"{column.kind.value} ({column.size} numbers)" if column.size > 1 else column.kind.value


def _mismatch(
    files: Sequence[FileSummary], differences: Mapping[str, str], exclude: Sequence[str], verbose: bool
) -> SpecsMismatch:
    if verbose:
        for difference in differences.values():
            console.notice(difference)
    subject = f"{files[1].file} and {files[0].file}" if len(files) == 2 else f"the {len(files)} files"
    listed = first_few(list(differences.values()), separator="; ")
    message = f"{subject} do not have the same branches: {listed}"
    common = [name for name in files[0].features if name not in differences and all(name in f.features for f in files)]
    if not common:
        return SpecsMismatch(message, hint="give files that have branches in common")
    patterns = covering_patterns(list(differences), common)
    also_excluded = match(dict.fromkeys(common), patterns, "", missing_allowed=True)
    if len(also_excluded) == len(common):
        patterns, also_excluded = list(map(pattern_of, differences)), []
    if len(patterns) > MAX_PATTERNS and not verbose:
        return SpecsMismatch(message, hint=f"--verbose lists all {len(differences)}, and how to exclude them")
    setting = list_setting("exclude-branches", "exclude_branches", [*exclude, *patterns])
    more = f" (this also excludes {len(also_excluded)} common branches)" if also_excluded else ""
    accept = "" if any(all(name in file.features for file in files) for name in differences) else _ACCEPT_HINT
    return SpecsMismatch(message, hint=f"{accept}exclude them{more}: {setting}")
