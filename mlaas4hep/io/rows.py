"""Files of rows (CSV, JSON lines, Avro) as stores: converted once to an Arrow file in the temporary folder.

    open_rows(open("data.csv", "rb"), "csv").load(0, ["MET_pt"])

Rows can only be read from the first to the last, and every epoch wants them in another order; converted, they can be
read anywhere, as quickly as any Arrow file. pyarrow and fastavro do the parsing, a block at a time. What is a column's
type is known when all blocks were seen: whole numbers in one and real ones in another are real, a column that is
missing in some has NaN there, and one that is now a number and now something else is left out.
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
from mlaas4hep.io.arrow import IpcStore, identity_of

BLOCK = 16_000_000
"""Bytes of text that are parsed at a time."""

LONGEST_LINE = 256_000_000
"""Bytes; a line must be held in memory, and a small compressed file can hold one of any length."""

AVRO_ROWS = 20_000

COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of a compressed text file, and pyarrow's name for what compressed it."""

Tables = Callable[[Any], Iterator[Any]]
"""Parse a file from its beginning, into types that are given or, where these are None, found block by block."""

SEVERAL_TYPES = "several types in one column"


def open_rows(file: BinaryIO, kind: str) -> IpcStore:
    """Convert an open file and return the store of what came out.

    Args:
        file: will be closed with the store.
        kind: "csv", "json" or "avro".

    Raises:
        ConfigError: a line is not what the others are.
    """
    require("pyarrow", "formats", kind.upper())
    mixed: set[str] = set()  # the columns of several types
    parse: Tables = {"csv": _csv, "json": _json, "avro": _avro}[kind](file, mixed)
    size = file.seek(0, os.SEEK_END)
    handle, name = tempfile.mkstemp(prefix="mlaas4hep-", suffix=".arrow")
    os.close(handle)
    try:
        with console.progress(f"converting {kind.upper()}", 2 * size, "B") as bar:
            _convert(name, lambda schema: _watched(parse(schema), file, bar), mixed)
        store = IpcStore(Path(name).open("rb"))  # noqa: SIM115  the store closes it
    finally:
        os.unlink(name)  # the open file stays readable, and is gone with the process
    for column in sorted(mixed):
        store.leave_out(column, SEVERAL_TYPES)
    store.identity = identity_of(file)
    file.close()
    return store


def decompressed(file: BinaryIO) -> Any:
    """Return the text of a file from its beginning, decompressed where need be."""
    arrow = require("pyarrow", "formats", "compressed text")
    file.seek(0)
    head = file.read(4)
    file.seek(0)
    for magic, name in COMPRESSIONS.items():
        if head.startswith(magic):
            return arrow.CompressedInputStream(arrow.PythonFile(_Borrowed(file), "r"), name)
    return file


class _Borrowed:
    """A file that its reader must not close when it goes away, as pyarrow does."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read

    def close(self) -> None:
        """Leave it open."""


def _csv(file: BinaryIO, mixed: set[str]) -> Tables:
    parser, arrow = require("pyarrow.csv", "formats", "CSV"), require("pyarrow", "formats", "CSV")

    def parse(schema: Any) -> Iterator[Any]:
        lines = _blocks(decompressed(file))
        header, _, rest = next(lines, b"").partition(b"\n")
        names, delimiter = read_header(header)
        if all(map(is_number, names)):
            raise ConfigError("its first line has numbers and no names", hint="put a line with their names in front")
        reading = parser.ReadOptions(column_names=names, use_threads=False)
        types = None if schema is None else {field.name: field.type for field in schema}
        for block in chain([rest], lines):
            if block.strip():
                yield parser.read_csv(
                    arrow.BufferReader(block),
                    read_options=reading,
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


_CHANGED = re.compile(r"Column\(/([^/)]*)[^)]*\) changed from ")
"""What pyarrow says of a field of several types."""


def _json_table(block: bytes, schema: Any, mixed: set[str]) -> Any:
    """Parse some lines; fields of several types are left out and noted in `mixed`."""
    parser, arrow = require("pyarrow.json", "formats", "JSON"), require("pyarrow", "formats", "JSON")
    others = "infer" if schema is None else "ignore"
    gone: set[str] = set()
    while True:
        try:
            return parser.read_json(
                arrow.BufferReader(block),
                read_options=parser.ReadOptions(use_threads=False, block_size=len(block) + 1),
                parse_options=parser.ParseOptions(explicit_schema=schema, unexpected_field_behavior=others),
            )
        except arrow.ArrowInvalid as error:
            changed = _CHANGED.search(str(error))
            if not changed or changed[1] in gone:
                raise
            mixed.add(changed[1])
            gone |= mixed
            try:
                block = b"\n".join(_without(line, gone) for line in block.splitlines() if line.strip())
            except ValueError:  # objects that go over several lines
                raise error from None


def _without(line: bytes, fields: set[str]) -> bytes:
    row = json.loads(line)
    return json.dumps({name: value for name, value in row.items() if name not in fields}).encode()


def _avro(file: BinaryIO, mixed: set[str]) -> Tables:
    avro, arrow = require("fastavro", "formats", "Avro"), require("pyarrow", "formats", "Avro")

    def parse(schema: Any) -> Iterator[Any]:
        file.seek(0)
        reader = avro.reader(file)
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


def read_header(line: bytes) -> tuple[list[str], str]:
    """Return the names in the first line of a CSV file, and what stands between them: a comma, a tab or a semicolon.

    Raises:
        ConfigError: the line is not CSV.
        UnicodeDecodeError: the line is not UTF-8.
    """
    text = line.decode("utf-8-sig").rstrip("\r")
    bare = re.sub('"[^"]*"', "", text)
    delimiter = max((",", "\t", ";"), key=bare.count)
    try:
        names = next(csv.reader([text], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error as error:
        raise ConfigError(f"its first line is not CSV: {error}") from error
    return [name.strip() for name in names], delimiter


def is_number(text: str) -> bool:
    """Tell whether a text is one number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _blocks(stream: Any) -> Iterator[bytes]:
    """Yield a text in blocks of about BLOCK bytes that end with a line.

    Raises:
        ConfigError: a line has more than LONGEST_LINE bytes.
    """
    rest = b""
    while block := stream.read(BLOCK):
        end = block.rfind(b"\n") + 1
        if end:
            yield rest + block[:end]
            rest = block[end:]
        else:
            rest += block
        if len(rest) > LONGEST_LINE:
            raise ConfigError(f"it has a line of more than {LONGEST_LINE / 1e6:.0f} MB")
    if rest:
        yield rest


