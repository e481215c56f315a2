"""Vectors as a file for other programs: Parquet, NumPy's npz or HDF5, by the ending of its name.

    write_vectors(DataReader("data.root"), "vectors.parquet")

All three hold, for every event that passes the cuts, the normalised numbers with the names of their columns, which of
them are real (in Parquet, others are null), the identifiers in their own types, the entry number in the file, and the
specs. Events are written as they are read, so that any number of them takes the same memory.
"""

from __future__ import annotations

import json
import os
import re
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
from mlaas4hep.files import check_destination, new_file
from mlaas4hep.reader.data_reader import Chunk, DataReader

Add = Callable[[Chunk], None]
"""Write one more chunk."""

ENTRY = "entry"
"""Name of the entry numbers."""

ABOUT = "mlaas4hep"
"""Name of a JSON text that says what the vectors are."""

ENDINGS = (".parquet", ".npz", ".h5", ".hdf5")
"""Of the names of files that vectors are written to."""


def check_vector_file(path: str | os.PathLike[str]) -> None:
    """Raise unless vectors could be written to a path: before any work is done.

    Raises:
        ConfigError: its ending is of no format that is known, or a file of another kind would be replaced.
        FileUnreadable: the folder cannot be written.
        PackageMissing: what writes this format is not installed.
    """
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise ConfigError(f"{path}: vectors are written as " + ", ".join(ENDINGS), hint="specs are written as .json")
    if ending == ".parquet":
        require("pyarrow.parquet", "formats", "Parquet")
    elif ending != ".npz":
        require("h5py", "formats", "HDF5")
    check_destination(path)
    if os.path.isfile(path) and not _holds_vectors(path, ending):
        raise ConfigError(f"{path} is there already, and holds no vectors", hint="name another file with --fout")


def _holds_vectors(path: str | os.PathLike[str], ending: str) -> bool:
    """Tell whether a file is one that was written here, by what it says of itself."""
    try:
        if ending == ".parquet":
            schema = require("pyarrow.parquet", "formats", "Parquet").read_schema(path)
            return ABOUT.encode() in (schema.metadata or {})
        if ending == ".npz":
            with zipfile.ZipFile(path) as archive:
                return f"{ABOUT}.npy" in archive.namelist()
        with require("h5py", "formats", "HDF5").File(path) as file:
            return ABOUT in file
    except Exception:  # each library has its own for what is no such file
        return False


def write_vectors(reader: DataReader, path: str | os.PathLike[str]) -> int:
    """Pass over the events and write their vectors; return how many these are.

    Raises:
        ConfigError, FileUnreadable, PackageMissing: see `check_vector_file`.
        FileUnreadable: the events cannot be read.
    """
    check_vector_file(path)
    writer = {".parquet": _parquet, ".npz": _npz}.get(Path(path).suffix.lower(), _hdf5)
    events = 0
    with (
        new_file(path) as temporary,
        writer(reader, temporary) as add,
        console.progress("writing vectors", reader.stop) as bar,
    ):
        for chunk in reader:
            add(chunk)
            events += len(chunk)
            bar.advance(len(chunk))
    return events


def _about(reader: DataReader) -> str:
    methods = dict(zip(reader.layout.branches, reader.normalisation.methods, strict=True))
    return json.dumps({
        "file": reader.location, "tree": reader.options.branch, "normalise": methods, "specs": reader.specs.to_json(),
    })  # fmt: skip


def _ids(reader: DataReader) -> dict[str, np.dtype[Any]]:
    """Return the names and types of what is written beside the vectors.

    Raises:
        ConfigError: a column of the vectors has one of these names.
    """
    types = {name: reader.available[name].dtype for name in reader.identifier}
    types[ENTRY] = np.dtype(np.int64)
    clash = next((name for name in types if name in reader.columns), None)
    if clash is not None:
        raise ConfigError(
            f"there would be two columns '{clash}', of the vectors and beside them", hint="leave the branch out"
        )
    return types


