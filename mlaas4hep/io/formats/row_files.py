"""Read row-oriented files (CSV, JSON lines, Avro) by converting them to temporary Arrow files.

    convert_row_file(open("data.csv", "rb"), "csv").load(0, ["MET_pt"])

Row-oriented files can only be read sequentially, but training needs random access. pyarrow and fastavro parse the file
block by block. The type of a column is known only after all blocks: integers in some blocks and floating-point numbers
in others become floating-point, a column that is missing in some blocks is NaN there, and a column that has both
numbers and other values is unreadable.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from mlaas4hep import console
from mlaas4hep.errors import ConfigError, require
from mlaas4hep.io.formats.arrow import IpcReader, identity_of
from mlaas4hep.unique_names import RepeatedKey, check_unique, unique_keys

BLOCK_BYTES = 16_000_000
"""Bytes of text that are parsed at a time."""

MAX_LINE_BYTES = 256_000_000
"""Maximum length of a line. A line is kept in memory, and may be huge even in a small compressed file."""

AVRO_ROWS = 20_000
"""Number of Avro records that are parsed at a time."""

COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
"""pyarrow's name of a compression, by the first bytes of the file."""

Tables = Callable[[Any], Iterator[Any]]
"""Function that parses a file from its beginning, given a schema; None: infer the types of each block."""

SEVERAL_TYPES = "several types in one column"


def convert_row_file(file: BinaryIO, kind: str) -> IpcReader:
    """Convert an open file, close it, and return a reader of the result; raise ConfigError if it cannot be parsed.

    Args:
        kind: "csv", "json" or "avro".
    """
    require("pyarrow", "formats", kind.upper())
    mixed: set[str] = set()  # columns with values of several types
    parse: Tables = {"csv": _csv, "json": _json, "avro": _avro}[kind](file, mixed)
    size = file.seek(0, os.SEEK_END)
    handle, name = tempfile.mkstemp(prefix="mlaas4hep-", suffix=".arrow")
    os.close(handle)
    try:
        with console.progress(f"converting {kind.upper()}", 2 * size, "B") as bar:
            _convert(name, lambda schema: _with_progress(parse(schema), file, bar), mixed)
        reader = IpcReader(Path(name).open("rb"))  # noqa: SIM115  the reader closes it
    finally:
        os.unlink(name)  # the open file stays readable, and is deleted when it is closed
    for column in sorted(mixed):
        reader.add_unreadable(column, SEVERAL_TYPES)
    reader.identity = identity_of(file)
    file.close()
    return reader


def decompressed(file: BinaryIO) -> Any:
    """Return a stream of the file from its beginning, decompressed if necessary."""
    arrow = require("pyarrow", "formats", "compressed text")
    file.seek(0)
    head = file.read(4)
    file.seek(0)
    for magic, name in COMPRESSIONS.items():
        if head.startswith(magic):
            return arrow.CompressedInputStream(arrow.PythonFile(_Uncloseable(file), "r"), name)
    return file


class _Uncloseable:
    """A view of a file that pyarrow cannot close when it deletes its stream."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read

    def close(self) -> None:
        """Do nothing."""


def _csv(file: BinaryIO, mixed: set[str]) -> Tables:
    parser, arrow = require("pyarrow.csv", "formats", "CSV"), require("pyarrow", "formats", "CSV")

    def parse(schema: Any) -> Iterator[Any]:
        lines = _blocks(decompressed(file))
        header, _, rest = next(lines, b"").partition(b"\n")
        names, delimiter = read_header(header)
        if all(map(is_number, names)):
            raise ConfigError("the first line has numbers instead of column names", hint="insert a line with the names")
        check_unique(names)
        read_options = parser.ReadOptions(column_names=names, use_threads=False)
        types = None if schema is None else {field.name: field.type for field in schema}
        for block in chain([rest], lines):
            if block.strip():
                yield parser.read_csv(
                    arrow.BufferReader(block),
                    read_options=read_options,
                    parse_options=parser.ParseOptions(delimiter=delimiter),
                    convert_options=parser.ConvertOptions(column_types=types),
                )

    return parse


def _json(file: BinaryIO, mixed: set[str]) -> Tables:
    def parse(schema: Any) -> Iterator[Any]:
        for block in _blocks(decompressed(file)):
            if block.strip():
                yield _json_table(block, schema, mixed)

    return parse


_TYPE_CHANGED = re.compile(r"Column\(/([^/)]*)[^)]*\) changed from ")
"""pyarrow's error message for a field with values of several types."""


