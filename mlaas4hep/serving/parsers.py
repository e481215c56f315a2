"""Processes that parse large bodies, for a server whose event loop must not wait for the parser.

    parsers = Parsers()
    model, rows = await parsers.rows("json", body, service.model)

They start when they are needed, stay, and work on one body at a time each; what they do is in `parsers_child`. One that
takes too long is killed, and one that dies is replaced. They end with the server, however that ends.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.concurrency import run_in_threadpool

from mlaas4hep.errors import ConfigError, MLaaS4HEPError, ServiceError
from mlaas4hep.serving import frames
from mlaas4hep.serving.predictor import Model, Predictor
from mlaas4hep.serving.rows import Matrix, Rows

_CHILD = "mlaas4hep.serving.parsers_child"
_running: weakref.WeakSet[_Parser] = weakref.WeakSet()

Told = tuple[dict[str, Any], "Matrix | None"]


class Parsers:
    """The processes of one server.

    Args:
        processes: how many bodies are parsed at the same time.
        seconds: that parsing one may take.
    """

    def __init__(self, processes: int = 2, seconds: float = 60.0) -> None:
        self._turn = asyncio.Semaphore(processes)
        self._seconds = seconds
        self._idle: list[_Parser] = []

    async def rows(
        self, kind: str, body: bytearray, find_model: Callable[[str], Awaitable[Model]]
    ) -> tuple[Model, Rows]:
        """Return the model that a prediction is asked of, and its rows.

        Args:
            kind: of the body, "json" or "proto".
            find_model: is told the name.

        Raises:
            ConfigError: the body is not of that kind, or does not fit the model.
            ServiceError: it took too long, or too much memory.
        """
        async with self._parser() as parser:
            told, _ = await run_in_threadpool(parser.ask, {"task": kind}, body)
            model = await find_model(told["model"])
            described = {"task": "rows", **_described(model.predictor)}
            told, matrix = await run_in_threadpool(parser.ask, described, b"")
            assert matrix is not None
            return model, Rows(matrix, told["many"])

    async def tensor(self, model: Model, body: bytearray, header_length: str | None) -> Told:
        """Return what `oip_tensors.read_inference` reads of a request: `binary` and `id`, and the matrix.

        Raises:
            ConfigError, ServiceError: see `rows`.
        """
        asked = {"task": "tensor", "header_length": header_length, **_described(model.predictor)}
        async with self._parser() as parser:
            return await run_in_threadpool(parser.ask, asked, body)

    @asynccontextmanager
    async def _parser(self) -> AsyncIterator[_Parser]:
        async with self._turn:
            while self._idle and not self._idle[-1].alive:
                self._idle.pop()
            parser = self._idle.pop() if self._idle else await run_in_threadpool(_Parser, self._seconds)
            try:
                yield parser
            except MLaaS4HEPError:
                self._idle.append(parser)  # unless it ended over that, which is found out when it is needed
                raise
            except BaseException:
                parser.end()
                raise
            self._idle.append(parser)


def end_all() -> None:
    """End all processes; callers that wait for one get a ServiceError."""
    for parser in list(_running):
        parser.end()


def _described(predictor: Predictor) -> dict[str, Any]:
    keys, branches = predictor.keys, dict(predictor.branches)
    return {
        "keys": None if keys is None else list(keys), "branches": branches,
        "input": predictor.input, "output": predictor.output,
    }  # fmt: skip


class _Parser:
    """One process."""

    def __init__(self, seconds: float) -> None:
        self._connection, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _CHILD, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for the server
            )
        self._connection.settimeout(seconds)
        self._end = weakref.finalize(self, _end, self._process, self._connection)
        _running.add(self)

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._end.alive and self._process.poll() is None

    def end(self) -> None:
        """Kill it; it has nothing to save."""
        self._process.kill()

    def ask(self, header: dict[str, Any], body: bytes | bytearray) -> Told:
        """Give it a task, and wait for what it says."""
        try:
            frames.send(self._connection, {**header, "size": len(body)})
            self._connection.sendall(body)
            told, matrix = frames.receive(self._connection)
        except TimeoutError as error:
            self._end()
            raise ServiceError("parsing the request took too long", hint="send fewer events at a time") from error
        except (OSError, EOFError, ValueError) as error:
            self._end()
            raise ServiceError("the request could not be parsed", hint="send fewer events at a time") from error
        if "error" in told:
            raise ConfigError(told["error"], nearest=told["nearest"], hint=told["hint"])
        return told, matrix


def _end(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    connection.close()
    process.kill()
    process.wait()
