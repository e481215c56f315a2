"""Score all events of files with a bundle; the scores are a friend of the input tree.

    for path, events, messages in score_files("model", ["data.root"], "scores"):
        print(path)                     # scores/data.scores.root

There is one output file per input file, with the same events in the same order: their identifiers, their scores, and
whether they pass the cuts of the bundle. Scores are NaN for events that do not pass the cuts or cannot be read. With
folds, an event is scored by the model that was not trained on it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from mlaas4hep import console
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, MLaaS4HEPError, SpecsMismatch, error_text, require
from mlaas4hep.expressions.preproc import Preproc
from mlaas4hep.expressions.preproc_file import load_preproc, preproc_from_json
from mlaas4hep.files import check_replaceable, new_file
from mlaas4hep.input_files import check_is_file, read_json, read_text
from mlaas4hep.io.opening import open_source
from mlaas4hep.io.prefetch import map_ordered
from mlaas4hep.io.storage.location import output_stems
from mlaas4hep.protocol.params import EXPORT_ERROR
from mlaas4hep.reader import DataReader, ReadOptions, Specs
from mlaas4hep.reader.data_notices import dropped_data_notices
from mlaas4hep.reader.inputs import Inputs
from mlaas4hep.samples.bad_files import left_out_notices
from mlaas4hep.samples.file_selection import FileSelection
from mlaas4hep.samples.fileset import Files, Fileset
from mlaas4hep.samples.input_files import input_files
from mlaas4hep.samples.readers import SampleReaders
from mlaas4hep.samples.skipped_file import is_skipped_file, skipped_samples, write_skipped_file
from mlaas4hep.stream.split import fold_of, identity_hash
from mlaas4hep.training.bundle_description import BundleDescription, read_description
from mlaas4hep.training.framework_process import FrameworkProcess
from mlaas4hep.training.onnx_session import new_session

FORMATS = {"root": ".root", "rntuple": ".root", "parquet": ".parquet"}
"""Output formats, and the suffixes of their files."""

GRAPH = "model.onnx"
TREE = "scores"
PASSES = "passes_cuts"

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Scorer:
    """A bundle, loaded for scoring.

    Attributes:
        sessions: ONNX Runtime sessions, or objects with their interface: one, or one per fold.
        names: names of the scores, one per output.
        process: the process that runs a model without ONNX graph.
    """

    path: Path
    training: BundleDescription
    specs: Specs
    preproc: Preproc | None
    sessions: Sequence[Any]
    names: tuple[str, ...]
    process: FrameworkProcess | None = None

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str],
        preproc: str | None = None,
        model: str | None = None,
        threads: int = 0,
    ) -> Scorer:
        """Load a bundle. Only its ONNX graphs and expressions are run, no Python code that is not named here.

        Args:
            preproc: Python file with the preprocessing of the bundle, which is run.
            model: Python file with the model of a bundle that has no ONNX graph, which is run in a process of its own.
            threads: number of threads, see `Params`.

        Raises:
            FileUnreadable, ConfigError: the folder is not a bundle, or is incomplete.
            PackageMissing: ONNX Runtime is not installed.
        """
        path = Path(bundle)
        if not os.path.isdir(path):  # `Path.is_dir` raises an OSError for a name that is too long
            check_is_file(path, hint="--predict takes the folder of a bundle")
        training = read_description(path)
        loaded = None
        if preproc:
            loaded = load_preproc(preproc)
        elif (path / "preproc.json").exists():
            loaded = preproc_from_json(read_json(path / "preproc.json"))
        elif (path / "preproc.py").exists():
            raise ConfigError(
                f"the branches of {path} are computed by Python code, which is only run if --preproc names it",
                hint=f"read the code, then use --preproc={path / 'preproc.py'}",
            )
        folders = [path / f"folds/{fold}" for fold in range(training.folds)] or [path]
        specs = Specs.load(str(path / "specs.json"))
        if os.path.lexists(path / EXPORT_ERROR) and not any((folder / GRAPH).exists() for folder in folders):
            process = _start_framework(path, folders, training, specs, model)
            return cls(path, training, specs, loaded, process.sessions, _names(training), process)
        if model:
            raise ConfigError(f"{path} has an ONNX graph, so that --model has no effect", hint="leave it out")
        for folder in folders:
            check_is_file(folder / GRAPH)
        sessions = [open_session(folder / GRAPH, threads) for folder in folders]
        return cls(path, training, specs, loaded, sessions, _names(training))

    def close(self) -> None:
        """End the process of the model, if there is one."""
        if self.process is not None:
            self.process.close()

    def read_options(self, params: Params) -> ReadOptions:
        """Return the read options of the training; `params` define the access to the files.

        The friends in `params`, if any, replace those of the training, for files in other places.
        """
        trained_with = self.training.params
        options = {
            "branch": trained_with.branch,
            "friends": params.friends or trained_with.friends,
            "identifier": self.training.identifier,
            "inputs": trained_with.inputs,
            "nested": trained_with.nested,
            "normalise": "none",
            "preproc": self.preproc,
            "redirector": params.redirector or trained_with.redirector,
            **{name: getattr(params, name) for name in ("workers", "timeout", "retries", "on_error", "max_bad")},
        }
        return ReadOptions.parse(options)

    def check(self, reader: DataReader) -> None:
        """Check that the events of a file can be scored.

        Raises:
            SpecsMismatch: specs.json and training.json contradict each other.
            ConfigError: an identifier of the file has the name of a score.
        """
        if reader.columns != self.training.columns:
            raise SpecsMismatch(f"the columns of specs.json and training.json in {self.path} differ")
        _column_types(self, reader)

    @contextmanager
    def explain_missing_friends(self) -> Iterator[None]:
        """Set a hint if a file lacks branches of friends that it was not opened with."""
        try:
            yield
        except SpecsMismatch as error:
            alias = next((one for one in self.training.friend_features if f"{one}." in error.what), None)
            if alias is not None:
                error.hint = (
                    f"the model needs the friend '{alias}'; name it in 'friends' of --params, or in a samples file"
                )
            raise

    def score(self, rows: np.ndarray, ids: Arrays, entries: np.ndarray, identity: str) -> np.ndarray:
        """Return scores, float32 (events, outputs).

        Args:
            rows: unnormalised, float32 (events, columns), NaN for missing values.
            ids: identifier columns of the events.
            entries: entry numbers of the events.
            identity: identity of the file, see `DataReader.identity`.
        """
        if not self.training.folds:
            return self._run(self.sessions[0], rows)
        fold = fold_of(identity_hash(ids, entries, identity), self.training.folds)
        scores = np.empty((len(rows), len(self.names)), np.float32)
        for index, session in enumerate(self.sessions):
            held_out = fold == index
            if held_out.any():
                scores[held_out] = self._run(session, rows[held_out])
        return scores

    def _run(self, session: Any, rows: np.ndarray) -> np.ndarray:
        try:
            scores = np.asarray(session.run(["scores"], {"inputs": rows})[0])
        except Exception as error:  # the errors of onnxruntime have no common base class
            raise ConfigError(f"the model of {self.path} cannot score events: {error_text(error)}") from error
        if scores.shape != (len(rows), len(self.names)):
            raise ConfigError(
                f"the model of {self.path} returns scores of shape {scores.shape} for {len(rows)} events, but"
                f" training.json declares {len(self.names)} scores per event"
            )
        return scores


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
        params: access to the files: friends, redirector, timeout, retries, workers, on_error, max_bad; and threads.
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
        closing(SampleReaders(input_files(fileset, scorer.read_options(params)), scorer.specs)) as readers,
    ):
        readers.change_options(nevts=-1)
        selection = FileSelection(readers)
        with scorer.explain_missing_friends():
            for _ in selection.readable(scorer.check, params.workers):
                pass  # check all files before any output is written
        for index, number in enumerate(selection.indices):
            with readers.borrow(index) as reader:
                undefined = _write(scorer, reader, paths[number], kind, allow_nan)
                messages = dropped_data_notices(reader.truncated, reader.skipped, scorer.specs)
                yield paths[number], reader.num_entries, [*messages, *([undefined] if undefined else [])]
    write_skipped_file(skipped, skipped_samples(fileset, selection.left_out))
    for line in left_out_notices(selection.left_out):
        console.notice(line)


def _write(scorer: Scorer, reader: DataReader, path: Path, kind: str, allow_nan: bool) -> str:
    """Write the scores of a file; return a message about those that are not finite, "" if there are none.

    Raise ConfigError with this message, and write nothing, unless `allow_nan` is set.
    """
    writer = _parquet if kind == "parquet" else partial(_root, rntuple=kind == "rntuple")
    undefined = _UndefinedScores(reader)
    with (
        new_file(path) as temporary,
        writer(temporary, _column_types(scorer, reader)) as add,
        console.progress(f"scores of {path.name}", reader.num_entries) as bar,
    ):
        score = partial(_score_block, scorer, reader)
        for columns, entries in map_ordered(score, reader.blocks(), reader.options.workers):
            add(columns)
            undefined.add(columns, entries)
            bar.advance(len(columns[PASSES]))
        if undefined.count and not allow_nan:
            raise ConfigError(undefined.message, hint="--allow-nan writes them as they are")
    return undefined.message


def _score_block(scorer: Scorer, reader: DataReader, span: tuple[int, int]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the output columns of the entries start <= i < stop, including entries that do not pass the cuts.

    The second value has the entry numbers of the events whose scores are not finite.
    """
    start, stop = span
    scores = np.full((stop - start, len(scorer.names)), np.nan, np.float32)
    passes = np.zeros(stop - start, bool)
    for chunk in reader.read_pieces(start, stop, raw=True):
        rows = chunk.entries - start
        passes[rows] = True
        scores[rows] = scorer.score(chunk.x, chunk.ids, chunk.entries, reader.identity)
    undefined = start + np.flatnonzero(passes & ~np.isfinite(scores).all(axis=1))
    ids = reader.identifiers(start, stop)
    return {**ids, **dict(zip(scorer.names, scores.T, strict=True)), PASSES: passes}, undefined


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