def _values(chunk: Chunk) -> Mapping[str, np.ndarray]:
    return {**chunk.ids, ENTRY: chunk.entries}


@contextmanager
def _parquet(reader: DataReader, path: Path) -> Iterator[Add]:
    """A column for each identifier and each column of the vectors; a row group a chunk."""
    arrow, parquet = require("pyarrow", "formats", "Parquet"), require("pyarrow.parquet", "formats", "Parquet")
    fields = [(name, arrow.from_numpy_dtype(dtype)) for name, dtype in _ids(reader).items()]
    schema = arrow.schema(fields + [(name, arrow.float32()) for name in reader.columns], {ABOUT: _about(reader)})
    with parquet.ParquetWriter(path, schema, compression="zstd", write_statistics=False) as file:

        def add(chunk: Chunk) -> None:
            numbers, missing = np.ascontiguousarray(chunk.x.T), np.ascontiguousarray(~chunk.mask.T)
            columns = [arrow.array(values) for values in _values(chunk).values()]
            columns += [arrow.array(row, mask=gone) for row, gone in zip(numbers, missing, strict=True)]
            file.write_table(arrow.table(columns, schema=schema), row_group_size=max(len(chunk), 1))

        yield add


@contextmanager
def _npz(reader: DataReader, path: Path) -> Iterator[Add]:
    """Arrays x, mask, columns, the identifiers, and a text; numpy.load reads them without pickle.

    How many rows there are is known at the end, and stands at the beginning of each array; until then they are kept in
    files of their own.
    """
    width = len(reader.columns)
    shapes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
        "x": (np.dtype(np.float32), (width,)),
        "mask": (np.dtype(bool), (width,)),
    }
    shapes.update({name: (dtype, ()) for name, dtype in _ids(reader).items()})
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as folder, ExitStack() as stack:
        parts = {name: stack.enter_context(open(Path(folder) / str(i), "w+b")) for i, name in enumerate(shapes)}
        rows = 0

        def add(chunk: Chunk) -> None:
            nonlocal rows
            for name, values in {"x": chunk.x, "mask": chunk.mask, **_values(chunk)}.items():
                parts[name].write(np.ascontiguousarray(values).data)
            rows += len(chunk)

        yield add
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in (("columns", np.array(reader.columns)), (ABOUT, np.array(_about(reader)))):
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, text, allow_pickle=False)
            for name, (dtype, shape) in shapes.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    header = {"descr": dtype.str, "fortran_order": False, "shape": (rows, *shape)}
                    np.lib.format.write_array_header_1_0(member, header)
                    parts[name].seek(0)
                    shutil.copyfileobj(parts[name], member, 1 << 20)


@contextmanager
def _hdf5_errors() -> Iterator[None]:
    """Raise what the system said of a write that failed; HDF5 gives the error number in its text only."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        number = re.search(r"errno = (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


@contextmanager
def _hdf5(reader: DataReader, path: Path) -> Iterator[Add]:
    """Datasets of the names that an npz has."""
    h5py = require("h5py", "formats", "HDF5")
    width = len(reader.columns)
    with _hdf5_errors(), h5py.File(path, "w") as file:
        file["columns"] = [name.encode() for name in reader.columns]
        file[ABOUT] = _about(reader)
        options = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        for name, dtype in (("x", np.dtype(np.float32)), ("mask", np.dtype(bool))):
            chunks = (max(1_000_000 // max(width, 1), 1), max(width, 1))
            file.create_dataset(name, (0, width), dtype, maxshape=(None, width), chunks=chunks, **options)
        for name, dtype in _ids(reader).items():
            file.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(65_536,), **options)

        def add(chunk: Chunk) -> None:
            for name, values in {"x": chunk.x, "mask": chunk.mask, **_values(chunk)}.items():
                dataset = file[name]
                dataset.resize(len(dataset) + len(chunk), axis=0)
                dataset[len(dataset) - len(chunk) :] = values

        yield add