def _watched(tables: Iterable[Any], file: BinaryIO, bar: console.Progress) -> Iterator[Any]:
    """Hand tables on, and tell the bar how far in the file they were made."""
    seen = 0
    for table in tables:
        position = file.tell()
        bar.advance(position - seen)
        seen = position
        yield table


def _convert(name: str, parse: Tables, mixed: set[str]) -> None:
    """Write the rows into a new Arrow file."""
    arrow = require("pyarrow", "formats", "rows")
    schema, large = _survey(parse(None), mixed)
    if large:
        exact = arrow.schema([field.with_type(arrow.uint64()) if field.name in large else field for field in schema])
        try:
            _write(name, exact, parse(exact))
            return
        except arrow.ArrowInvalid:  # they are written as real numbers, 1e19
            pass
    _write(name, schema, parse(schema))


def _survey(tables: Iterable[Any], mixed: set[str]) -> tuple[Any, set[str]]:
    """Return the schema that holds the columns of all blocks, and which of them may be whole numbers from 2^63 on."""
    arrow = require("pyarrow", "formats", "rows")
    types: dict[str, Any] = {}
    highest: dict[str, float] = {}
    for table in tables:
        for field, column in zip(table.schema, table.columns, strict=True):
            united = _common(types.get(field.name, field.type), field.type)
            if united is None:
                mixed.add(field.name)
            types[field.name] = united or field.type
            highest[field.name] = max(highest.get(field.name, 0.0), _highest(column))
    types = {name: kind for name, kind in types.items() if name not in mixed}
    if not types:
        raise ConfigError("there are no rows" if not mixed else "it has no column of one type")
    large = {name for name, kind in types.items() if kind == arrow.float64() and 2**63 <= highest[name] <= 2**64}
    return arrow.schema(list(types.items())), large


def _highest(column: Any) -> float:
    """Return the highest of a column's numbers; infinity where one is negative or no whole one."""
    arrow = require("pyarrow", "formats", "rows")
    compute = require("pyarrow.compute", "formats", "rows")
    if column.type not in (arrow.int64(), arrow.float64()) or column.null_count == len(column):
        return 0.0
    ends = compute.min_max(column).as_py()
    is_whole = column.type == arrow.int64() or compute.all(compute.equal(compute.floor(column), column)).as_py()
    return float(ends["max"]) if is_whole and ends["min"] >= 0 else math.inf


def _common(one: Any, other: Any) -> Any:
    """Return the type that holds the values of two types; None where there is none."""
    arrow = require("pyarrow", "formats", "rows")
    if one.equals(other):
        return one
    try:
        united = arrow.unify_schemas(
            [arrow.schema([("x", one)]), arrow.schema([("x", other)])], promote_options="permissive"
        )
    except (arrow.ArrowInvalid, arrow.ArrowTypeError):
        return None
    return united.field("x").type


def _write(name: str, schema: Any, tables: Iterable[Any]) -> None:
    arrow = require("pyarrow", "formats", "rows")
    with arrow.ipc.new_file(name, schema) as sink:
        for table in tables:
            whole = arrow.table({field.name: _column(table, field) for field in schema}, schema=schema)
            for batch in whole.to_batches():
                sink.write_batch(batch)


def _column(table: Any, field: Any) -> Any:
    arrow = require("pyarrow", "formats", "rows")
    if field.name not in table.column_names:
        return arrow.nulls(table.num_rows, field.type)
    return table.column(field.name).cast(field.type)
