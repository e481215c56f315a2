"""Count the events that occur more than once in files, and say where.

    found = find_duplicates(Fileset.of("a.root,b.root"), FilesParams())
    found.events, found.distinct, found.pairs[0].shared

Two events are the same if all of their identifiers are equal (`run`, `luminosityBlock`, `event`, or the option
`identifier`); the values themselves are compared. The memory does not depend on the number of events, see `Partitions`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlaas4hep import console
from mlaas4hep.comma_lists import list_setting
from mlaas4hep.config import IDENTIFIER, FilesParams
from mlaas4hep.duplicates.pairs import Pair, merge_pairs, pairs_of, repeated
from mlaas4hep.duplicates.partitions import Partitions
from mlaas4hep.duplicates.records import make_records, place_of
from mlaas4hep.errors import BranchNotFound, ConfigError, SpecsMismatch
from mlaas4hep.expressions.preproc import Preproc
from mlaas4hep.io.prefetch import map_ordered
from mlaas4hep.io.storage.location import is_url
from mlaas4hep.reader import DataReader, ReadOptions
from mlaas4hep.reader.data_notices import skipped_notices
from mlaas4hep.samples.bad_files import left_out_notices
from mlaas4hep.samples.consistency import check_same_branches
from mlaas4hep.samples.file_selection import FileSelection
from mlaas4hep.samples.fileset import Fileset
from mlaas4hep.samples.input_files import input_files
from mlaas4hep.samples.readers import SampleReaders
from mlaas4hep.samples.survey import FileSurvey, common_types, convert_identifier

MEMORY = 500_000_000
"""Bytes that records of events may take."""

_BLOCK_ROWS = 200_000
"""Number of entries to read at a time; identifiers are few and small columns."""

_OPTIONS = ("branch", "friends", "identifier", "nevts", "redirector", "timeout", "retries", "on_error", "max_bad")
"""The parameters of reading that are used; all others are about features."""


@dataclass(frozen=True)
class SharedEvents:
    """Events that two files have in common, or that occur more than once in one file.

    Attributes:
        files: names of both files.
        is_within_file: whether both are the same file, in which the events occur more than once.
        shared: number of distinct events.
        example: identifiers of the first of these events.
        entries: entry number of this event in each file, or of its first two copies in one file.
    """

    files: tuple[str, str]
    is_within_file: bool
    shared: int
    example: Mapping[str, int | float]
    entries: tuple[int, int]


@dataclass(frozen=True)
class Duplicates:
    """The result of a search.

    Attributes:
        files: names of the files.
        identifier: branches that identify an event.
        events: number of events that pass the cuts.
        distinct: number of distinct events.
        repeated: number of distinct events that occur more than once.
        pairs: pairs of files with common events, sorted by their number, the largest first.
        notices: messages about files and clusters that cannot be read and were skipped.
    """

    files: Sequence[str]
    identifier: Sequence[str]
    events: int
    distinct: int
    repeated: int
    pairs: Sequence[SharedEvents]
    notices: Sequence[str]


def find_duplicates(
    fileset: Fileset, params: FilesParams, preproc: Preproc | None = None, memory: int = MEMORY
) -> Duplicates:
    """Read the identifiers of all events, and find the events that occur more than once.

    Args:
        fileset: the files; cuts of samples apply.
        params: how to read; features do not matter.
        preproc: new branches and cuts.
        memory: bytes that records of events may take, in addition to the blocks that are read. The result needs memory,
            too: about 100 bytes per pair of files with common events.

    Raises:
        BranchNotFound: a file has no identifiers.
        SpecsMismatch: files have different identifiers.
        ConfigError: an identifier is NaN or infinite.
        FileUnreadable: a file cannot be read, or the temporary file cannot be written.
    """
    options = ReadOptions.parse(
        {name: getattr(params, name) for name in _OPTIONS}
        | {"preproc": preproc, "exclude_branches": ["*"], "exclude_missing": True, "require_features": False}
    )
    readers = SampleReaders(input_files(fileset, options))
    try:
        return _search(readers, params.workers, memory)
    finally:
        readers.close()


def _search(readers: SampleReaders, workers: int, memory: int) -> Duplicates:
    selection = FileSelection(readers)
    surveys = list(selection.readable(_survey, workers))
    check_same_branches([one.summary for one in surveys])
    readers.origins = [one.origin for one in surveys]
    types = common_types(surveys)
    _check_types(surveys)
    expected = sum(one.entries for one in surveys)
    names = [str(file) for file in readers.inputs]
    events = distinct = repeats = 0
    pairs = np.empty((0, Pair.width + len(types)), np.uint64)
    with Partitions(expected, len(types) + 1, memory) as partitions:
        with console.progress("reading identifiers", expected) as bar:
            for records, entries in _records(readers, types, workers):
                partitions.add(records)
                events += len(records)
                bar.advance(entries)
        with console.progress("comparing", len(partitions), "parts") as bar:
            for partition in partitions:
                rows, event, number = repeated(partition)
                distinct += number
                repeats += int(event[-1]) + 1 if len(event) else 0
                for some in pairs_of(rows, event):
                    pairs = merge_pairs([pairs, some])
                bar.advance(1)
    shared = [_shared_events(pair, names, types) for pair in _largest_first(pairs).tolist()]
    notices = [*left_out_notices(selection.left_out), *skipped_notices(readers.skipped)]
    return Duplicates(names, list(types), events, distinct, repeats, shared, notices)


def _survey(reader: DataReader) -> FileSurvey:
    is_default = tuple(reader.options.identifier) == IDENTIFIER
    if not reader.identifier or (is_default and IDENTIFIER[-1] not in reader.identifier):
        raise BranchNotFound(
            f"tree '{reader.options.branch}' of {reader.location} has no branch that identifies an event, such as"
            f" '{IDENTIFIER[-1]}'",
            hint="give the branches that do: " + list_setting("identifier", "identifier", ["run", "event_number"]),
        )
    return FileSurvey.of(reader)


def _check_types(surveys: Sequence[FileSurvey]) -> None:
    """Raise SpecsMismatch if an identifier is an integer in one file and a floating-point number in another."""
    first = surveys[0]
    for one in surveys:
        for name, dtype in one.id_types.items():
            if (dtype.kind == "f") != (first.id_types[name].kind == "f"):
                raise SpecsMismatch(
                    f"identifier '{name}' is {dtype} in {one.summary.file}, but {first.id_types[name]} in"
                    f" {first.summary.file}",
                    hint="check the files separately, or convert the branch with --preproc",
                )


def _records(
    readers: SampleReaders, types: Mapping[str, np.dtype[Any]], workers: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the records of each block of each file, and its number of entries before cuts."""
    for file in range(len(readers.inputs)):
        with readers.borrow(file) as reader:

            def load(block: tuple[int, int], file: int = file, reader: DataReader = reader) -> tuple[np.ndarray, int]:
                chunk = reader.read_block(*block, features=False)
                identifiers = [convert_identifier(chunk.ids[name], dtype, name) for name, dtype in types.items()]
                _check_finite(dict(zip(types, identifiers, strict=True)), chunk.entries, reader.name)
                return make_records(identifiers, file, chunk.entries), block[1] - block[0]

            threads = workers + is_url(reader.location)  # one more thread waits for the server
            yield from map_ordered(load, reader.blocks(_BLOCK_ROWS), threads)


def _check_finite(identifiers: Mapping[str, np.ndarray], entries: np.ndarray, file: str) -> None:
    for name, values in identifiers.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            index = int(np.argmin(np.isfinite(values)))
            raise ConfigError(
                f"identifier '{name}' is {values[index]} for entry {entries[index]} of {file}",
                hint="remove such events with a cut (--preproc), or use other branches (--identifier)",
            )


def _largest_first(pairs: np.ndarray) -> np.ndarray:
    return pairs[np.lexsort([pairs[:, Pair.other], pairs[:, Pair.file], ~pairs[:, Pair.shared]])]


def _shared_events(pair: list[int], names: Sequence[str], types: Mapping[str, np.dtype[Any]]) -> SharedEvents:
    places = [place_of(pair[column]) for column in (Pair.place, Pair.other_place)]
    example = {
        name: np.array(bits, np.uint64).view(dtype).item()
        for (name, dtype), bits in zip(types.items(), pair[Pair.width :], strict=True)
    }
    (file, entry), (other, other_entry) = places
    return SharedEvents((names[file], names[other]), file == other, pair[Pair.shared], example, (entry, other_entry))
