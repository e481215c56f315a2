"""Score all events of files with a bundle; the scores are a friend of the input tree.

    for path, events, messages in score_files("model", ["data.root"], "scores"):
        print(path)                     # scores/data.scores.root

There is one output file per input file, with the same events in the same order: their identifiers and observers, their
scores, whether they pass the cuts of the bundle, and the set of the training to which they belonged. Scores are NaN for
events that do not pass the cuts or cannot be read. With folds, an event is scored by the model that was not trained on
it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from mlaas4hep import console
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, MLaaS4HEPError, error_context, require
from mlaas4hep.expressions.expression import Expression
from mlaas4hep.files import check_replaceable, new_file
from mlaas4hep.io.opening import open_source
from mlaas4hep.io.prefetch import map_ordered
from mlaas4hep.io.storage.location import output_stems
from mlaas4hep.reader import DataReader
from mlaas4hep.reader.data_notices import dropped_data_notices
from mlaas4hep.samples.bad_files import left_out_notices
from mlaas4hep.samples.file_selection import FileSelection
from mlaas4hep.samples.fileset import Files, Fileset
from mlaas4hep.samples.input_files import input_files
from mlaas4hep.samples.readers import SampleReaders
from mlaas4hep.samples.skipped_file import is_skipped_file, skipped_samples, write_skipped_file
from mlaas4hep.score_columns import PART, PASSES
from mlaas4hep.scoring.scorer import Scorer, plain_names
from mlaas4hep.scoring.training_parts import UNSEEN
from mlaas4hep.stream.copied_columns import copied_types, copied_values
from mlaas4hep.training.bundle_description import TrainingFile

FORMATS = {"root": ".root", "rntuple": ".root", "parquet": ".parquet"}
"""Output formats, and the suffixes of their files."""

TREE = "scores"

Arrays = Mapping[str, np.ndarray]


def score_files(
    bundle: str | os.PathLike[str],
    files: Files,
    fout: str | os.PathLike[str],
    kind: str = "root",
    params: Params | None = None,
    preproc: str | None = None,
    allow_nan: bool = False,
    model: str | None = None,
) -> Iterator[tuple[Path, int, list[str]]]:
    """Score the events of files.

    Args:
        files: see `DataGenerator`.
        fout: folder of the output files.
        kind: output format, one of FORMATS.
        params: access to the files: friends, redirector, timeout, retries, workers, on_error, max_bad, threads; and
            the observers, if they are not those of the training.
        preproc, model: see `Scorer.load`.
        allow_nan: write scores that are not finite, too.

    Trees, cuts and friends of a samples file apply; `nevts` does not. With on_error="skip", files that cannot be read
    are left out, and skipped.json in `fout` lists them.

    Yields:
        For each file the path of the output, its number of events, and messages about events that could not be read.

    Raises:
        ConfigError: two files would have the same output file; an output file exists and does not contain scores; or
            scores are not finite, in which case the output file is not written.
        MLaaS4HEPError: the bundle or a file cannot be read, or they do not match.
    """
    params = params or Params.parse({})
    if kind == "parquet":
        require("pyarrow.parquet", "formats", "Parquet")
    fileset = Fileset.of(files)
    named = zip(fileset.files, fileset.trees, strict=True)
    stems = output_stems([f"{name}:{tree}" if tree else name for name, tree in named])
    paths = [Path(fout, f"{stem}.scores{FORMATS[kind]}") for stem in stems]
    duplicates = {path for path in paths if paths.count(path) > 1}
    if duplicates:
        raise ConfigError(
            f"the scores of two files would be written to {min(duplicates)}",
            hint="name each file once; score different files of the same name separately, with different --fout",
        )
    for path in paths:
        check_replaceable(path, _contains_scores, "scores of MLaaS4HEP", "move it, or choose another folder")
    skipped = Path(fout, "skipped.json")
    check_replaceable(skipped, is_skipped_file, "files that were left out", "move it, or choose another folder")
    with (
        closing(Scorer.load(bundle, preproc, model, params.threads)) as scorer,
        closing(_readers(scorer, fileset, params)) as readers,
    ):
        selection, observers = FileSelection(readers), tuple(scorer.observers(params))

        def check(reader: DataReader) -> tuple[str, Sequence[str]]:
            scorer.check(reader)
            _ScoredFile(scorer, reader, observers, None).types  # noqa: B018  raises errors
            return reader.identity, reader.identifier

        with scorer.explain_missing_friends():  # check all files before any output is written
            checked = list(selection.readable(check, params.workers))
        origins = [scorer.parts.find(*one, file.sample) for one, file in zip(checked, readers.inputs, strict=True)]
        if scorer.parts.derived.names:
            seen = [index for index, origin in enumerate(origins) if origin is not None]
            others = {*_other_columns(scorer, fileset, params), *scorer.parts.derived.names}
            readers.change_options(seen, preproc=scorer.preproc_for(*others))
        for index, number in enumerate(selection.indices):
            with readers.borrow(index) as reader:
                undefined = _write(
                    _ScoredFile(scorer, reader, observers, origins[index]), paths[number], kind, allow_nan
                )
                messages = dropped_data_notices(reader.truncated, reader.skipped, scorer.specs)
                yield paths[number], reader.num_entries, [*messages, *([undefined] if undefined else [])]
    write_skipped_file(skipped, skipped_samples(fileset, selection.left_out))
    for line in left_out_notices(selection.left_out):
        console.notice(line)


def _other_columns(scorer: Scorer, fileset: Fileset, params: Params) -> set[str]:
    """Return the columns to read in addition to those of the model: observers, and columns in cuts of samples."""
    cuts = (Expression.parse(sample.cut).names for sample in fileset.samples if sample.cut)
    return {*scorer.observers(params)}.union(*cuts)


def _readers(scorer: Scorer, fileset: Fileset, params: Params) -> SampleReaders:
    """Return readers of all events of the files."""
    options = scorer.read_options(params, _other_columns(scorer, fileset, params))
    readers = SampleReaders(input_files(fileset, options), scorer.specs)
    readers.change_options(nevts=-1)
    return readers


@dataclass(frozen=True)
class _ScoredFile:
    """A file to score.

    Attributes:
        observers: branches that are copied to the output file.
        origin: the same file in the training, see `TrainingParts.find`; None: its events are unseen.
    """

    scorer: Scorer
    reader: DataReader
    observers: Sequence[str]
    origin: TrainingFile | None

    @cached_property
    def types(self) -> dict[str, np.dtype[Any]]:
        """The types of the output columns, by name.

        Raises:
            BranchNotFound: an observer is not in the file.
            ConfigError: an observer does not have one number per event, or two columns have the same name.
        """
        types = {name: values.dtype for name, values in self.reader.identifiers(0, 0).items()}
        with error_context("'observers' of the params"):
            observed = copied_types(self.reader, self._copied)
        types |= {self._names[name]: _writable(dtype) for name, dtype in observed.items()}
        own = {**dict.fromkeys(self.scorer.names, np.dtype(np.float32)), PASSES: np.dtype(bool)}
        if self.scorer.parts.known:
            own[PART] = np.dtype(np.int8)
        clash = sorted(own.keys() & types.keys())
        if clash:
            what = f"'{clash[0]}' is the name both of an identifier or observer and of a column that --predict adds"
            raise ConfigError(what, hint="use other 'identifier' branches or 'observers', or define a new name")
        return {**types, **own}

    @cached_property
    def _copied(self) -> list[str]:
        """The observers that are not written as identifiers."""
        written = self.reader.identifiers(0, 0)
        return [name for name in dict.fromkeys(self.observers) if name not in written]

    @property
    def _names(self) -> dict[str, str]:
        """Names of the output columns of the observers."""
        return dict(zip(self._copied, plain_names(self._copied), strict=True))

    def score(self, span: tuple[int, int]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return the output columns of the entries start <= i < stop, including entries that do not pass the cuts.

        The second value has the entry numbers of the events whose scores are not finite.
        """
        (start, stop), reader, scorer = span, self.reader, self.scorer
        scores = np.full((stop - start, len(scorer.names)), np.nan, np.float32)
        passes = np.zeros(stop - start, bool)
        for chunk in reader.read_pieces(start, stop, raw=True):
            rows = chunk.entries - start
            passes[rows] = True
            scores[rows] = scorer.score(chunk.x, chunk.ids, chunk.entries, reader.identity)
        undefined = start + np.flatnonzero(passes & ~np.isfinite(scores).all(axis=1))
        columns = reader.identifiers(start, stop)
        for name, values in copied_values(reader, self._copied, start, stop).items():
            columns[self._names[name]] = values.astype(_writable(values.dtype))
        columns |= {**dict(zip(scorer.names, scores.T, strict=True)), PASSES: passes}
        if scorer.parts.known:
            columns[PART] = self._parts(start, stop)
        return columns, undefined

    def _parts(self, start: int, stop: int) -> np.ndarray:
        """Return the part of the training of each entry, UNSEEN for those that do not pass the cuts."""
        parts, reader, rule = np.full(stop - start, UNSEEN, np.int8), self.reader, self.scorer.parts
        if self.origin is not None:
            names = [*reader.identifier, *rule.derived.names] or reader.features[:1]
            values, entries = reader.read_columns(start, stop, names)
            ids = {name: np.asarray(values[name]) for name in reader.identifier}
            derived = rule.derived.evaluate(values, len(entries))
            parts[entries - start] = rule.of(self.origin, ids, entries, derived, reader.identity)
        return parts


