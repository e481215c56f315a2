"""The process of one model of Keras or TensorFlow; `foreign` starts it, and nobody else.

    python -m mlaas4hep.serving.foreign_child 5           # 5 is the descriptor of a socket

The first frame says what to load, and is answered with what goes in and comes out; each further one is an array, and
is answered with scores. Whatever fails is an answer too; what the model's framework says of it is for the server's log.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mlaas4hep.errors import ConfigError, MLaaS4HEPError, PackageMissing, first_line
from mlaas4hep.serving import frames
from mlaas4hep.serving.tensor import Array, Layout, Tensor, shown

_LEFT_OUT = {"keras": ["sklearn"], "saved_model": ["sklearn", "keras"], "frozen_graph": ["sklearn", "keras"]}
"""What TensorFlow imports if it is there, and a model does not need: almost half of the seconds before the answer."""


class Model(Protocol):
    """A model of some framework."""

    layout: Layout
    output: Tensor
    takes_one_row: bool

    def run(self, batch: Array) -> Any:
        """Return the output for a batch in the model's own layout."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the other end of a socket until it is closed."""
    (descriptor,) = argv or sys.argv[1:]
    connection = socket.socket(fileno=int(descriptor))
    with suppress(OSError):  # a model that fills the memory of a Linux machine shall end, and not the server
        Path("/proc/self/oom_score_adj").write_text("1000")
    threading.Thread(target=_end_with, args=(connection.fileno(),), daemon=True).start()
    with suppress(EOFError, ConnectionError):
        told, _ = frames.receive(connection)
        try:
            model = load(told)
        except Exception as error:  # frameworks raise kinds of their own
            frames.send(connection, _explained(error, f"{Path(told['path']).name} cannot be loaded"))
            return 0
        frames.send(connection, {"input": model.layout.tensor, "output": model.output})
        while True:
            _, batch = frames.receive(connection)
            assert batch is not None
            try:
                scores = predict(model, batch)
            except Exception as error:
                frames.send(connection, _explained(error, f"the model cannot take {shown(batch.shape[1:])} values"))
            else:
                frames.send(connection, {}, scores)
    return 0


def load(told: dict[str, Any]) -> Model:
    """Load the model that a `ForeignModel` describes, checking it first.

    Raises:
        ConfigError: it is refused.
    """
    path, channels = Path(told["path"]), int(told["channels"])
    for package in _LEFT_OUT[told["kind"]]:
        sys.modules[package] = None  # type: ignore[assignment]
    if told["kind"] == "keras":
        from mlaas4hep.serving.keras_models import KerasModel

        return KerasModel(path, channels)
    from mlaas4hep.serving.tensorflow_models import frozen_graph, saved_model

    load_graph = saved_model if told["kind"] == "saved_model" else frozen_graph
    return load_graph(path, told["input"], told["output"], channels)


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
    if isinstance(error, MLaaS4HEPError):
        cause = first_line(error.__cause__) if error.__cause__ else ""
        missing = isinstance(error, PackageMissing)
        return {
            "error": error.what, "nearest": error.nearest, "hint": error.hint, "missing": missing, "detail": cause,
        }  # fmt: skip
    return {"error": otherwise, "detail": first_line(error)}


def _end_with(descriptor: int) -> None:
    """End this process when the other end of the socket is closed, also in the middle of a prediction."""
    ends = select.poll()
    ends.register(descriptor, 0)  # POLLHUP is always reported
    ends.poll()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
