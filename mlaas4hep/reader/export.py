"""Write vectors to a file for other programs: Parquet, NumPy's npz or HDF5, depending on the suffix.

    write_vectors(DataReader("data.root"), "vectors.parquet")

The file contains the normalised vectors of all events that pass the cuts, the names of the columns, the mask (in
Parquet, masked values are null), the identifiers, the entry numbers in the input file, and the specs. Events are
written chunk by chunk, so the memory needed does not depend on their number.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mlaas4hep import console
from mlaas4hep.errors import ConfigError, require
from mlaas4hep.files import check_replaceable, check_writable, new_file, write_lock
from mlaas4hep.reader.chunk import Chunk
from mlaas4hep.reader.data_reader import DataReader
from mlaas4hep.reader.deferred_error_file import DeferredErrorFile
from mlaas4hep.reader.memory_check import check_memory
from mlaas4hep.unique_names import first_repeated

AddChunk = Callable[[Chunk], None]
"""Append a chunk to the file."""

ENTRY = "entry"
"""Name of the column of entry numbers."""

METADATA = "mlaas4hep"
"""Name of the JSON metadata that describe the vectors."""

_ARRAYS = ("x", "mask", "columns", METADATA)
"""Names of the arrays in npz and HDF5 files, in addition to the identifiers."""

SUFFIXES = (".parquet", ".npz", ".h5", ".hdf5")
"""File name suffixes of the supported formats."""

_BYTES_PER_COLUMN = {".parquet": 5_000, ".npz": 250, ".h5": 250, ".hdf5": 250}
"""Memory per column while vectors are written, measured: for its name and, in Parquet, its metadata."""

_PARQUET_BYTES_PER_VALUE = 10
"""Memory per value for a transposed copy and an Arrow array."""


def check_vector_file(path: str | os.PathLike[str]) -> None:
    """Check that vectors can be written to a path, before events are read.

    Raises:
        ConfigError: the suffix is not supported, or a file exists that does not contain vectors.
        FileUnreadable: the folder is not writable.
        PackageMissing: the package for the format is not installed.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(f"{path}: vectors are written as {', '.join(SUFFIXES)}", hint="specs are written as .json")
    if suffix == ".parquet":
        require("pyarrow.parquet", "formats", "Parquet")
    elif suffix != ".npz":
        require("h5py", "formats", "HDF5")
    check_writable(path)
    check_replaceable(path, lambda file: _has_vectors(file, suffix), "vectors", "name another file with --fout")


def _has_vectors(path: Path, suffix: str) -> bool:
    """Return whether a file has our metadata."""
    try:
        if suffix == ".parquet":
            schema = require("pyarrow.parquet", "formats", "Parquet").read_schema(path)
            return METADATA.encode() in (schema.metadata or {})
        if suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                return f"{METADATA}.npy" in archive.namelist()
        with require("h5py", "formats", "HDF5").File(path) as file:
            return METADATA in file
    except Exception:  # each library raises its own exceptions for files of other formats
        return False


def write_vectors(reader: DataReader, path: str | os.PathLike[str]) -> int:
    """Read all events, write their vectors, and return the number of events.

    Raises:
        ConfigError, FileUnreadable, PackageMissing: see `check_vector_file`.
        ConfigError: the vectors do not fit into memory.
        FileUnreadable: the events cannot be read.
    """
    check_vector_file(path)
    suffix = Path(path).suffix.lower()
    _check_memory(reader, suffix)
    writer = {".parquet": _parquet, ".npz": _npz}.get(suffix, _hdf5)
    events = 0
    with (
        write_lock(path),
        new_file(path, exclusive=True) as temporary,
        writer(reader, temporary) as add,
        console.progress("writing vectors", reader.stop) as bar,
    ):
        for chunk in reader:
            add(chunk)
            events += len(chunk)
            bar.advance(len(chunk))
    return events


def _check_memory(reader: DataReader, suffix: str) -> None:
    """Raise ConfigError if a chunk, together with the columns of the file, does not fit into memory."""
    rows = min(reader.options.chunk_size, reader.stop)
    is_parquet = suffix == ".parquet"
    column_bytes = _BYTES_PER_COLUMN[suffix] + is_parquet * rows * _PARQUET_BYTES_PER_VALUE
    purpose = f"to write as {suffix} with {reader.layout.width} columns"
    instead = "write .npz or .h5, which take less memory for each column" if is_parquet else ""
    check_memory(reader.inputs, rows, "chunk", "--chunk-size", column_bytes, purpose, instead)


