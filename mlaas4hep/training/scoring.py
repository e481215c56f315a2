"""Scores of a bundle for every event of some files, as a friend of the tree that they came from.

    for path, events in score_files("model", ["data.root"], "scores"):
        print(path)                     # scores/data.scores.root

Each file gets one of its own with the same events in the same order: its identifiers, its scores, and whether the event
passes the cuts of the bundle; where it does not, or could not be read, the scores are NaN. Of a bundle with folds, each
event is scored by the model that did not see it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from mlaas4hep import console
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, MLaaS4HEPError, SpecsMismatch, require, said
from mlaas4hep.files import check_replaceable, new_file
from mlaas4hep.input_files import check_is_file, read_json
from mlaas4hep.io.ahead import ahead
from mlaas4hep.io.location import expand, read_file_list
from mlaas4hep.io.replicas import Patience
from mlaas4hep.io.source import open_source
from mlaas4hep.reader import DataReader, ReadOptions, Specs
from mlaas4hep.reader.losses import losses
from mlaas4hep.reader.preproc import Preproc
from mlaas4hep.stream.split import fold_of, identity_hash

FORMATS = {"root": ".root", "rntuple": ".root", "parquet": ".parquet"}
"""What scores are written as, and how their files end."""

TREE = "scores"
PASSES = "passes_cuts"

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Scorer:
    """A bundle that is ready to score events.

    Attributes:
        names: of the scores, one for each output.
        folds: number of models of which each knows all events but one part; 0: there is one model.
    """

    path: Path
    training: Mapping[str, Any]
    specs: Specs
    preproc: Preproc | None
    sessions: Sequence[Any]
    names: tuple[str, ...]

    @classmethod
    def load(cls, bundle: str | os.PathLike[str], preproc: str | None = None) -> Scorer:
        """Read a bundle; nothing in it is run but its ONNX graphs and expressions.

        Args:
            preproc: the Python file that made its branches, which is run: your own, or that of the bundle.

        Raises:
            FileUnreadable, ConfigError: it is no bundle, or lacks something.
            PackageMissing: ONNX Runtime is not installed.
        """
        path = Path(bundle)
        if not path.is_dir():
            check_is_file(path, hint="--predict takes the folder of a bundle")
        training = read_json(path / "training.json")
        if not isinstance(training, dict) or "params" not in training:
            raise ConfigError(f"{path} is no bundle of a training", hint="--predict takes the folder of --fout")
        made = None
        if preproc:
            made = Preproc.load(preproc)
        elif (path / "preproc.json").exists():
            made = Preproc.from_json(read_json(path / "preproc.json"))
        elif (path / "preproc.py").exists():
            raise ConfigError(
                f"the branches of {path} are made by Python code, which is not run unasked",
                hint=f"read it, and give it: --preproc={path / 'preproc.py'}",
            )
        folds = training.get("folds", 0)
        graphs = [path / f"folds/{fold}/model.onnx" for fold in range(folds)] or [path / "model.onnx"]
        for graph in graphs:
            check_is_file(graph)
        sessions = [open_session(graph) for graph in graphs]
        specs = Specs.load(str(path / "specs.json"))
        return cls(path, training, specs, made, sessions, _names(training))

    @property
    def folds(self) -> int:
        """Number of models of which each knows all events but one part; 0: there is one."""
        return len(self.sessions) if self.training.get("folds", 0) else 0

    def open(self, file: str, params: Params) -> DataReader:
        """Open a file as the bundle's events were read; `params` say how to reach it.

        Raises:
            SpecsMismatch, BranchNotFound, FileUnreadable: it has not what the bundle needs.
        """
        known = Params.parse(self.training["params"], str(self.path / "training.json"))
        options = ReadOptions(
            branch=known.branch,
            identifier=self.training["identifier"],
            normalise="none",
            preproc=self.preproc,
            redirectors=params.redirector or known.redirector,
            workers=params.workers,
            patience=Patience(params.timeout, params.retries),
            on_error=params.on_error,
            inputs=known.inputs,
        )
        reader = DataReader.open(file, options, self.specs)
        if reader.columns != self.training["columns"]:
            reader.close()
            raise SpecsMismatch(f"the specs of {self.path} give other columns than its training.json")
        return reader

    def score(self, rows: np.ndarray, ids: Columns, entries: np.ndarray, identity: str) -> np.ndarray:
        """Return the scores of some events, float32 (events, outputs).

        Args:
            rows: float32 (events, columns), raw, NaN where there is no value.
            ids, entries, identity: what names the events and their file.
        """
        if not self.folds:
            return _run(self.sessions[0], rows)
        fold = fold_of(identity_hash(ids, entries, identity), self.folds)
        scores = np.empty((len(rows), len(self.names)), np.float32)
        for index, session in enumerate(self.sessions):
            mine = fold == index
            if mine.any():
                scores[mine] = _run(session, rows[mine])
        return scores


def score_files(
    bundle: str | os.PathLike[str],
    files: str | Sequence[str | os.PathLike[str]],
    fout: str | os.PathLike[str],
    kind: str = "root",
    params: Params | None = None,
    preproc: str | None = None,
) -> Iterator[tuple[Path, int, list[str]]]:
    """Score the events of files; yield, for each, what was written, its events, and in words what was lost.

    Args:
        files: as of `DataGenerator`.
        fout: folder for the scores.
        kind: one of FORMATS.
        params: how to reach files: redirector, timeout, retries, workers, on_error.
        preproc: see `Scorer.load`.

    Raises:
        ConfigError: two files would have scores of the same name, or a file of such a name exists and holds no scores.
        MLaaS4HEPError: the bundle, or a file, cannot be read, or does not belong to the other.
    """
    params = params or Params.parse({})
    if kind == "parquet":
        require("pyarrow.parquet", "formats", "Parquet")
    names = read_file_list(files) if isinstance(files, str) else expand(os.fspath(file) for file in files)
    if not names:
        raise ConfigError("there are no files to score")
    paths = [Path(fout, f"{_stem(name)}.scores{FORMATS[kind]}") for name in names]
    twice = {path for path in paths if paths.count(path) > 1}
    if twice:
        raise ConfigError(
            f"two files would have their scores in {min(twice)}", hint="score them into folders of their own"
        )
    for path in paths:
        check_replaceable(path, _holds_scores, "scores of MLaaS4HEP", "move it, or name another folder")
    scorer = Scorer.load(bundle, preproc)

    def look(name: str) -> None:
        with scorer.open(name, params) as reader:
            _types(scorer, reader)

    for _ in ahead(look, names, min(params.workers, len(names))):
        pass  # so that the last file does not fail when the others were written
    for name, path in zip(names, paths, strict=True):
        with scorer.open(name, params) as reader:
            events = _write(scorer, reader, path, kind)
            yield path, events, losses(reader.truncated, reader.skipped, scorer.specs)


def _write(scorer: Scorer, reader: DataReader, path: Path, kind: str) -> int:
    def block(span: tuple[int, int]) -> dict[str, np.ndarray]:
        return _score_block(scorer, reader, *span)

    writer = _parquet if kind == "parquet" else partial(_root, rntuple=kind == "rntuple")
    with (
        new_file(path) as temporary,
        writer(temporary, _types(scorer, reader)) as add,
        console.progress(f"scores of {path.name}", reader.num_entries) as bar,
    ):
        for columns in ahead(block, reader.blocks(), reader.options.workers):
            add(columns)
            bar.advance(len(columns[PASSES]))
    return reader.num_entries


def _score_block(scorer: Scorer, reader: DataReader, start: int, stop: int) -> dict[str, np.ndarray]:
    """Return the columns of all entries of a stretch, those that do not pass the cuts included."""
    chunk = reader.read_block(start, stop, raw=True)
    scores = np.full((stop - start, len(scorer.names)), np.nan, np.float32)
    passes = np.zeros(stop - start, bool)
    rows = chunk.entries - start
    passes[rows] = True
    scores[rows] = scorer.score(chunk.x, chunk.ids, chunk.entries, reader.identity)
    ids = reader.identifiers(start, stop)
    return {**ids, **dict(zip(scorer.names, scores.T, strict=True)), PASSES: passes}


def _types(scorer: Scorer, reader: DataReader) -> dict[str, np.dtype[Any]]:
    types = {name: values.dtype for name, values in reader.identifiers(0, 0).items()}
    clash = sorted({*scorer.names, PASSES} & set(types))
    if clash:
        raise ConfigError(f"an identifier is called '{clash[0]}', and so is a score")
    return {**types, **dict.fromkeys(scorer.names, np.dtype(np.float32)), PASSES: np.dtype(bool)}


def _holds_scores(path: Path) -> bool:
    """Return whether a file holds scores: a table or tree with the column that says which events pass the cuts."""
    try:
        with open_source(str(path), TREE) as source:
            return PASSES in source.columns
    except (MLaaS4HEPError, OSError):
        return False


@contextmanager
def _root(path: Path, types: Mapping[str, np.dtype[Any]], rntuple: bool) -> Iterator[Callable[[Columns], None]]:
    import uproot

    with uproot.recreate(path) as file:
        tree = file.mkrntuple(TREE, dict(types)) if rntuple else file.mktree(TREE, dict(types))
        yield lambda columns: tree.extend({name: np.ascontiguousarray(values) for name, values in columns.items()})


@contextmanager
def _parquet(path: Path, types: Mapping[str, np.dtype[Any]]) -> Iterator[Callable[[Columns], None]]:
    pyarrow, parquet = (require(name, "formats", "Parquet") for name in ("pyarrow", "pyarrow.parquet"))
    schema = pyarrow.schema([(name, pyarrow.from_numpy_dtype(dtype)) for name, dtype in types.items()])
    with parquet.ParquetWriter(path, schema) as writer:
        yield lambda columns: writer.write_table(pyarrow.table(dict(columns), schema=schema))


def open_session(path: Path) -> Any:
    """Return a bundle's graph, to be run by onnxruntime.

    Raises:
        ConfigError: it is not there, or damaged.
        PackageMissing: onnxruntime is not installed.
    """
    runtime = require("onnxruntime", "server", "scoring")
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent}", hint="name that of a trained model")
    if not path.exists():
        raise ConfigError(f"there is no {path}", hint="the bundle has no ONNX graph; train it anew")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised as well
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise ConfigError(f"onnxruntime cannot load {path}: {said(error)}", hint="train the model anew") from error


def _run(session: Any, rows: np.ndarray) -> np.ndarray:
    scores: np.ndarray = session.run(["scores"], {"inputs": rows})[0]
    return scores


def _names(training: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what the scores are called: score_CLASS, of two classes that of the second alone; or estimate_TARGET.

    What is no letter, digit or _ becomes _; a name that is taken by a class before gets _2, _3, ... behind it.
    """
    kind, classes = training.get("task", "classification"), training["classes"]
    if kind == "classification" and training["outputs"] == 1:
        classes = classes[1:]
    names: list[str] = []
    for text in classes:
        plain = f"{'estimate' if kind == 'regression' else 'score'}_{_plain(text)}"
        numbered = (f"{plain}_{number}" for number in count(2))
        names.append(next(name for name in chain([plain], numbered) if name not in names))
    return tuple(names)


def _plain(name: str) -> str:
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def _stem(name: str) -> str:
    return Path(name.partition("?")[0].rpartition("://")[2]).stem