def _json_table(block: bytes, schema: Any, mixed: set[str]) -> Any:
    """Parse some lines without the fields of several types, which are added to `mixed`."""
    parser, arrow = require("pyarrow.json", "formats", "JSON"), require("pyarrow", "formats", "JSON")
    others = "infer" if schema is None else "ignore"
    removed: set[str] = set()
    while True:
        try:
            return parser.read_json(
                arrow.BufferReader(block),
                read_options=parser.ReadOptions(use_threads=False, block_size=len(block) + 1),
                parse_options=parser.ParseOptions(explicit_schema=schema, unexpected_field_behavior=others),
            )
        except arrow.ArrowInvalid as error:
            changed = _TYPE_CHANGED.search(str(error))
            if not changed or changed[1] in removed:
                raise
            mixed.add(changed[1])
            removed |= mixed
            try:
                block = b"\n".join(_remove_fields(line, removed) for line in block.splitlines() if line.strip())
            except RepeatedKey as repeated:
                raise ConfigError(str(repeated)) from error
            except ValueError:  # an object spans several lines
                raise error from None


def _remove_fields(line: bytes, fields: set[str]) -> bytes:
    row = json.loads(line, object_pairs_hook=unique_keys)
    return json.dumps({name: value for name, value in row.items() if name not in fields}).encode()


def _avro(file: BinaryIO, mixed: set[str]) -> Tables:
    avro, arrow = require("fastavro", "formats", "Avro"), require("pyarrow", "formats", "Avro")

    def parse(schema: Any) -> Iterator[Any]:
        file.seek(0)
        reader = avro.reader(file)
        _check_fields(reader.writer_schema)
        names = [field["name"] for field in reader.writer_schema["fields"]]
        records = iter(reader)
        while rows := list(islice(records, AVRO_ROWS)):
            columns = {}
            for name in names:
                try:
                    known = None if schema is None or name in mixed else schema.field(name).type
                    columns[name] = arrow.array([row[name] for row in rows], known)
                except (arrow.ArrowInvalid, arrow.ArrowTypeError):
                    mixed.add(name)
            yield arrow.table(columns)

    return parse


def _check_fields(schema: Any) -> None:
    """Check that the names of the fields of each record in an Avro schema are unique."""
    if isinstance(schema, list):  # a union
        for kind in schema:
            _check_fields(kind)
    elif isinstance(schema, dict):
        fields = schema.get("fields", [])
        check_unique(field["name"] for field in fields)
        for inner in (*(field["type"] for field in fields), *map(schema.get, ("type", "items", "values"))):
            _check_fields(inner)


