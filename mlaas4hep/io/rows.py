"""Files of rows (CSV, JSON lines, Avro) as stores: converted once to an Arrow file in the temporary folder.

    open_rows(open("data.csv", "rb"), "csv").load(0, ["MET_pt"])

Rows can only be read from the first to the last, and every epoch wants them in another order; converted, they can be
read anywhere, as quickly as any Arrow file. pyarrow and fastavro do the parsing, a block at a time. What is a column's
type is known when all blocks were seen: whole numbers in one and real ones in another are real, a column that is
missing in some has NaN there, and one that is text somewhere is text.
"""

from __future__ import annotations

import os
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

AVRO_ROWS = 20_000

COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of a compressed text file, and pyarrow's name for what compressed it."""

Tables = Callable[[Any], Iterator[Any]]
"""Parse a file from its beginning, into types that are given or, where these are None, found block by block."""


def open_rows(file: BinaryIO, kind: str) -> IpcStore:
    """Convert an open file and return the store of what came out.

    Args:
        file: will be closed with the store.
        kind: "csv", "json" or "avro".

    Raises:
        ConfigError: a line is not what the others are.
    """
    require("pyarrow", "formats", kind.upper())
    parse: Tables = {"csv": _csv, "json": _json, "avro": _avro}[kind](file)
    size = file.seek(0, os.SEEK_END)
    handle, name = tempfile.mkstemp(prefix="mlaas4hep-", suffix=".arrow")
    os.close(handle)
    try:
        with console.progress(f"converting {kind.upper()}", 2 * size, "B") as bar:
            schema = _unite([table.schema for table in _watched(parse(None), file, bar)])
            _write(name, schema, _watched(parse(schema), file, bar))
        store = IpcStore(Path(name).open("rb"))  # noqa: SIM115  the store closes it
    finally:
        os.unlink(name)  # the open file stays readable, and is gone with the process
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


def _csv(file: BinaryIO) -> Tables:
    csv, arrow = require("pyarrow.csv", "formats", "CSV"), require("pyarrow", "formats", "CSV")

    def parse(schema: Any) -> Iterator[Any]:
        lines = _blocks(decompressed(file))
        first = next(lines, b"")
        header, _, rest = first.partition(b"\n")
        delimiter = delimiter_of(header)
        names = [name.strip().strip('"') for name in header.decode("utf-8-sig").rstrip("\r").split(delimiter)]
        reading = csv.ReadOptions(column_names=names, use_threads=False)
        types = None if schema is None else {field.name: field.type for field in schema}
        converting = csv.ConvertOptions(column_types=types)
        for block in chain([rest], lines):
            if block.strip():
                yield csv.read_csv(
                    arrow.BufferReader(block),
                    read_options=reading,
                    parse_options=csv.ParseOptions(delimiter=delimiter),
                    convert_options=converting,
                )

    return parse


def _json(file: BinaryIO) -> Tables:
    json, arrow = require("pyarrow.json", "formats", "JSON"), require("pyarrow", "formats", "JSON")

    def parse(schema: Any) -> Iterator[Any]:
        if schema is not None:  # what is text somewhere may be a number elsewhere, and becomes text afterwards
            schema = arrow.schema([field for field in schema if field.type != arrow.string()])
        for block in _blocks(decompressed(file)):
            if block.strip():
                yield json.read_json(
                    arrow.BufferReader(block),
                    read_options=json.ReadOptions(use_threads=False, block_size=len(block) + 1),
                    parse_options=json.ParseOptions(explicit_schema=schema),
                )

    return parse


def _avro(file: BinaryIO) -> Tables:
    avro, arrow = require("fastavro", "formats", "Avro"), require("pyarrow", "formats", "Avro")

    def parse(schema: Any) -> Iterator[Any]:
        file.seek(0)
        records = iter(avro.reader(file))
        while rows := list(islice(records, AVRO_ROWS)):
            yield arrow.Table.from_pylist(rows, schema=schema)

    return parse


def delimiter_of(header: bytes) -> str:
    """Return what stands between the names in the first line of a CSV file: a comma, a tab or a semicolon."""
    return max((b",", b"\t", b";"), key=header.count).decode()


def _blocks(stream: Any) -> Iterator[bytes]:
    """Yield a text in blocks of about BLOCK bytes that end with a line."""
    rest = b""
    while block := stream.read(BLOCK):
        end = block.rfind(b"\n") + 1
        if end:
            yield rest + block[:end]
            rest = block[end:]
        else:
            rest += block
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


def _unite(schemas: Iterable[Any]) -> Any:
    """Return the schema that holds the columns of all blocks."""
    arrow = require("pyarrow", "formats", "rows")
    types: dict[str, Any] = {}
    for schema in schemas:
        for field in schema:
            types[field.name] = _common(types.get(field.name, field.type), field.type)
    if not types:
        raise ConfigError("there are no rows")
    return arrow.schema(list(types.items()))


def _common(one: Any, other: Any) -> Any:
    arrow = require("pyarrow", "formats", "rows")
    if one.equals(other):
        return one
    try:
        united = arrow.unify_schemas(
            [arrow.schema([("x", one)]), arrow.schema([("x", other)])], promote_options="permissive"
        )
    except (arrow.ArrowInvalid, arrow.ArrowTypeError):
        return arrow.string()
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
