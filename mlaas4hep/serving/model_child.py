"""The process of one model; `model_process` starts it, and nobody else.

    python -m mlaas4hep.serving.model_child onnx 5           # 5 is the descriptor of a socket

It imports what runs the model, says that it is ready, and limits its own memory. The first frame that it gets says what
to load, and is answered with what goes in and comes out; each further one is an array, and is answered with scores, or
asks whether rows are independent. Whatever fails is an answer too; what the model's framework says of it is for the
server's log.
"""

from __future__ import annotations

import importlib
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

from mlaas4hep.errors import ConfigError, MLaaS4HEPError, PackageMissing, first_line
from mlaas4hep.serving import frames
from mlaas4hep.serving.keras_archive import rewritten
from mlaas4hep.serving.onnx_bounds import LIMITS, find_bounds
from mlaas4hep.serving.onnx_model import OnnxModel, columns_of, is_about_memory
from mlaas4hep.serving.row_independence import rows_are_independent
from mlaas4hep.serving.tensor import Array, Layout, Tensor, shown

IMPORTS = {
    "onnx": ("onnxruntime", "onnx"),
    "keras": ("keras",),
    "keras_archive": ("h5py",),
    "saved_model": ("tensorflow",),
    "frozen_graph": ("tensorflow",),
}
"""What is imported before the limits hold, by kind of model."""

_NOT_NEEDED = {"keras": ["sklearn"], "saved_model": ["sklearn", "keras"], "frozen_graph": ["sklearn", "keras"]}
"""What TensorFlow imports if it is there, and a model does not need: almost half of the seconds before the answer."""

_QUICK = 2.0  # seconds of CPU that a bounded model may take to load, and for the largest batch


class Model(Protocol):
    """A model of some framework."""

    layout: Layout
    output: Tensor
    takes_one_row: bool

    def run(self, batch: Array) -> Any:
        """Return the output for a batch in the model's own layout."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the other end of a socket until it is closed."""
    kind, descriptor = argv or sys.argv[1:]
    connection = socket.socket(fileno=int(descriptor))
    with suppress(OSError):  # a model that fills the memory of a Linux machine shall end, and not the server
        Path("/proc/self/oom_score_adj").write_text("1000")
    frames.end_process_with(connection.fileno())
    for package in _NOT_NEEDED.get(kind, ()):
        sys.modules[package] = None  # type: ignore[assignment]
    for package in IMPORTS[kind]:
        with suppress(ImportError):  # what is missing is said when it is needed
            importlib.import_module(package)
    with suppress(EOFError, ConnectionError):
        frames.send(connection, {"ready": True})
        told, _ = frames.receive(connection)
        _limit_memory(float(told["memory"]))
        _limit_cpu(2 * float(told["load_time"]) + 10)  # also while nothing else of this process gets to run
        try:
            model, answer = load(kind, told)
        except Exception as error:  # frameworks raise kinds of their own
            frames.send(connection, _explained(error, f"{Path(told['path']).name} cannot be loaded"))
            return 0
        _limit_cpu(None)
        frames.send(connection, answer)
        while model is not None:
            _answer(connection, model)
    return 0


def load(kind: str, told: dict[str, Any]) -> tuple[Model | None, dict[str, Any]]:
    """Check and load a model.

    Args:
        kind: a key of IMPORTS.
        told: a `ModelSource` as JSON has it.

    Returns:
        The model, None where it is only checked; and what the server is told of it.

    Raises:
        ConfigError: it is refused.
    """
    path, channels = Path(told["path"]), int(told["channels"])
    about: dict[str, Any] = {}
    model: Model
    if kind == "keras_archive":
        with rewritten(path):
            return None, {}
    if kind == "onnx":
        model, about = _load_onnx(path, told["output"], channels)
    elif kind == "keras":
        from mlaas4hep.serving.keras_models import KerasModel

        model = KerasModel(path, channels)
    else:
        from mlaas4hep.serving.tensorflow_models import frozen_graph, saved_model

        load_graph = saved_model if kind == "saved_model" else frozen_graph
        model = load_graph(path, told["input"], told["output"], channels)
    return model, {**about, "input": model.layout.tensor, "output": model.output}


