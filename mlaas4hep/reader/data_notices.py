"""Notices about data that the vectors lack or do not represent exactly.

for line in dropped_data_notices(reader.truncated, reader.skipped, reader.specs):
    console.notice(line)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from mlaas4hep.comma_lists import first_few
from mlaas4hep.io import Kind
from mlaas4hep.specs.specs import BranchSpecs, Specs

LARGEST_EXACT = 2**24
"""float32 represents all integers up to this one exactly."""

EntryRange = TypeVar("EntryRange", tuple[int, int], tuple[int, int, int])
"""(start, stop) of the entries of a file, or (file, start, stop)."""


def dropped_data_notices(truncated: Mapping[str, int], skipped: Mapping[EntryRange, str], specs: Specs) -> list[str]:
    """Return a notice about each kind of data that was dropped or is not represented exactly.

    Args:
        truncated: numbers of dropped values by jagged branch, or of dropped objects by input.
        skipped: the reason for each range of skipped entries.
    """
    lines = [
        f"{count} values of '{name}' were dropped: vectors keep {_kept(specs.branches[name])}"
        if name in specs.branches
        else f"{count} objects (or parts of objects) of input '{name}' were dropped, since they are beyond its length"
        for name, count in truncated.items()
    ]
    lines += skipped_notices(skipped)
    inexact = list(inexact_branches(specs))
    if inexact:
        lines.append(
            f"{first_few(inexact)}: integers beyond 2^24, which float32 does not represent exactly;"
            " use --exclude-branches to exclude them if that matters"
        )
    return lines


def _kept(branch: BranchSpecs) -> str:
    if branch.kind is Kind.NESTED:
        return f"{branch.dim} lists of {branch.inner} numbers"
    return f"{branch.dim} numbers of each list"


def skipped_notices(skipped: Mapping[EntryRange, str]) -> list[str]:
    """Return a notice about each range of skipped entries, given the reasons."""
    return [
        f"skipped {span[-1] - span[-2]} events, entries {span[-2]} to {span[-1] - 1}: {skipped[span]}"
        for span in sorted(skipped)
    ]


def non_finite_notices(specs: Specs) -> list[str]:
    """Return a notice about the branches with most NaN and infinite values; no notice if all values are finite."""
    affected = {name: branch for name, branch in specs.branches.items() if branch.nan or branch.inf}
    if not affected:
        return []
    worst = sorted(affected, key=lambda name: (-affected[name].nan - affected[name].inf, name))
    counts = [
        f"'{name}' ("
        + ", ".join(f"{n} {what}" for n, what in ((affected[name].nan, "NaN"), (affected[name].inf, "inf")) if n)
        + ")"
        for name in worst
    ]
    nan, inf = (sum(getattr(branch, what) for branch in affected.values()) for what in ("nan", "inf"))
    values = "values are" if (nan or inf) > 1 else "value is"
    if nan and inf:
        what = f"{nan} {values} NaN and masked, {inf} {'are' if inf > 1 else 'is'} infinite"
    else:
        what = f"{nan} {values} NaN and masked" if nan else f"{inf} {values} infinite"
    return [f"{what}: {first_few(counts)}"]


def inexact_branches(specs: Specs) -> Iterable[str]:
    """Yield the branches with integers that float32 does not represent exactly."""
    for name, branch in specs.branches.items():
        low, high = branch.minimum, branch.maximum
        if isinstance(low, int) and isinstance(high, int) and max(abs(low), abs(high)) > LARGEST_EXACT:
            yield name
