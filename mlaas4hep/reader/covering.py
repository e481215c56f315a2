"""Find a few glob patterns that match many branches, for suggestions in error messages.

covering_patterns(["HLT_Mu8", "HLT_Mu17", "HLT_Ele27"], others=["Jet_pt", "HLT_PFMET"])    # ["HLT_*"]
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence

from mlaas4hep.reader.selection import pattern_of

MIN_GROUP = 3
"""Minimum number of branches with a common prefix for which a glob is used, if not all branches share a prefix."""

MANY = 6
"""Minimum number of branches for which a glob may also match some other branches."""

_SEGMENT = re.compile(r"[^_./]*[_./]")


def covering_patterns(names: Sequence[str], others: Collection[str]) -> list[str]:
    """Return patterns that together match all names, and none of the others.

    A glob for at least MANY names may match some of the others, but fewer than there are names.
    """
    common = _glob_of(names, others)
    if common:
        return [common]
    groups: dict[str, list[str]] = {}
    for name in names:
        segment = _SEGMENT.match(name)
        groups.setdefault(segment[0] if segment else name, []).append(name)
    patterns: list[str] = []
    for group in groups.values():
        pattern = _glob_of(group, others) if len(group) >= MIN_GROUP else ""
        patterns += [pattern] if pattern else map(pattern_of, group)
    return patterns


def _glob_of(names: Sequence[str], others: Collection[str]) -> str:
    """Return a glob that matches all names and few of the others, see `covering_patterns`; "" if there is none."""
    if len(names) < 2:
        return ""
    common = os.path.commonprefix(names)  # noqa: RUF071  compares characters, as intended
    segments = common[: max(map(common.rfind, "_./")) + 1]
    prefixes = [prefix for prefix in (segments, common) if len(prefix) > 1]
    if not prefixes:
        return ""
    best = min(prefixes, key=lambda prefix: _count(prefix, others))
    allowed = len(names) - 1 if len(names) >= MANY else 0
    return f"{pattern_of(best)}*" if _count(best, others) <= allowed else ""


def _count(prefix: str, names: Iterable[str]) -> int:
    return sum(name.startswith(prefix) for name in names)
