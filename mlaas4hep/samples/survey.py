"""Survey of the files of a sample: compare their columns, and compute the specs in a first pass.

found = survey(readers, workers=2, exclude=[], verbose=False)
found.specs, found.entries
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.io.blocks import ClusterSize, split_into_blocks
from mlaas4hep.reader import DataReader, Specs
from mlaas4hep.reader.inputs import patterns_of
from mlaas4hep.samples.bad_files import LeftOutFile
from mlaas4hep.samples.consistency import (
    FileSummary,
    check_different_files,
    check_excluded_branches,
    check_same_branches,
    check_selected_branches,
    reconcile_branches,
)
from mlaas4hep.samples.file_selection import FileSelection
from mlaas4hep.samples.readers import Origin, SampleReaders, origin_of


@dataclass(frozen=True)
class FileSurvey:
    """Properties of a file.

    Attributes:
        summary: its columns.
        num_entries: number of entries in the file.
        entries: number of events to read, before cuts.
        boundaries: first entries of its clusters, 0 and the number of entries included.
        sizes: memory that the columns take, by cluster.
        identity: identifier of the content of the file, without its friends.
        origin: see `Origin`.
        id_types: types of the columns that identify an event.
    """

    summary: FileSummary
    num_entries: int
    entries: int
    boundaries: Sequence[int]
    sizes: Sequence[ClusterSize]
    identity: str
    origin: Origin
    id_types: Mapping[str, np.dtype[Any]]

    @classmethod
    def of(cls, reader: DataReader) -> FileSurvey:
        """Return the survey of an open file."""
        types = {name: reader.available[name].dtype for name in reader.identifier}
        return cls(
            FileSummary.of(reader),
            reader.num_entries,
            reader.stop,
            reader.boundaries,
            reader.sizes,
            reader.identity,
            origin_of(reader),
            types,
        )


@dataclass(frozen=True)
class Survey:
    """Properties of all files of a sample.

    Attributes:
        files: properties of each file, in the order of the sample, without files that were left out.
        specs: specs of all files together.
        id_types: common type of each identifier column.
        indices: index of each file among those that the user gave.
        left_out: the files that cannot be read.
    """

    files: Sequence[FileSurvey]
    specs: Specs
    id_types: Mapping[str, np.dtype[Any]]
    indices: Sequence[int]
    left_out: Sequence[LeftOutFile] = ()

    @property
    def entries(self) -> list[int]:
        """Number of events to read of each file, before cuts."""
        return [file.entries for file in self.files]

    @property
    def origins(self) -> list[Origin]:
        """Origin of each file."""
        return [file.origin for file in self.files]

    @property
    def identifier(self) -> tuple[str, ...]:
        """Columns that identify an event; the same for all files."""
        return self.files[0].summary.identifier

    @property
    def extra(self) -> tuple[str, ...]:
        """Flat columns that are read in addition to the features; the same for all files."""
        return self.files[0].summary.extra

    def blocks(self, file: int, rows: int) -> list[tuple[int, int]]:
        """Return (start, stop) of the blocks in which to read a file, of about `rows` entries, or fewer large ones."""
        one = self.files[file]
        return split_into_blocks(one.boundaries, one.entries, rows, one.sizes)


def survey(
    readers: SampleReaders,
    workers: int,
    exclude: Sequence[str],
    verbose: bool,
    left_out: Mapping[str, str] | None = None,
) -> Survey:
    """Open every file, compare their columns, and make a first pass over all events unless the readers have specs.

    With on_error="skip", the readers forget the files that cannot be read. If files differ in their branches and
    `missing_branches` allows it, the readers use the same features for all of them from now on.

    Args:
        workers: number of files to read at the same time.
        exclude: patterns of branches to leave out, as the user gave them.
        verbose: whether an error or a notice lists all differences.
        left_out: reasons by name of the files that an earlier part of the run left out; they are left out again, and
            all others must be readable. None: this is a new run.

    Raises:
        FileUnreadable: a file cannot be read, or more of them than `max_bad` allows.
        SpecsMismatch, BranchNotFound: the files differ, or do not belong to the specs.
        ConfigError: two names refer to the same file.
    """
    selection = FileSelection(readers, left_out)
    files: list[FileSurvey] = []
    for one in selection.readable(FileSurvey.of, workers):
        files.append(replace(one, summary=one.summary.sharing(files[0].summary)) if files else one)
    check_different_files(readers.inputs, [one.identity for one in files])
    missing = _agree_on_branches(readers, [one.summary for one in files], exclude, verbose)
    if readers.specs is not None:
        with readers.borrow(0) as reader:
            specs = reader.specs
    else:
        opened = selection.indices
        first_pass = _first_pass if len(files) > 1 else lambda reader: reader.specs
        specs = replace(Specs.merge_all(selection.readable(first_pass, workers)), missing=missing)
        kept = set(selection.indices)
        files = [one for one, index in zip(files, opened, strict=True) if index in kept]
    return Survey(files, specs, common_types(files), selection.indices, selection.left_out)


def _first_pass(reader: DataReader) -> Specs:
    """Return the specs of one of several files.

    Raise FileUnreadable if all of its clusters are damaged.
    """
    specs = reader.specs
    if reader.skipped and not specs.files[0].entries_read:
        raise FileUnreadable(f"{reader.name}: {next(iter(reader.skipped.values()))}")
    return specs


def _agree_on_branches(
    readers: SampleReaders, summaries: Sequence[FileSummary], exclude: Sequence[str], verbose: bool
) -> tuple[str, ...]:
    """Check that the files have the same branches, or make the readers use the same ones.

    Returns:
        Names of the branches that some of the files lack.
    """
    options = readers.options
    if len(summaries) == 1:
        return ()
    branches = readers.specs.branches if readers.specs is not None else ()
    check_excluded_branches(summaries, options.exclude_branches, branches)
    if options.missing_branches == "error" or readers.specs is not None:
        check_same_branches(summaries, exclude, verbose)
        return ()
    check_selected_branches(summaries, [*options.selected_branches, *patterns_of(options.inputs)])
    features, missing = reconcile_branches(summaries, options.missing_branches, exclude, verbose)
    if missing:
        readers.change_options(all_features=features)
    return missing


def common_types(files: Sequence[FileSurvey]) -> dict[str, np.dtype[Any]]:
    """Return a type for each identifier that can hold its values in all files."""
    id_types: dict[str, np.dtype[Any]] = {}
    for one in files:
        for name, dtype in one.id_types.items():
            id_types[name] = _common_type(dtype, id_types.get(name, dtype))
    return id_types


def convert_identifier(values: np.ndarray, dtype: np.dtype[Any], name: str) -> np.ndarray:
    """Return the values of an identifier as the common type of all files; raise ConfigError if a value is too large."""
    if dtype.kind == "i" and values.dtype == np.uint64 and (values > np.iinfo(np.int64).max).any():
        raise ConfigError(
            f"identifier '{name}' is signed in one file, and too large for int64 in another",
            hint="use other branches as identifier, or convert the branch with --preproc",
        )
    return values.astype(dtype)


def _common_type(first: np.dtype[Any], second: np.dtype[Any]) -> np.dtype[Any]:
    """Return uint64; int64 if one type is signed; float64 if one is a float.

    `numpy.result_type` of uint64 and int64 is float64, which cannot hold all event numbers.
    """
    kinds = {first.kind, second.kind}
    return np.dtype(np.float64 if "f" in kinds else np.int64 if "i" in kinds else np.uint64)