def _writable(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type in which a column is written; TTrees do not support 16-bit floating-point numbers."""
    return np.dtype(np.float32) if dtype == np.float16 else dtype


def _write(file: _ScoredFile, path: Path, kind: str, allow_nan: bool) -> str:
    """Write the scores of a file; return a message about those that are not finite, "" if there are none.

    Raise ConfigError with this message, and write nothing, unless `allow_nan` is set.
    """
    writer = _parquet if kind == "parquet" else partial(_root, rntuple=kind == "rntuple")
    reader = file.reader
    undefined = _UndefinedScores(reader)
    with (
        new_file(path) as temporary,
        writer(temporary, file.types) as add,
        console.progress(f"scores of {path.name}", reader.num_entries) as bar,
    ):
        for columns, entries in map_ordered(file.score, reader.blocks(), reader.options.workers):
            add(columns)
            undefined.add(columns, entries)
            bar.advance(len(columns[PASSES]))
        if undefined.count and not allow_nan:
            raise ConfigError(undefined.message, hint="--allow-nan writes them as they are")
    return undefined.message


class _UndefinedScores:
    """Counts the events of a file that pass the cuts, and whose scores are not finite."""

    def __init__(self, reader: DataReader) -> None:
        self._reader = reader
        self._total = self.count = 0
        self._first = -1

    def add(self, columns: Arrays, entries: np.ndarray) -> None:
        """Add a block, given the entry numbers of the events whose scores are not finite."""
        self._total += int(columns[PASSES].sum())
        if len(entries) and not self.count:
            self._first = int(entries[0])
        self.count += len(entries)

    @property
    def message(self) -> str:
        """The number of these events and the first one; "" if there are none."""
        if not self.count:
            return ""
        ids = self._reader.identifiers(self._first, self._first + 1)
        identity = ", ".join(f"{name} {values[0]}" for name, values in ids.items())
        return (
            f"the scores of {self.count} of {self._total} events of {self._reader.name} are not finite; the first is"
            f" entry {self._first}" + (f" ({identity})" if identity else "")
        )


def _contains_scores(path: Path) -> bool:
    """Return whether a file has a tree or table with the column PASSES."""
    try:
        with open_source(str(path), TREE) as source:
            return PASSES in source.columns
    except (MLaaS4HEPError, OSError):
        return False


@contextmanager
def _root(path: Path, types: Mapping[str, np.dtype[Any]], rntuple: bool) -> Iterator[Callable[[Arrays], None]]:
    import uproot

    with uproot.recreate(path) as file:
        tree = file.mkrntuple(TREE, dict(types)) if rntuple else file.mktree(TREE, dict(types))
        yield lambda columns: tree.extend({name: np.ascontiguousarray(values) for name, values in columns.items()})


@contextmanager
def _parquet(path: Path, types: Mapping[str, np.dtype[Any]]) -> Iterator[Callable[[Arrays], None]]:
    pyarrow, parquet = (require(name, "formats", "Parquet") for name in ("pyarrow", "pyarrow.parquet"))
    schema = pyarrow.schema([(name, pyarrow.from_numpy_dtype(dtype)) for name, dtype in types.items()])
    with parquet.ParquetWriter(path, schema) as writer:
        yield lambda columns: writer.write_table(pyarrow.table(dict(columns), schema=schema))
