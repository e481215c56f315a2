"""Read ROOT's RNTuple with uproot.

    UprootReader(find_tree(uproot_file, "Events", ""), "Events").load(0, ["Muon_pt"])

Fields of records have their full path as name (`Muon.pt`). Fields that ROOT's importer creates for collections
(`_collection0`) are ignored, because each of their members is a field of its own. Nested arrays are flattened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from threading import Lock
from typing import Any

from uproot.const import rntuple_col_type_to_num_dict

from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.io.columns import Column, Columns
from mlaas4hep.io.formats.awkward_bridge import leaves_of, read_leaves
from mlaas4hep.io.rntuple.leaves import IMPORTED
from mlaas4hep.io.rntuple.page_jobs import MAX_RATIO
from mlaas4hep.io.root.tree_keys import identity_of

_CHAR = rntuple_col_type_to_num_dict["char"]


class UprootReader:
    """Reader of an RNTuple; see `ChunkReader`."""

    def __init__(self, key: Any, name: str) -> None:
        """Take ownership of the file of an uproot key; `name` is the path of the RNTuple."""
        self._file = key.file
        self._ntuple = key.get()
        self._lock = Lock()
        form = self._ntuple.to_akform()
        form = _with_signed_chars(form[0] if isinstance(form, tuple) else form, self._ntuple.column_records)
        try:
            leaves = leaves_of(form)
        except ConfigError as error:
            raise FileUnreadable(f"cannot read '{name}' of {key.file.file_path}: {error}") from error
        self._leaves = {name: leaf for name, leaf in leaves.items() if not IMPORTED.fullmatch(leaf.path[0])}
        self.columns: Mapping[str, Column] = {name: leaf.column for name, leaf in self._leaves.items()}
        self.identity = identity_of(key, name)
        ends = [cluster.num_first_entry + cluster.num_entries for cluster in self._ntuple.cluster_summaries]
        self.edges: Sequence[int] = [0, *sorted({int(end) for end in ends if end})]

    def load(self, chunk: int, names: Sequence[str]) -> Columns:
        """See `ChunkReader`."""
        start, stop = self.edges[chunk : chunk + 2]
        with self._lock:
            self._check_pages(names, start)
            return read_leaves(self._leaves, names, lambda fields: self._read(fields, start, stop))

    def sizes(self, names: Sequence[str]) -> list[int]:
        """See `ChunkReader`."""
        columns = self._columns_of({self._leaves[name].path[0] for name in names})
        clusters = [_pages(self._stored_columns[start], columns) for start in self.edges[:-1]]
        return [
            sum(bits * sum(page.num_elements for page in pages) // 8 for bits, pages in cluster) for cluster in clusters
        ]

    def _check_pages(self, names: Sequence[str], start: int) -> None:
        """Raise ValueError if a page of a cluster has more elements than its bytes can hold once decompressed."""
        columns = self._columns_of({self._leaves[name].path[0] for name in names})
        for bits, pages in _pages(self._stored_columns.get(start, ()), columns):
            for page in pages:
                stored = page.locator.num_bytes
                if page.num_elements * bits // 8 > MAX_RATIO * stored:
                    raise ValueError(f"a page of {stored} bytes cannot have {page.num_elements} elements")

    @cached_property
    def _stored_columns(self) -> Mapping[int, Sequence[Any]]:
        """The page lists of all columns, by the first entry of the cluster."""
        clusters = zip(self._ntuple.cluster_summaries, self._ntuple.page_link_list, strict=True)
        return {int(cluster.num_first_entry): columns for cluster, columns in clusters if cluster.num_entries}

    def _columns_of(self, names: Iterable[str]) -> dict[int, int]:
        """Return the columns of some top-level fields, and the bits per element of each column."""
        records = self._ntuple.field_records
        children: dict[int, list[int]] = {number: [] for number in range(len(records))}
        pending = []
        for number, record in enumerate(records):
            if record.parent_field_id != number:
                children[record.parent_field_id].append(number)
            elif record.field_name in names:
                pending.append(number)
        stored: set[int] = set()
        while pending:
            number = pending.pop()
            source = records[number].source_field_id  # projections have no columns of their own
            stored.add(number if source is None else source)
            pending += children[number]
        columns = enumerate(self._ntuple.column_records)
        return {index: max(int(column.nbits), 8) for index, column in columns if column.field_id in stored}

    def _read(self, fields: list[str], start: int, stop: int) -> Any:
        import awkward as ak

        array = self._ntuple.arrays(filter_name=fields, entry_start=start, entry_stop=stop)
        if error := ak.validity_error(array):  # uproot does not check the offsets of lists
            raise ValueError(error)
        return array

    def close(self) -> None:
        """See `ChunkReader`."""
        self._file.close()


def _pages(stored: Sequence[Any], columns: Mapping[int, int]) -> Iterator[tuple[int, Sequence[Any]]]:
    """Yield the bits per element and the pages of some of the columns that a cluster stores."""
    return ((bits, stored[column].pages) for column, bits in columns.items() if column < len(stored))


def _with_signed_chars(form: Any, columns: Sequence[Any]) -> Any:
    """Return uproot's form of an RNTuple with int8 for `char`. ROOT reads these as signed, uproot 5.7 as unsigned.

    Numbers in the form have the keys `column-0`, `column-1`, ..., by their index in `columns`.
    """
    import awkward as ak

    chars = {f"column-{index}" for index, column in enumerate(columns) if column.type == _CHAR}
    return ak.forms.from_dict(_signed(form.to_dict(), chars)) if chars else form


def _signed(form: Any, chars: set[str]) -> Any:
    if isinstance(form, list):
        return [_signed(part, chars) for part in form]
    if not isinstance(form, dict):
        return form
    signed = {key: _signed(part, chars) for key, part in form.items()}
    is_number = form.get("class") == "NumpyArray" and not form["parameters"]
    return {**signed, "primitive": "int8"} if is_number and form["form_key"] in chars else signed
