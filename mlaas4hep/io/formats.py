"""What format a file is of, and the source that reads it.

    open_format(LocalRanges("data.parquet"), tree="Events")

Its first bytes decide, whatever its name and wherever it lies.
"""

from __future__ import annotations

import io
import os
from typing import Any

from mlaas4hep.errors import (
    ConfigError,
    FileUnreadable,
    MLaaS4HEPError,
    PackageMissing,
    TreeNotFound,
    first_line,
    nearest,
)
from mlaas4hep.io.byte_ranges import ByteRanges, RangeFile
from mlaas4hep.io.location import COMPRESSED, ENDINGS, MAGIC
from mlaas4hep.io.source import Source

TREES = ("TTree", "TNtuple", "TNtupleD")

KNOWN = "ROOT, Parquet, Arrow (Feather), Avro, CSV, JSON lines"

BUFFER = 1_000_000
"""Bytes that are read ahead where libraries read piece by piece."""


def open_format(ranges: ByteRanges, tree: str) -> Source:
    """Return the source for a file; it takes the file over.

    Raises:
        FileUnreadable: it cannot be read, or is of no format that is known.
        TreeNotFound: the ROOT file has no such tree; the message names those there are.
        PackageMissing: what reads this format is not installed.
    """
    kind = _kind_of(ranges)
    return _open_root(ranges, tree) if kind == "ROOT" else _open_other(ranges, kind)


def _kind_of(ranges: ByteRanges) -> str:
    from mlaas4hep.io.rows import COMPRESSIONS, decompressed

    file = io.BufferedReader(RangeFile(ranges), 4096)
    head = file.read(4096)
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind
    text = head
    if head.startswith(tuple(COMPRESSIONS)):
        file.seek(0)
        try:
            text = bytes(decompressed(file).read(4096))
        except OSError as error:
            raise FileUnreadable(f"cannot read {ranges.location}: {first_line(error)}") from error
    if text.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{"):
        return "JSON"
    if (text and _is_called_csv(ranges.location)) or _looks_like_csv(text):
        return "CSV"
    raise FileUnreadable(
        f"{ranges.location} is not a ROOT file, nor of another format that is known", hint=f"known are {KNOWN}"
    )


def _is_called_csv(name: str) -> bool:
    name = name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return ENDINGS.get(os.path.splitext(name)[1]) == "CSV"


def _looks_like_csv(text: bytes) -> bool:
    """Tell whether a text has names in its first line, and as many values in the second, some of them numbers."""
    from mlaas4hep.io.rows import is_number, read_header

    header, *rows = text.split(b"\n")
    try:
        names, delimiter = read_header(header)
        values = rows[0].decode().split(delimiter) if rows else []
    except (UnicodeDecodeError, ConfigError):
        return False
    return 1 < len(names) == len(values) and any(map(is_number, values))


def _open_root(ranges: ByteRanges, tree: str) -> Source:
    from mlaas4hep.io.chunked import ChunkedSource
    from mlaas4hep.io.rntuple import RNTupleStore
    from mlaas4hep.io.ttree import TTreeSource
    from mlaas4hep.io.uproot_source import open_root_file

    try:
        file = open_root_file(ranges)
        kind = _kind_of_tree(file, tree, ranges.location)
        if kind in TREES:
            return TTreeSource(ranges, file, tree)
        return ChunkedSource(RNTupleStore(file, tree), ranges)
    except MLaaS4HEPError:
        raise
    except Exception as error:
        raise FileUnreadable(f"cannot read '{tree}' of {ranges.location}: {first_line(error)}") from error


def _kind_of_tree(file: Any, name: str, location: str) -> str:
    kinds = {key: kind for key, kind in file.classnames(cycle=False).items() if kind in (*TREES, "ROOT::RNTuple")}
    if name in kinds:
        return str(kinds[name])
    found = f"has {', '.join(map(repr, kinds))}" if kinds else "has no tree at all"
    closest = next(iter(nearest(name, kinds)), next(iter(kinds), ""))
    hint = f"choose one: --branch={closest}, or 'branch' in params.json" if kinds else ""
    raise TreeNotFound(f"there is no tree '{name}' in {location}, which {found}", hint=hint)


def _open_other(ranges: ByteRanges, kind: str) -> Source:
    from mlaas4hep.io.arrow import IpcStore, ParquetStore
    from mlaas4hep.io.chunked import ChunkedSource, Store
    from mlaas4hep.io.rows import open_rows

    file = io.BufferedReader(RangeFile(ranges), BUFFER)
    try:
        store: Store
        if kind == "Parquet":
            store = ParquetStore(file)
        elif kind == "Arrow":
            store = IpcStore(file)
        else:
            store = open_rows(file, kind.lower())
    except (FileUnreadable, PackageMissing):
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, MLaaS4HEPError) else first_line(error)
        raise FileUnreadable(f"cannot read {ranges.location} as {kind}: {reason}") from error
    return ChunkedSource(store, ranges)
