"""A bundle that is loaded to score events.

    with closing(Scorer.load("model")) as scorer:
        scorer.score(rows, ids, entries, identity)          # float32 (events, outputs)

It reads what the model needs, no more: branches that only labels, weights, training-only cuts and training-only inputs
use may be missing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, SpecsMismatch, error_text
from mlaas4hep.expressions.preproc import Preproc
from mlaas4hep.expressions.preproc_file import load_preproc, preproc_from_json
from mlaas4hep.input_files import check_is_file, read_json, read_text
from mlaas4hep.protocol.params import EXPORT_ERROR
from mlaas4hep.reader import DataReader, ReadOptions, Specs
from mlaas4hep.reader.inputs import Inputs
from mlaas4hep.scoring.training_parts import TrainingParts
from mlaas4hep.stream.split import fold_of, identity_hash
from mlaas4hep.training.bundle_description import BundleDescription, read_description
from mlaas4hep.training.framework_process import FrameworkProcess
from mlaas4hep.training.onnx_session import open_session

GRAPH = "model.onnx"

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
            raise ConfigError(f"{path} has an ONNX graph, so --model has no effect", hint="leave it out")
        for folder in folders:
            check_is_file(folder / GRAPH)
        sessions = [open_session(folder / GRAPH, threads) for folder in folders]
        return cls(path, training, specs, loaded, sessions, _names(training))

    def close(self) -> None:
        """End the process of the model, if there is one."""
        if self.process is not None:
            self.process.close()

    def preproc_for(self, *others: str) -> Preproc | None:
        """Return the preprocessing that scoring needs, given the columns to read in addition to those of the model."""
        if self.preproc is None:
            return None
        used = Inputs.of(self.specs, self.training.model_inputs, "none").branches
        return self.preproc.for_prediction({*used, *self.training.identifier, *others})

    def observers(self, params: Params) -> list[str]:
        """Return the observers in `params` or, if they are not set, those of the training."""
        return params.observers if "observers" in params.model_fields_set else self.training.params.observers

    def read_options(self, params: Params, others: Collection[str] = ()) -> ReadOptions:
        """Return the read options of the training; `params` define the access to the files.

        The friends in `params`, if any, replace those of the training, for files in other places.

        Args:
            others: columns to read in addition to those of the model.
        """
        trained_with = self.training.params
        options = {
            "branch": trained_with.branch,
            "friends": params.friends or trained_with.friends,
            "identifier": self.training.identifier,
            "inputs": self.training.model_inputs,
            "nested": trained_with.nested,
            "normalise": "none",
            "preproc": self.preproc_for(*others),
            "redirector": params.redirector or trained_with.redirector,
            **{name: getattr(params, name) for name in ("workers", "timeout", "retries", "on_error", "max_bad")},
        }
        return ReadOptions.parse(options)

    def check(self, reader: DataReader) -> None:
        """Check that the events of a file can be scored.

        Raises:
            SpecsMismatch: specs.json and training.json contradict each other.
        """
        if reader.columns != self.training.columns:
            raise SpecsMismatch(f"the columns of specs.json and training.json in {self.path} differ")

    @cached_property
    def parts(self) -> TrainingParts:
        """Assigns events to the sets of the training."""
        return TrainingParts(self.training)

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
        return Inputs.of(of, training.model_inputs, training.normalise)

    inputs = [inputs_of(Specs.load(str(folder / "specs.json"))) for folder in folders]
    return FrameworkProcess(folders, training, inputs, inputs_of(specs).layout, model)


def _reason(path: Path) -> str:
    """Return why a bundle has no ONNX graph."""
    return read_text(path / EXPORT_ERROR).strip()


def _names(training: BundleDescription) -> tuple[str, ...]:
    """Return the names of the scores: score_CLASS, for two classes only of the second; for regression estimate_TARGET.

    See `plain_names`.
    """
    kind, classes = training.task, training.classes
    if kind == "classification" and training.outputs == 1:
        classes = classes[1:]
    return plain_names([f"{'estimate' if kind == 'regression' else 'score'}_{text}" for text in classes])


def plain_names(texts: Sequence[str]) -> tuple[str, ...]:
    """Return names of output columns.

    Characters other than letters, digits and _ are replaced by _. Duplicate names get a suffix _2, _3, ...
    """
    names: list[str] = []
    for text in texts:
        plain = re.sub(r"\W", "_", text, flags=re.ASCII)
        numbered = (f"{plain}_{number}" for number in count(2))
        names.append(next(name for name in chain([plain], numbered) if name not in names))
    return tuple(names)
