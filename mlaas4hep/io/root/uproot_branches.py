"""Find the branches of an uproot tree, and check whether they can be read.

    branches = find_branches(uproot_file["Events"], "tree Events")     # {"Muon/Muon.pt": <TBranchElement ...>}
    why_unreadable(branches["y"], entries=200)          # "it has 100 of the tree's 200 entries, ..."; "" if readable

A problem with one branch makes only this branch unreadable; the functions do not raise an exception for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from uproot.behaviors.TBranch import TBranch
from uproot.interpretation.grouped import AsGrouped
from uproot.interpretation.jagged import AsJagged
from uproot.interpretation.numerical import AsDtype

from mlaas4hep.errors import Unreachable, error_summary
from mlaas4hep.io.records.branches import numbers_in
from mlaas4hep.io.root.branch_names import first_of_each_name


def find_branches(tree: Any, where: str) -> dict[str, Any]:
    """Return the branches that have values of their own by full path, in the order of the file.

    Of several branches with the same name, only the first is returned, as in ROOT and uproot. A notice about them names
    the tree and its file, `where`.
    """
    branches = first_of_each_name(_walk(tree, ""), where)
    return {name: branch for name, branch in branches if not _is_group(branch, tree.num_entries)}


def _walk(parent: Any, path: str) -> Iterator[tuple[str, Any]]:
    for branch in parent.member("fBranches"):
        name = f"{path}{branch.member('fName')}"
        yield name, branch
        if isinstance(branch, TBranch):
            yield from _walk(branch, f"{name}/")


def _is_group(branch: Any, entries: int) -> bool:
    """Return whether a branch has sub-branches, but no values of its own."""
    if not isinstance(branch, TBranch) or not branch.branches:
        return False
    try:
        return (branch.num_entries == 0 < entries) or isinstance(branch.interpretation, AsGrouped)
    except Unreachable:
        raise
    except Exception:  # the type of a sub-branch is unknown
        return True


def why_unreadable(branch: Any, entries: int) -> str:
    """Return why a branch cannot be read in a tree with `entries`, independently of its type; "" if it can."""
    if not isinstance(branch, TBranch):
        return f"uproot does not know its class, {branch.classname}"
    try:
        number = branch.member("fEntryNumber", none_if_missing=True)
        filled = branch.num_entries if number is None else int(number)
        if filled < entries:
            return too_short(filled, entries)
        list(branch.entry_offsets)  # uproot computes and checks them at first access
    except Unreachable:
        raise
    except Exception as error:  # uproot raises many kinds of exceptions for damaged metadata
        return f"its baskets cannot be found: {error_summary(error)}"
    return ""


def too_short(filled: int, entries: int) -> str:
    """Return why a branch with fewer entries than its tree is not readable.

    ROOT and uproot assign its first entry to the first entry of the tree, although a branch that was added later was
    filled for the last entries. ROOT repeats its last value for the remaining entries.
    """
    return f"it has {filled:,} of the tree's {entries:,} entries, and the file does not say which events these are"


def interpretation_of(branch: Any) -> Any:
    """Return the uproot interpretation of a branch, corrected for the length of its leaf.

    uproot takes the dimensions from the title of the leaf, which may lack them. ROOT uses the length of the leaf.
    """
    if numbers := numbers_in(branch):
        return numbers
    interpretation = branch.interpretation
    leaves = branch.member("fLeaves")
    is_list = type(interpretation) is AsJagged
    content = interpretation.content if is_list else interpretation
    if len(leaves) != 1 or type(content) is not AsDtype or content.from_dtype.base.fields:
        return interpretation
    length = int(leaves[0].member("fLen"))
    if length <= 1 or length == math.prod(content.from_dtype.shape):
        return interpretation
    stored, native = (np.dtype((dtype.base, (length,))) for dtype in (content.from_dtype, content.to_dtype))
    content = AsDtype(stored, native)
    return AsJagged(content, interpretation.header_bytes) if is_list else content


def typename_of(branch: Any) -> str:
    """Return uproot's name of the type of a branch, or its leaves if there is none."""
    try:
        return str(branch.typename)
    except KeyError:  # leaf lists with arrays
        return ":".join(leaf.member("fTitle") for leaf in branch.member("fLeaves"))
