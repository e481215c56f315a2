"""Run the models of a bundle with their framework, in a process of its own. Models without an ONNX graph need it.

    process = FrameworkProcess(bundle, training, inputs, rows.layout, "model/model.py")
    process.sessions[0].run(["scores"], {"inputs": rows})       # like an ONNX Runtime session
    process.close()

The process runs the model file, which is Python code, and loads the weights of the bundle without unpickling anything.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlaas4hep.backends.make import make_backend
from mlaas4hep.backends.model_file import load_model_file
from mlaas4hep.backends.protocol import NativeBackend, Shapes
from mlaas4hep.backends.task import Task
from mlaas4hep.closeable import Closeable
from mlaas4hep.errors import ConfigError, MLaaS4HEPError, error_summary, require
from mlaas4hep.reader import VectorLayout
from mlaas4hep.reader.inputs import Inputs
from mlaas4hep.training.bundle_description import BundleDescription
from mlaas4hep.training.onnx_session import new_session

Arrays = dict[str, np.ndarray]


class _Model(NamedTuple):
    """What the process needs to load the model of a fold."""

    folder: Path
    file: str
    shapes: Shapes
    training: BundleDescription


class FrameworkProcess(Closeable):
    """A process with the models of a bundle; see the module's docstring.

    Attributes:
        sessions: one object per fold, or one, with the method `run` of an ONNX Runtime session.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        training: BundleDescription,
        inputs: Sequence[Inputs],
        layout: VectorLayout,
        file: str,
    ) -> None:
        """Start the process and load the models.

        Args:
            folders: folder of the model of each fold, or of the only model.
            inputs: inputs of each of these models.
            layout: layout of the rows of unnormalised values.
            file: path of the model file, which is run.

        Raises:
            MLaaS4HEPError: the model file fails, or does not fit the bundle.
        """
        models = [_Model(folder, file, one.shapes, training) for folder, one in zip(folders, inputs, strict=True)]
        context = multiprocessing.get_context("spawn")
        self._lock = threading.Lock()
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, models), daemon=True)
        self._process.start()
        other.close()
        try:
            takes = self._receive()
            self.sessions = [FrameworkSession(self, fold, one, takes, layout) for fold, one in enumerate(inputs)]
        except BaseException:
            self.close()
            raise

    def predict(self, fold: int, inputs: Arrays) -> np.ndarray:
        """Return the scores of a model, float32 (events, outputs); can be called by several threads.

        Raises:
            ConfigError: the model fails, or the process has ended.
        """
        with self._lock:
            self._connection.send((fold, inputs))
            return np.asarray(self._receive())

    def _receive(self) -> Any:
        try:
            answer = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join()
            raise ConfigError(
                f"the process of the model ended with exit code {self._process.exitcode}",
                hint="it may have run out of memory",
            ) from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.terminate()
        self._process.join()


class FrameworkSession:
    """Scores raw events with the model of a fold; it has the interface of an ONNX Runtime session."""

    def __init__(
        self, process: FrameworkProcess, fold: int, inputs: Inputs, takes: Sequence[str], layout: VectorLayout
    ) -> None:
        require("onnxruntime", "server", "scoring")
        require("onnx", "torch", "scoring")
        from mlaas4hep.training.onnx_graph import input_graph

        graph = input_graph(inputs, takes, layout).SerializeToString()
        self._inputs = new_session(graph)
        self._process, self._fold, self._takes = process, fold, takes

    def run(self, outputs: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the scores of rows of unnormalised values, as a list of one array."""
        arrays = self._inputs.run(list(self._takes), dict(feed))
        return [self._process.predict(self._fold, dict(zip(self._takes, arrays, strict=True)))]


def _serve(connection: Connection, models: Sequence[_Model]) -> None:
    """Load the models, and send the scores for all inputs that are received; entry point of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process ends this one
    try:
        backends = [_load(model) for model in models]
        connection.send(backends[0].takes)
    except Exception as error:
        connection.send(_printable(error))
        return
    while True:
        try:
            fold, inputs = connection.recv()
        except EOFError:
            return
        try:
            connection.send(backends[fold].predict(inputs))
        except Exception as error:
            connection.send(_printable(error))


def _load(model: _Model) -> NativeBackend:
    training = model.training
    task = Task(training.task, tuple(training.classes), tuple(training.target_centre), tuple(training.target_spread))
    backend = make_backend(load_model_file(model.file, training.model_function), model.shapes, task, training.params)
    if not isinstance(backend, NativeBackend) or backend.native_file != training.model:
        raise ConfigError(
            f"the model of {model.file} is not that of {model.folder}", hint="use the model.py of the bundle"
        )
    try:
        backend.load(model.folder)
    except Exception as error:  # frameworks raise errors of different types
        raise ConfigError(
            f"the model of {model.file} does not fit {model.folder / training.model}: {error_summary(error)}",
            hint="use the model.py of the bundle",
        ) from error
    return backend


def _printable(error: Exception) -> MLaaS4HEPError:
    """Return an error that can be sent to the other process."""
    if isinstance(error, MLaaS4HEPError):
        return error
    return ConfigError(f"the model fails: {error_summary(error)}")
