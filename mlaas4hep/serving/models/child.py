"""The code of a model process; only `process` starts it.

    python -m mlaas4hep.serving.models.child 5 onnx                 # 5 is the descriptor of a socket
    python -m mlaas4hep.serving.models.child 5 onnx background      # with a lower priority

The process imports the model's framework, sends a ready frame, and limits its own memory. The first frame that it
receives names the model to load; the answer describes the model's input and output. Each further frame either has an
array of rows, and the answer contains their scores, or it requests a trial run. Errors are sent as answers, including
the framework's own message for the server's log.
"""

from __future__ import annotations

import importlib
import os
import resource
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mlaas4hep.errors import ConfigError, MLaaS4HEPError, PackageMissing, error_summary
from mlaas4hep.protocol.limits import Limits, format_size
from mlaas4hep.serving.frameworks.keras_archive import checked_archive
from mlaas4hep.serving.models import frames
from mlaas4hep.serving.models.onnx_bounds import find_bounds
from mlaas4hep.serving.models.onnx_model import OnnxModel, columns_of, is_about_memory
from mlaas4hep.serving.models.request_preprocessing import read_preprocessing
from mlaas4hep.serving.models.row_independence import rows_are_independent, trial_rows
from mlaas4hep.serving.models.tensor import Array, Layout, Tensor, shown

IMPORTS = {
    "onnx": ("onnxruntime", "onnx"),
    "keras": ("keras",),
    "keras_archive": ("h5py",),
    "saved_model": ("tensorflow",),
    "frozen_graph": ("tensorflow",),
}
"""Packages to import before the limits are set, by kind of model."""

_SKIPPED = {"keras": ["sklearn"], "saved_model": ["sklearn", "keras"], "frozen_graph": ["sklearn", "keras"]}
"""Optional imports of TensorFlow that no model needs; skipping them almost halves the startup time."""

_NICENESS = 5  # about a third of the server's CPU time when both compete for a core
_QUICK = 2.0  # seconds of CPU time that a graph with bounds may take to load, and for the largest batch


class FrameworkModel(Protocol):
    """A model as its framework runs it."""

    layout: Layout
    output: Tensor
    takes_one_row: bool

    def run(self, batch: Array) -> Any:
        """Return the output for a batch in the layout of the model."""


def main(argv: Sequence[str] | None = None) -> int:
    """Answer the frames of a server until it closes the socket."""
    descriptor, kind, *background = argv or sys.argv[1:]
    if background:
        _lower_priority()
    connection = socket.socket(fileno=int(descriptor))
    with suppress(OSError):  # if memory runs out, Linux kills this process before the server
        Path("/proc/self/oom_score_adj").write_text("1000")
    frames.exit_when_closed(connection.fileno())
    for package in _SKIPPED.get(kind, ()):
        sys.modules[package] = None  # type: ignore[assignment]
    for package in IMPORTS[kind]:
        with suppress(ImportError):  # reported when the package is needed
            importlib.import_module(package)
    with suppress(EOFError, ConnectionError):
        frames.send(connection, {"ready": True})
        source, _ = frames.receive(connection)
        limits = Limits(**source["limits"])
        _limit_memory(float(source["memory"]))
        _limit_cpu(2 * float(source["load_time"]) + 10)  # works even while the framework blocks all other threads
        try:
            model, answer = load(kind, source, limits)
        except Exception as error:  # frameworks raise their own types
            frames.send(connection, _error_answer(error, f"{Path(source['path']).name} cannot be loaded"))
            return 0
        _limit_cpu(None)
        frames.send(connection, answer)
        while model is not None:
            _answer(connection, model, limits.scores)
    return 0


def load(kind: str, source: dict[str, Any], limits: Limits) -> tuple[FrameworkModel | None, dict[str, Any]]:
    """Check and load a model.

    Args:
        kind: a key of IMPORTS.
        source: a `ModelSource` as a dict.
        limits: limits of the input, of the metadata, and of the bounds of a graph.

    Returns:
        The model, None if it is only checked, and its description for the server.

    Raises:
        ConfigError: the model is refused.
    """
    path, channels, most = Path(source["path"]), int(source["channels"]), limits.input_values
    description: dict[str, Any] = {}
    model: FrameworkModel
    if kind == "keras_archive":
        with checked_archive(path, limits.keras_config):
            return None, {}
    if kind == "onnx":
        model, description = _load_onnx(path, source["output"], channels, limits)
    elif kind == "keras":
        from mlaas4hep.serving.frameworks.keras_models import KerasModel

        model = KerasModel(path, channels, limits)
    else:
        from mlaas4hep.serving.frameworks.tensorflow_models import frozen_graph, saved_model

        load_graph = saved_model if kind == "saved_model" else frozen_graph
        model = load_graph(path, source["input"], source["output"], channels, most)
    return model, {**description, "input": model.layout.tensor, "output": model.output}


