"""Select one branch per name, because a ROOT tree may have several branches with the same name.

    pairs = uproot_tree.iteritems(recursive=True, full_paths=True)
    branches = dict(first_of_each_name(pairs, where="tree 'Events' of data.root"))      # {"pt": TBranch, ...}

ROOT (`TTree::GetBranch`) and uproot (`tree["pt"]`) both return the first branch with a name. Any further one is ignored
with its sub-branches, with a notice once per file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from mlaas4hep import console
from mlaas4hep.comma_lists import first_few


def first_of_each_name(branches: Iterable[tuple[str, Any]], where: str) -> Iterator[tuple[str, Any]]:
    """Yield the first branch of each name, without the sub-branches of ignored branches.

    Args:
        branches: full paths and branches, each followed by its sub-branches.
        where: description of the tree and its file, for the notice.
    """
    seen: set[str] = set()
    repeated: dict[str, None] = {}
    ignored = ""
    for name, branch in branches:
        if ignored and name.startswith(ignored):
            continue
        ignored = ""
        if name in seen:
            repeated[name] = None
            ignored = f"{name}/"
            continue
        seen.add(name)
        yield name, branch
    if repeated:
        _warn_of_repeated(where, tuple(repeated))


@cache
def _warn_of_repeated(where: str, names: tuple[str, ...]) -> None:
    """Print a notice once per file, even if it is opened several times."""
    listed = first_few([f"'{name}'" for name in names])
    console.notice(f"{where} has more than one branch called {listed}: the first of each is read, as ROOT does")
