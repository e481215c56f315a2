"""What format a file is of, and the source that reads it.

    open_place("data.parquet", tree="Events")

The first bytes of a file on disk decide, whatever its name; of a file elsewhere, its name does, which saves a request:
`.root` and unknown endings are ROOT files.
"""

from __future__ import annotations

import os
from typing import Any, BinaryIO

from mlaas4hep.errors import FileUnreadable, MLaaS4HEPError, TreeNotFound, first_line, nearest
from mlaas4hep.io.location import COMPRESSED, ENDINGS, MAGIC, is_url
from mlaas4hep.io.source import Source

XROOTD_TIMEOUTS = {"XRD_CONNECTIONWINDOW": "10", "XRD_CONNECTIONRETRY": "2", "XRD_REQUESTTIMEOUT": "120"}
"""Seconds and attempts after which XRootD's client gives up, not after many minutes; the environment goes first."""

TREES = ("TTree", "TNtuple", "TNtupleD")

KNOWN = "ROOT, Parquet, Arrow (Feather), Avro, CSV, JSON lines"


def open_place(location: str, tree: str) -> Source:
    """Open a path or URL.

    Raises:
        FileUnreadable: it cannot be read, or is of no format that is known.
        TreeNotFound: the ROOT file has no such tree; the message names those there are.
        PackageMissing: what reads this format is not installed.
    """
    kind = _by_name(location) if is_url(location) else _by_content(location)
    return _open_root(location, tree) if kind == "ROOT" else _open_other(location, kind)


def _by_name(location: str) -> str:
    path = location.partition("?")[0].lower()
    for ending in COMPRESSED:
        path = path.removesuffix(ending)
    return ENDINGS.get(os.path.splitext(path)[1], "ROOT")


def _by_content(path: str) -> str:
    from mlaas4hep.io.rows import COMPRESSIONS, decompressed

    try:
        with open(path, "rb") as file:
            head = file.read(8)
            for magic, kind in MAGIC.items():
                if head.startswith(magic):
                    return kind
            compressed = head.startswith(tuple(COMPRESSIONS))
            text = bytes(decompressed(file).read(4096)) if compressed else head + file.read(4096)
    except MLaaS4HEPError:
        raise
    except OSError as error:
        raise FileUnreadable(f"cannot read {path}: {error.strerror or error}") from error
    if text.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{"):
        return "JSON"
    if (text and _by_name(path) == "CSV") or _looks_like_csv(text):
        return "CSV"
    raise FileUnreadable(f"{path} is not a ROOT file, nor of another format that is known", hint=f"known are {KNOWN}")


def _looks_like_csv(text: bytes) -> bool:
    """Tell whether a text has names in its first line, and as many values in the second, some of them numbers."""
    from mlaas4hep.io.rows import delimiter_of

    header, *rows = text.split(b"\n")
    delimiter = delimiter_of(header).encode()
    names, values = header.split(delimiter), rows[0].split(delimiter) if rows else []
    return 1 < len(names) == len(values) and any(map(_is_number, values))


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _open_root(location: str, tree: str) -> Source:
    import uproot

    from mlaas4hep.io.chunked import ChunkedSource
    from mlaas4hep.io.rntuple import RNTupleStore
    from mlaas4hep.io.ttree import TTreeSource

    for variable, value in XROOTD_TIMEOUTS.items():
        os.environ.setdefault(variable, value)
    try:
        file = uproot.open(location)
    except Exception as error:
        raise FileUnreadable(f"cannot open {location} as a ROOT file: {first_line(error)}") from error
    try:
        kind = _kind_of_tree(file, tree, location)
        if kind in TREES:
            return TTreeSource(location, file, tree)
        return ChunkedSource(RNTupleStore(file, tree), location)
    except BaseException as error:
        file.close()
        if isinstance(error, Exception) and not isinstance(error, MLaaS4HEPError):
            raise FileUnreadable(f"cannot read '{tree}' of {location}: {first_line(error)}") from error
        raise


def _kind_of_tree(file: Any, name: str, location: str) -> str:
    kinds = {key: kind for key, kind in file.classnames(cycle=False).items() if kind in (*TREES, "ROOT::RNTuple")}
    if name in kinds:
        return str(kinds[name])
    found = f"has {', '.join(map(repr, kinds))}" if kinds else "has no tree at all"
    closest = next(iter(nearest(name, kinds)), next(iter(kinds), ""))
    hint = f"choose one: --branch={closest}, or 'branch' in params.json" if kinds else ""
    raise TreeNotFound(f"there is no tree '{name}' in {location}, which {found}", hint=hint)


def _open_other(location: str, kind: str) -> Source:
    from mlaas4hep.io.arrow import IpcStore, ParquetStore
    from mlaas4hep.io.chunked import ChunkedSource, Store
    from mlaas4hep.io.rows import open_rows

    file = _open_file(location)
    try:
        store: Store
        if kind == "Parquet":
            store = ParquetStore(file)
        elif kind == "Arrow":
            store = IpcStore(file)
        else:
            store = open_rows(file, kind.lower())
    except BaseException as error:
        file.close()
        if isinstance(error, Exception) and not isinstance(error, MLaaS4HEPError):
            raise FileUnreadable(f"cannot read {location} as {kind}: {first_line(error)}") from error
        raise
    return ChunkedSource(store, location)


def _open_file(location: str) -> BinaryIO:
    try:
        if not is_url(location):
            return open(location, "rb")
        import fsspec

        opened: BinaryIO = fsspec.open(location, "rb").open()
        return opened
    except Exception as error:
        raise FileUnreadable(f"cannot open {location}: {first_line(error)}") from error