def _load_onnx(path: Path, output: str, channels: int, limits: Limits) -> tuple[FrameworkModel, dict[str, Any]]:
    """Load an ONNX graph; return also its digest, its metadata, and the rows per run within the bounds."""
    load_model = partial(OnnxModel, file=path.name, output=output, channels=channels, most=limits.input_values)
    if path.stat().st_size > limits.bounded_file:
        with path.open("rb") as file:
            digest = sha256()
            while piece := file.read(1 << 20):
                digest.update(piece)
        model, rows = load_model(str(path)), None
    else:
        content = path.read_bytes()
        digest = sha256(content)
        began = time.process_time()
        model = load_model(content)
        quick = time.process_time() - began < _QUICK
        rows = find_bounds(content, limits).rows if quick else None
    columns = columns_of(model.metadata, model.layout.tensor, path.name, limits)
    read_preprocessing(model.metadata, columns, path.name, limits)
    return model, {"digest": digest.hexdigest(), "rows": rows, "metadata": model.metadata}


def _answer(connection: socket.socket, model: FrameworkModel, largest: int) -> None:
    """Answer one frame; scores of more than `largest` bytes are an error."""
    request, batch = frames.receive(connection)
    try:
        if batch is None:
            header, scores = _probe(model, request["probe"], int(request["rows"])), None
        else:
            header, scores = {}, predict(model, batch)
            if scores.nbytes > largest:
                raise ConfigError(f"the scores for these rows take more than {format_size(largest)}")
    except Exception as error:
        what = "rows" if batch is None else f"{shown(batch.shape[1:])} values"
        header, scores = _error_answer(error, f"the model fails for {what}"), None
    frames.send(connection, header, scores)


def _probe(model: FrameworkModel, kind: str, rows: int) -> dict[str, Any]:
    """Try a model: "run" a few rows, test the "independence" of rows, or measure the "speed" with rows of zeros."""
    input_tensor = model.layout.tensor
    if kind == "speed":
        batch = np.zeros((1 if model.takes_one_row else rows, *(size or 1 for size in input_tensor.shape)), np.float32)
        began = time.process_time()
        predict(model, batch)
        return {"quick": time.process_time() - began < _QUICK}
    try:
        if kind == "run":
            predict(model, trial_rows(input_tensor.shape))
            return {}
        return {"independent": rows_are_independent(partial(predict, model), input_tensor.shape)}
    except Exception as error:
        if is_about_memory(error):
            raise
        return {"independent": False, "failed": error_summary(error)}


def predict(model: FrameworkModel, rows: Array) -> Array:
    """Return scores, float32 (n, k), of rows or of images (n, height, width, channels)."""
    given = np.ascontiguousarray(rows.transpose(0, 3, 1, 2)) if model.layout.channels_first else rows
    batches = np.split(given, len(given)) if model.takes_one_row else [given]
    return np.concatenate([_scores(model.run(batch), len(batch)) for batch in batches])


def _scores(output: Any, rows: int) -> Array:
    try:
        return np.asarray(output, np.float32).reshape(rows, -1)
    except (TypeError, ValueError) as error:
        raise ConfigError("the model's output is not a table of numbers with one row per event") from error


def _error_answer(error: Exception, default: str) -> dict[str, Any]:
    if is_about_memory(error) or (error.__cause__ and is_about_memory(error.__cause__)):
        return {"error": "memory", "memory": True}
    if isinstance(error, MLaaS4HEPError):
        cause = error_summary(error.__cause__) if error.__cause__ else ""
        missing = isinstance(error, PackageMissing)
        return {
            "error": error.what, "nearest": error.nearest, "hint": error.hint, "missing": missing, "detail": cause,
        }  # fmt: skip
    return {"error": default, "detail": error_summary(error)}


def _lower_priority() -> None:
    """Lower the priority of this process, which must be a session leader.

    Linux may schedule sessions as groups (autogroup, see sched(7)). A process's niceness then only counts within its
    session, so the niceness of the session is set too.
    """
    os.nice(_NICENESS)
    with suppress(OSError):  # no autogroups, or /proc is read-only
        Path("/proc/self/autogroup").write_text(str(_NICENESS), encoding="ascii")


def _limit_memory(most: float) -> None:
    """Limit the memory that this process may allocate from now on, in bytes; works on Linux only."""
    with suppress(OSError, ValueError, StopIteration):
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        now = 1024 * int(next(line for line in status if line.startswith("VmData:")).split()[1])
        limit = now + int(most)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _limit_cpu(seconds: float | None) -> None:
    """End this process by a signal after this many more seconds of CPU time; None: no limit."""
    now = time.process_time()
    soft = resource.RLIM_INFINITY if seconds is None else int(now + seconds) + 1
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    sys.exit(main())