def _load_onnx(path: Path, output: str, channels: int) -> tuple[Model, dict[str, Any]]:
    """Load an ONNX graph; say which one it is, and how many rows at a time are bounded."""
    if path.stat().st_size > LIMITS.file:
        with path.open("rb") as file:
            digest = sha256()
            while piece := file.read(1 << 20):
                digest.update(piece)
        model, rows = OnnxModel(str(path), path.name, output, channels=channels), None
    else:
        content = path.read_bytes()
        digest = sha256(content)
        began = time.process_time()
        model = OnnxModel(content, path.name, output, channels=channels)
        quick = time.process_time() - began < _QUICK
        rows = find_bounds(content).rows if quick else None
    columns_of(model.metadata, model.layout.tensor, path.name)
    return model, {"digest": digest.hexdigest(), "rows": rows, "metadata": model.metadata}


def _answer(connection: socket.socket, model: Model) -> None:
    """Answer one frame."""
    request, batch = frames.receive(connection)
    try:
        if batch is None:
            header, scores = _probe(model, int(request["rows"])), None
        else:
            header, scores = {}, predict(model, batch)
            if scores.nbytes > frames.LARGEST_ANSWER:
                raise ConfigError(f"the model gives more than {frames.LARGEST_ANSWER / 1e6:g} MB for these rows")
    except Exception as error:
        what = "rows" if batch is None else f"{shown(batch.shape[1:])} values"
        header, scores = _explained(error, f"the model cannot take {what}"), None
    frames.send(connection, header, scores)


def _probe(model: Model, rows: int) -> dict[str, Any]:
    """Say whether rows are independent, and whether so many of them are run soon enough; 0: that is not asked."""
    takes = model.layout.tensor
    try:
        independent = rows_are_independent(partial(predict, model), takes.shape)
    except Exception as error:
        if is_about_memory(error):
            raise
        return {"independent": False, "quick": False}
    if not rows:
        return {"independent": independent, "quick": False}
    if model.takes_one_row:
        rows = 1
    batch = np.zeros((rows, *(size or 1 for size in takes.shape)), np.float32)
    began = time.process_time()
    predict(model, batch)
    return {"independent": independent, "quick": time.process_time() - began < _QUICK}


def predict(model: Model, rows: Array) -> Array:
    """Return scores, float32 (n, k), of rows or of images with the channels in the back."""
    given = np.ascontiguousarray(rows.transpose(0, 3, 1, 2)) if model.layout.channels_first else rows
    batches = np.split(given, len(given)) if model.takes_one_row else [given]
    return np.concatenate([_scores(model.run(batch), len(batch)) for batch in batches])


def _scores(output: Any, rows: int) -> Array:
    try:
        return np.asarray(output, np.float32).reshape(rows, -1)
    except (TypeError, ValueError) as error:
        raise ConfigError("the model's output is no table of numbers with a row for each event") from error


def _explained(error: Exception, otherwise: str) -> dict[str, Any]:
    if is_about_memory(error) or (error.__cause__ and is_about_memory(error.__cause__)):
        return {"error": "memory", "memory": True}
    if isinstance(error, MLaaS4HEPError):
        cause = first_line(error.__cause__) if error.__cause__ else ""
        missing = isinstance(error, PackageMissing)
        return {
            "error": error.what, "nearest": error.nearest, "hint": error.hint, "missing": missing, "detail": cause,
        }  # fmt: skip
    return {"error": otherwise, "detail": first_line(error)}


def _limit_memory(most: float) -> None:
    """Let this process have so many bytes more than it has now; only Linux counts what is asked for."""
    with suppress(OSError, ValueError, StopIteration):
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        now = 1024 * int(next(line for line in status if line.startswith("VmData:")).split()[1])
        limit = now + int(most)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _limit_cpu(seconds: float | None) -> None:
    """End this process by a signal after some more seconds of CPU; None: after any number."""
    now = time.process_time()
    soft = resource.RLIM_INFINITY if seconds is None else int(now + seconds) + 1
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    sys.exit(main())
