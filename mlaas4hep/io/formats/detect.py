"""Detect the format of a file, and open a source for it.

    open_format(LocalRanges("data.parquet"), tree="Events")

The first bytes of the file decide, not its name; the name decides only if the file is text.
"""

from __future__ import annotations

import io
import os

from mlaas4hep.errors import ConfigError, FileUnreadable, MLaaS4HEPError, PackageMissing, TreeNotFound, error_summary
from mlaas4hep.io.root.tree_keys import TREES, find_tree
from mlaas4hep.io.source import Source
from mlaas4hep.io.storage.byte_ranges import ByteRanges, RangeFile
from mlaas4hep.io.storage.location import COMPRESSED, ENDINGS, format_of
from mlaas4hep.write_errors import failed_write

SUPPORTED_FORMATS = "ROOT, Parquet, Arrow (Feather), Avro, CSV, JSON lines"

BUFFER = 1_000_000
"""Size of the read-ahead buffer, for libraries that make many small reads."""


def open_format(ranges: ByteRanges, tree: str, needs_tree: bool = False) -> Source:
    """Return a source for a file. The source takes ownership of `ranges`.

    Args:
        needs_tree: whether a file of a format without trees is an error.

    Raises:
        FileUnreadable: the file cannot be read, or its format is not supported.
        TreeNotFound: the file does not contain the tree; the message lists its trees.
        PackageMissing: the library that reads this format is not installed.
    """
    kind = _kind_of(ranges)
    if needs_tree and kind != "ROOT":
        raise TreeNotFound(f"tree '{tree}' not found in {ranges.location}, which is a {kind} file and has no trees")
    return _open_root(ranges, tree) if kind == "ROOT" else _open_other(ranges, kind)


def _kind_of(ranges: ByteRanges) -> str:
    from mlaas4hep.io.formats.row_files import COMPRESSIONS, decompressed

    file = io.BufferedReader(RangeFile(ranges), 4096)
    head = file.read(4096)
    kind = format_of(head)
    if kind:
        return kind
    text = head
    if head.startswith(tuple(COMPRESSIONS)):
        file.seek(0)
        try:
            text = bytes(decompressed(file).read(4096))
        except OSError as error:
            raise FileUnreadable(f"cannot read {ranges.location}: {error_summary(error)}") from error
    if text.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{"):
        return "JSON"
    if (text and _has_csv_name(ranges.location)) or _looks_like_csv(text):
        return "CSV"
    if not head:
        raise FileUnreadable(f"{ranges.location} is empty")
    raise FileUnreadable(
        f"the format of {ranges.location} is not supported", hint=f"supported formats are {SUPPORTED_FORMATS}"
    )


def _has_csv_name(name: str) -> bool:
    name = name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return ENDINGS.get(os.path.splitext(name)[1]) == "CSV"


def _looks_like_csv(text: bytes) -> bool:
    """Return whether the first line has names, and the second one as many values, at least one of them a number."""
    from mlaas4hep.io.formats.row_files import is_number, read_header

    header, *rows = text.split(b"\n")
    try:
        names, delimiter = read_header(header)
        values = rows[0].decode().split(delimiter) if rows else []
    except (UnicodeDecodeError, ConfigError):
        return False
    return 1 < len(names) == len(values) and any(map(is_number, values))


def _open_root(ranges: ByteRanges, tree: str) -> Source:
    from mlaas4hep.io.rntuple.source import open_rntuple
    from mlaas4hep.io.root.ttree import TTreeSource
    from mlaas4hep.io.root.uproot_source import open_root_file

    try:
        file = open_root_file(ranges)
        key = find_tree(file, tree, ranges.location)
        if key.fClassName in TREES:
            return TTreeSource(ranges, key, tree)
        return open_rntuple(ranges, key, tree)
    except MLaaS4HEPError:
        raise
    except Exception as error:
        raise FileUnreadable(f"cannot read '{tree}' of {ranges.location}: {error_summary(error)}") from error


def _open_other(ranges: ByteRanges, kind: str) -> Source:
    from mlaas4hep.io.formats.arrow import IpcReader, ParquetReader
    from mlaas4hep.io.formats.chunked import ChunkedSource, ChunkReader
    from mlaas4hep.io.formats.row_files import convert_row_file

    def open_file() -> io.BufferedReader:
        return io.BufferedReader(RangeFile(ranges), BUFFER)

    try:
        reader: ChunkReader
        if kind == "Parquet":
            reader = ParquetReader(open_file)
        elif kind == "Arrow":
            reader = IpcReader(open_file())
        else:
            reader = convert_row_file(open_file(), kind.lower())
    except (FileUnreadable, PackageMissing):
        raise
    except Exception as error:
        if failure := failed_write(error):  # writing the temporary Arrow file failed
            raise failure from error
        reason = str(error) if isinstance(error, MLaaS4HEPError) else error_summary(error)
        raise FileUnreadable(f"cannot read {ranges.location} as {kind}: {reason}") from error
    return ChunkedSource(reader, ranges)