def _metadata(reader: DataReader) -> str:
    methods = dict(zip(reader.layout.branches, reader.normalisation.methods, strict=True))
    return json.dumps({
        "file": reader.location, "tree": reader.options.branch, "normalise": methods, "specs": reader.specs.to_json(),
    })  # fmt: skip


def _id_dtypes(reader: DataReader, *arrays: str) -> dict[str, np.dtype[Any]]:
    """Return the dtypes of the identifiers and of the entry number, by name; `arrays` are other names in the file."""
    names = [*reader.identifier, ENTRY]
    clash = first_repeated([*arrays, *names]) or next(iter({*names} & {*reader.columns}), None)
    if clash is not None:
        raise ConfigError(f"the file would have two columns '{clash}'", hint="exclude the branch")
    return {**{name: reader.available[name].dtype for name in reader.identifier}, ENTRY: np.dtype(np.int64)}


def _arrays(chunk: Chunk) -> Mapping[str, np.ndarray]:
    return {"x": chunk.x, "mask": chunk.mask, **chunk.ids, ENTRY: chunk.entries}


@contextmanager
def _parquet(reader: DataReader, path: Path) -> Iterator[AddChunk]:
    """Write a column for each identifier and each column of the vectors, with one row group per chunk."""
    arrow, parquet = require("pyarrow", "formats", "Parquet"), require("pyarrow.parquet", "formats", "Parquet")
    fields = [(name, arrow.from_numpy_dtype(dtype)) for name, dtype in _id_dtypes(reader).items()]
    fields += [(name, arrow.float32()) for name in reader.columns]
    schema = arrow.schema(fields, {METADATA: _metadata(reader)})
    with parquet.ParquetWriter(path, schema, compression="zstd", write_statistics=False) as file:

        def add(chunk: Chunk) -> None:
            values, masked = np.ascontiguousarray(chunk.x.T), np.ascontiguousarray(~chunk.mask.T)
            columns = [arrow.array(ids) for ids in (*chunk.ids.values(), chunk.entries)]
            columns += [arrow.array(column, mask=mask) for column, mask in zip(values, masked, strict=True)]
            file.write_table(arrow.table(columns, schema=schema), row_group_size=max(len(chunk), 1))

        yield add


@contextmanager
def _npz(reader: DataReader, path: Path) -> Iterator[AddChunk]:
    """Write the arrays x, mask and columns, the identifiers and the metadata, all readable without pickle.

    Each array begins with its number of rows, which is only known at the end. Until then, arrays are kept in temporary
    files.
    """
    width = len(reader.columns)
    shapes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
        "x": (np.dtype(np.float32), (width,)),
        "mask": (np.dtype(bool), (width,)),
    }
    shapes.update({name: (dtype, ()) for name, dtype in _id_dtypes(reader, *_ARRAYS).items()})
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as folder, ExitStack() as stack:
        parts = {name: stack.enter_context(open(Path(folder) / str(i), "w+b")) for i, name in enumerate(shapes)}
        rows = 0

        def add(chunk: Chunk) -> None:
            nonlocal rows
            for name, values in _arrays(chunk).items():
                parts[name].write(np.ascontiguousarray(values).data)
            rows += len(chunk)

        yield add
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in (("columns", np.array(reader.columns)), (METADATA, np.array(_metadata(reader)))):
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, text, allow_pickle=False)
            for name, (dtype, shape) in shapes.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    header = {"descr": dtype.str, "fortran_order": False, "shape": (rows, *shape)}
                    np.lib.format.write_array_header_1_0(member, header)
                    parts[name].seek(0)
                    shutil.copyfileobj(parts[name], member, 1 << 20)


@contextmanager
def _hdf5(reader: DataReader, path: Path) -> Iterator[AddChunk]:
    """Write datasets with the same names as the arrays in npz files."""
    h5py = require("h5py", "formats", "HDF5")
    width = len(reader.columns)
    with DeferredErrorFile(path) as raw, h5py.File(raw, "w") as file:
        file["columns"] = [name.encode() for name in reader.columns]
        file[METADATA] = _metadata(reader)
        options = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        for name, dtype in (("x", np.dtype(np.float32)), ("mask", np.dtype(bool))):
            chunks = (max(1_000_000 // max(width, 1), 1), max(width, 1))
            file.create_dataset(name, (0, width), dtype, maxshape=(None, width), chunks=chunks, **options)
        for name, dtype in _id_dtypes(reader, *_ARRAYS).items():
            file.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(65_536,), **options)

        def add(chunk: Chunk) -> None:
            for name, values in _arrays(chunk).items():
                dataset = file[name]
                dataset.resize(len(dataset) + len(chunk), axis=0)
                dataset[len(dataset) - len(chunk) :] = values
            raw.check()

        yield add