def _column_types(scorer: Scorer, reader: DataReader) -> dict[str, np.dtype[Any]]:
    types = {name: values.dtype for name, values in reader.identifiers(0, 0).items()}
    clash = sorted({*scorer.names, PASSES} & set(types))
    if clash:
        what = f"'{clash[0]}' is the name of an identifier and of a score"
        raise ConfigError(what, hint="use other 'identifier' branches")
    return {**types, **dict.fromkeys(scorer.names, np.dtype(np.float32)), PASSES: np.dtype(bool)}


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


def _start_framework(
    path: Path, folders: Sequence[Path], training: BundleDescription, specs: Specs, model: str | None
) -> FrameworkProcess:
    """Start the process of the models of a bundle without ONNX graphs."""
    if not training.model:
        raise ConfigError(f"the model in {path} was not exported to ONNX, and cannot score events", hint=_reason(path))
    if not model:
        raise ConfigError(
            f"the model in {path} was not exported to ONNX, and needs its model file, which is only run if --model"
            " names it",
            hint=f"read the code, then use --model={path / 'model.py'}",
        )

    def inputs_of(of: Specs) -> Inputs:
        return Inputs.of(of, training.params.inputs, training.normalise)

    inputs = [inputs_of(Specs.load(str(folder / "specs.json"))) for folder in folders]
    return FrameworkProcess(folders, training, inputs, inputs_of(specs).layout, model)


