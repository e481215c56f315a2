"""Open a file by its name, wherever it is stored.

with open_source("data.root:Events") as source:
    source.read(["MET_pt", "Muon_pt"], 0, 1000)
"""

from __future__ import annotations

from collections.abc import Sequence

from mlaas4hep.errors import TreeNotFound
from mlaas4hep.io.formats.detect import open_format
from mlaas4hep.io.source import Source
from mlaas4hep.io.storage.location import candidates, redacted, split_tree
from mlaas4hep.io.storage.replicas import DEFAULT_RETRY_POLICY, RetryPolicy, open_ranges, read_with_fallback


def open_source(
    name: str, tree: str = "Events", redirectors: Sequence[str] = (), retry_policy: RetryPolicy = DEFAULT_RETRY_POLICY
) -> Source:
    """Open a file at the first location that is available. If it fails later, reading continues at the next one.

    Args:
        name: path, URL or LFN; a tree in it (`data.root:Events`, see `split_tree`) takes precedence over `tree`.
        tree: name of the tree or RNTuple, with its folders (`boostedAk8/events`), and with its cycle if it is not the
            newest one (`Events;1`); ignored for other formats.
        redirectors: XRootD redirectors to try for an LFN that is not on disk.

    Raises:
        FileUnreadable: the file does not exist at any location, or its format is not supported.
        TreeNotFound: the ROOT file does not contain the tree; the message lists its trees. Or the name contains a tree,
            and the file is not a ROOT file.
    """
    file, tree_in_name = split_tree(name)
    ranges = open_ranges(candidates(file, redirectors), retry_policy)
    try:
        return read_with_fallback(ranges, lambda: open_format(ranges, tree_in_name or tree, bool(tree_in_name)))
    except BaseException as error:
        if isinstance(error, TreeNotFound) and tree_in_name:
            error.hint = f"correct the name '{redacted(name)}'"
        ranges.close()
        raise