def read_header(line: bytes) -> tuple[list[str], str]:
    """Parse the first line of a CSV file.

    Returns:
        The names of the columns, and the delimiter: a comma, a tab or a semicolon.

    Raises:
        ConfigError: the line is not valid CSV.
        UnicodeDecodeError: the line is not UTF-8.
    """
    text = line.decode("utf-8-sig").rstrip("\r")
    unquoted = re.sub('"[^"]*"', "", text)
    delimiter = max((",", "\t", ";"), key=unquoted.count)
    try:
        names = next(csv.reader([text], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error as error:
        raise ConfigError(f"the first line is not valid CSV: {error}") from error
    return [name.strip() for name in names], delimiter


def is_number(text: str) -> bool:
    """Return whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _blocks(stream: Any) -> Iterator[bytes]:
    """Yield a text in blocks of about BLOCK_BYTES that contain whole lines, which must not exceed MAX_LINE_BYTES."""
    rest = b""
    while block := stream.read(BLOCK_BYTES):
        end = block.rfind(b"\n") + 1
        if end:
            yield rest + block[:end]
            rest = block[end:]
        else:
            rest += block
        if len(rest) > MAX_LINE_BYTES:
            raise ConfigError(f"a line has more than {MAX_LINE_BYTES / 1e6:.0f} MB")
    if rest:
        yield rest


def _with_progress(tables: Iterable[Any], file: BinaryIO, bar: console.Progress) -> Iterator[Any]:
    """Yield the tables, and advance the progress bar by the bytes that were read."""
    reported = 0
    for table in tables:
        position = file.tell()
        bar.advance(position - reported)
        reported = position
        yield table


def _convert(name: str, parse: Tables, mixed: set[str]) -> None:
    """Write the rows to a new Arrow file."""
    arrow = require("pyarrow", "formats", "rows")
    schema, large = _infer_schema(parse(None), mixed)
    if large:
        exact = arrow.schema([field.with_type(arrow.uint64()) if field.name in large else field for field in schema])
        try:
            _write(name, exact, parse(exact))
            return
        except arrow.ArrowInvalid:  # numbers written like 1e19 cannot be parsed as integers
            pass
    _write(name, schema, parse(schema))


def _infer_schema(tables: Iterable[Any], mixed: set[str]) -> tuple[Any, set[str]]:
    """Return a schema for the columns of all blocks, and the columns that may hold integers from 2^63 on."""
    arrow = require("pyarrow", "formats", "rows")
    types: dict[str, Any] = {}
    maxima: dict[str, float] = {}
    for table in tables:
        for field, column in zip(table.schema, table.columns, strict=True):
            common = _common_type(types.get(field.name, field.type), field.type)
            if common is None:
                mixed.add(field.name)
            types[field.name] = common or field.type
            maxima[field.name] = max(maxima.get(field.name, 0.0), _maximum(column))
    types = {name: kind for name, kind in types.items() if name not in mixed}
    if not types:
        raise ConfigError("the file has no rows" if not mixed else "every column has values of several types")
    large = {name for name, kind in types.items() if kind == arrow.float64() and 2**63 <= maxima[name] <= 2**64}
    return arrow.schema(list(types.items())), large


def _maximum(column: Any) -> float:
    """Return the maximum of a column; infinity if it has negative numbers or numbers that are not integers."""
    arrow = require("pyarrow", "formats", "rows")
    compute = require("pyarrow.compute", "formats", "rows")
    if column.type not in (arrow.int64(), arrow.float64()) or column.null_count == len(column):
        return 0.0
    limits = compute.min_max(column).as_py()
    is_integer = column.type == arrow.int64() or compute.all(compute.equal(compute.floor(column), column)).as_py()
    return float(limits["max"]) if is_integer and limits["min"] >= 0 else math.inf


def _common_type(one: Any, other: Any) -> Any:
    """Return a type that can represent the values of two types; None if there is none."""
    arrow = require("pyarrow", "formats", "rows")
    if one.equals(other):
        return one
    schemas = [arrow.schema([("x", kind)]) for kind in (one, other)]
    try:
        return arrow.unify_schemas(schemas, promote_options="permissive").field("x").type
    except (arrow.ArrowInvalid, arrow.ArrowTypeError):
        return None


def _write(name: str, schema: Any, tables: Iterable[Any]) -> None:
    arrow = require("pyarrow", "formats", "rows")
    with arrow.ipc.new_file(name, schema) as sink:
        for table in tables:
            complete = arrow.table({field.name: _column(table, field) for field in schema}, schema=schema)
            for batch in complete.to_batches():
                sink.write_batch(batch)


def _column(table: Any, field: Any) -> Any:
    arrow = require("pyarrow", "formats", "rows")
    if field.name not in table.column_names:
        return arrow.nulls(table.num_rows, field.type)
    return table.column(field.name).cast(field.type)