def _reason(path: Path) -> str:
    """Return why a bundle has no ONNX graph."""
    return read_text(path / EXPORT_ERROR).strip()


def open_session(path: Path, threads: int = 0) -> Any:
    """Load an ONNX graph of a bundle; for `threads` see `Params`.

    Raises:
        ConfigError: the graph does not exist, or is damaged.
        PackageMissing: onnxruntime is not installed.
    """
    require("onnxruntime", "server", "scoring")
    if not path.parent.is_dir():
        raise ConfigError(f"folder {path.parent} does not exist", hint="use the folder of a trained model")
    if not path.exists():
        raise ConfigError(f"{path} does not exist", hint="the bundle has no ONNX graph; train the model again")
    try:
        return new_session(str(path), threads)
    except Exception as error:  # the errors of onnxruntime have no common base class
        what = f"onnxruntime cannot load {path}: {error_text(error)}"
        raise ConfigError(what, hint="train the model again") from error


def _names(training: BundleDescription) -> tuple[str, ...]:
    """Return the names of the scores: score_CLASS, for two classes only of the second; for regression estimate_TARGET.

    Characters other than letters, digits and _ are replaced by _. Duplicate names get a suffix _2, _3, ...
    """
    kind, classes = training.task, training.classes
    if kind == "classification" and training.outputs == 1:
        classes = classes[1:]
    names: list[str] = []
    for text in classes:
        letters = re.sub(r"\W", "_", text, flags=re.ASCII)
        plain = f"{'estimate' if kind == 'regression' else 'score'}_{letters}"
        numbered = (f"{plain}_{number}" for number in count(2))
        names.append(next(name for name in chain([plain], numbered) if name not in names))
    return tuple(names)
