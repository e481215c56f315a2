"""ROOT's RNTuple as a store, through uproot.

    RNTupleStore(uproot_file, "Events").load(0, ["Muon_pt"])

Fields of records go by their full path (`Muon.pt`); those that ROOT's importer makes to hold a collection together
(`_collection0`) are passed over, since each of their members is a field of its own. Arrays of arrays count as one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlaas4hep.io.awkward_bridge import leaves_of, read_leaves
from mlaas4hep.io.columns import Column, Columns

_COLLECTION = re.compile(r"_collection\d+")


class RNTupleStore:
    """One RNTuple of one ROOT file; see `Store` for what it offers."""

    def __init__(self, file: Any, name: str) -> None:
        """Take over a file that uproot has open."""
        self._file = file
        self._ntuple = file[name]
        form = self._ntuple.to_akform()
        form = form[0] if isinstance(form, tuple) else form
        leaves = leaves_of(form)
        self._leaves = {name: leaf for name, leaf in leaves.items() if not _COLLECTION.fullmatch(leaf.path[0])}
        self.columns: Mapping[str, Column] = {name: leaf.column for name, leaf in self._leaves.items()}
        self.identity = f"{file.file.uuid}:{name}"
        ends = [cluster.num_first_entry + cluster.num_entries for cluster in self._ntuple.cluster_summaries]
        self.edges: Sequence[int] = [0, *sorted({int(end) for end in ends if end})]

    def load(self, chunk: int, names: Sequence[str]) -> Columns:
        """See `Store`."""
        start, stop = self.edges[chunk : chunk + 2]
        return read_leaves(
            self._leaves,
            names,
            lambda fields: self._ntuple.arrays(filter_name=fields, entry_start=start, entry_stop=stop),
        )

    def close(self) -> None:
        """See `Store`."""
        self._file.close()
