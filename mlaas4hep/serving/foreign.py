"""Models of Keras and TensorFlow, each in a process of its own.

    model = ForeignModel("keras", "/models/htautau/model.keras")
    ForeignPredictor(model).predict(matrix)               # float32 (n, features) -> float32 (n, k)

The server itself stays free of TensorFlow: of its seconds to import, its memory and its crashes. The process ends with
the predictor, and with the server, however that ends; what it does is in `foreign_child`.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from mlaas4hep.errors import ConfigError, MLaaS4HEPError, PackageMissing, ServiceError
from mlaas4hep.serving import frames
from mlaas4hep.serving.deadlines import LONGEST
from mlaas4hep.serving.rows import Request, Rows
from mlaas4hep.serving.tensor import Array, Tensor, check_fits, rows_of_values

PLATFORMS = {"keras": "keras", "saved_model": "tensorflow_savedmodel", "frozen_graph": "tensorflow_graphdef"}
_PACKAGES = {"keras": "keras", "saved_model": "tensorflow", "frozen_graph": "tensorflow"}
_CHILD = "mlaas4hep.serving.foreign_child"
_log = logging.getLogger(__name__)
_running: weakref.WeakSet[_Process] = weakref.WeakSet()


@dataclass(frozen=True)
class ForeignModel:
    """What a process is told of its model: the names of what is fed and fetched may be empty."""

    kind: str
    path: str
    input: str = ""
    output: str = ""
    channels: int = 0


class Limits(NamedTuple):
    """How many seconds a process may take to load its model, and to answer."""

    start: float = 120
    answer: float = LONGEST


class ForeignPredictor:
    """A model of Keras or TensorFlow, in a process that is started here.

    Args:
        model: what to load.
        labels: the names of the classes.
        limits: seconds that it may take.

    Raises:
        ConfigError: the model is refused.
        PackageMissing: what runs it is not installed.
        ServiceError: its process ends, or takes too long.
    """

    keys: Sequence[str] | None = None
    local = False
    together = True
    branches: Mapping[str, tuple[int, int, str]] = MappingProxyType({})

    def __init__(self, model: ForeignModel, labels: Sequence[str] = (), limits: Limits | None = None) -> None:
        self.labels = list(labels)
        self.platform = PLATFORMS[model.kind]
        self._limits = limits or Limits()
        _check_installed(_PACKAGES[model.kind])
        self._process = _Process()
        told, _ = self._process.ask(asdict(model), None, self._limits.start)
        self.input, self.output = (Tensor(told[end][0], tuple(told[end][1])) for end in ("input", "output"))

    @property
    def alive(self) -> bool:
        return self._process.alive

    def rows(self, request: Request) -> Rows:
        return rows_of_values(request, self.input)

    def predict(self, rows: Array, seconds: float = LONGEST) -> Array:
        check_fits(rows, self.input)
        _, scores = self._process.ask({}, rows, min(seconds, self._limits.answer))
        assert scores is not None
        return scores


def end_all() -> None:
    """End the processes of all models; who waits for one gets a ServiceError."""
    for process in list(_running):
        process.end()


class _Process:
    """A process that answers one request at a time; it ends with this object."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._connection, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _CHILD, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the server, which finishes what is under way
            )
        self._end = weakref.finalize(self, _end, self._process, self._connection)
        _running.add(self)

    def end(self) -> None:
        """End it now, whatever it does."""
        self._process.kill()

    @property
    def alive(self) -> bool:
        return self._end.alive and self._process.poll() is None

    def ask(self, header: dict[str, Any], array: Array | None, seconds: float) -> tuple[dict[str, Any], Array | None]:
        if not self._turn.acquire(timeout=seconds):
            raise ServiceError(f"the model is busy, and did not get to this request within {seconds:g} s")
        try:
            self._connection.settimeout(seconds)
            frames.send(self._connection, header, array)
            answer, scores = frames.receive(self._connection)
        except TimeoutError as error:
            self._end()
            raise ServiceError(f"the model did not answer within {seconds:g} s, and was stopped") from error
        except (OSError, EOFError, ValueError) as error:
            raise ServiceError(
                f"the model's process ended{self._reason()}", hint="ask again: it is started anew"
            ) from error
        except BaseException:
            self._end()  # or its answer would be taken for that to the next request
            raise
        finally:
            self._turn.release()
        if "error" in answer:
            raise _refusal(answer)
        return answer, scores

    def _reason(self) -> str:
        """End the process; return the signal that it ended by, if it did so itself."""
        ended = self._end.alive and _wait(self._process)
        self._end()
        number = -self._process.returncode if ended and self._process.returncode else 0
        return f" by {signal.Signals(number).name}" if number in set(signal.Signals) else ""


def _wait(process: subprocess.Popen[bytes]) -> bool:
    """Say whether a process whose connection is closed has ended."""
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return False
    return True


def _end(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    connection.close()
    process.kill()  # it has nothing to save
    process.wait()


def _environment() -> dict[str, str]:
    """Return the environment of a process that finds what this one finds, and says less."""
    path = os.pathsep.join(place for place in sys.path if place)
    return {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}


def _check_installed(package: str) -> None:
    """Raise PackageMissing without importing anything."""
    if importlib.util.find_spec(package) is None:
        raise PackageMissing(
            f"models of this kind need the package '{package}', which is not installed on the server",
            hint="install it: pip install 'mlaas4hep[keras]'",
        )


def _refusal(answer: dict[str, Any]) -> MLaaS4HEPError:
    if answer.get("detail"):
        _log.warning("%s: %s", answer["error"], answer["detail"])
    kind = PackageMissing if answer.get("missing") else ConfigError
    return kind(str(answer["error"]), nearest=answer.get("nearest", ()), hint=str(answer.get("hint", "")))
