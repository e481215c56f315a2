"""Processes that parse large request bodies, so that the event loop does not wait for the parser.

    parsers = Parsers()
    model, rows = await parsers.rows("json", body, service.model)

The processes start on demand and are reused; each parses one body at a time (`parsers_child`). A process that takes
too long is killed, one that dies is replaced. All of them exit with the server, even if it is killed.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from mlaas4hep.errors import ConfigError, MLaaS4HEPError, ServiceError
from mlaas4hep.protocol.limits import DEFAULTS, Limits
from mlaas4hep.serving.models import frames
from mlaas4hep.serving.models.child_process import ChildProcess
from mlaas4hep.serving.models.predictor import Model, Predictor
from mlaas4hep.serving.models.rows import Matrix, Rows

_CHILD = "mlaas4hep.serving.http.parsers_child"
_running: weakref.WeakSet[_ParserProcess] = weakref.WeakSet()

FindModel = Callable[[str], Awaitable[Model]]
Parsed = tuple[dict[str, Any], "Matrix | None"]


class Parsers:
    """The parser processes of a server.

    Args:
        limits: number, time and memory of the processes.
    """

    def __init__(self, limits: Limits = DEFAULTS) -> None:
        self._turn = asyncio.Semaphore(limits.parsers)
        self._limits = limits
        self._idle: list[_ParserProcess] = []

    async def rows(self, kind: str, body: bytearray, find_model: FindModel) -> tuple[Model, Rows]:
        """Return the model of a prediction request, and its rows.

        Args:
            kind: format of the body, "json" or "proto".
            find_model: returns the model with a given name.

        Raises:
            ConfigError: the body does not have this format, or does not fit the model.
            ServiceError: parsing took too long or too much memory.
        """
        async with self._parser() as parser:
            parsed, _ = await run_in_threadpool(parser.ask, {"task": kind}, body)
            model = await find_model(parsed["model"])
            described = {"task": "rows", **_described(model.predictor)}
            parsed, matrix = await run_in_threadpool(parser.ask, described, b"")
            assert matrix is not None
            return model, Rows(matrix, parsed["many"], _unpack_bits(parsed["kept"], parsed["events"]))

    async def tensor(self, model: Model, body: bytearray, header_length: str | None) -> Parsed:
        """Return the result of `oip_tensors.read_inference`: a dict with `binary` and `id`, and the matrix.

        Raises:
            ConfigError, ServiceError: see `rows`.
        """
        task = {"task": "tensor", "header_length": header_length, **_described(model.predictor)}
        async with self._parser() as parser:
            return await run_in_threadpool(parser.ask, task, body)

    @asynccontextmanager
    async def _parser(self) -> AsyncIterator[_ParserProcess]:
        async with self._turn:
            while self._idle and not self._idle[-1].alive:
                self._idle.pop()
            parser = self._idle.pop() if self._idle else await run_in_threadpool(_ParserProcess, self._limits)
            try:
                yield parser
            except MLaaS4HEPError:
                self._idle.append(parser)  # the next use detects whether it has exited
                raise
            except BaseException:
                parser.end()
                raise
            self._idle.append(parser)


def end_all() -> None:
    """Kill all processes; callers that wait for one get a ServiceError."""
    for parser in list(_running):
        parser.end()


def _described(predictor: Predictor) -> dict[str, Any]:
    keys = None if predictor.keys is None else list(predictor.keys)
    tensors = {"input": predictor.input, "output": predictor.output}
    described: dict[str, Any] = {"keys": keys, "branches": dict(predictor.branches), **tensors}
    if predictor.preprocessing is not None:
        described["preproc"] = {"content": predictor.preprocessing.content, "inputs": predictor.preprocessing.inputs}
    return described


def _unpack_bits(text: str | None, events: int) -> NDArray[np.bool_] | None:
    """Return bools from the hexadecimal digits in which `parsers_child` sends them."""
    if text is None:
        return None
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=events).astype(bool)


class _ParserProcess(ChildProcess):
    """A process that parses bodies."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(_CHILD, str(limits.parser_memory), OPENBLAS_NUM_THREADS="1")
        self._connection.settimeout(limits.parser_time)
        _running.add(self)

    def ask(self, header: dict[str, Any], body: bytes | bytearray) -> Parsed:
        """Send a task and wait for its result."""
        try:
            frames.send(self._connection, {**header, "size": len(body)})
            self._connection.sendall(body)
            parsed, matrix = frames.receive(self._connection)
        except (OSError, EOFError, ValueError) as error:
            self.close()
            late = isinstance(error, TimeoutError)
            what = "parsing the request took too long" if late else "the request could not be parsed"
            raise ServiceError(what, hint="send fewer events at a time") from error
        if "error" in parsed:
            raise ConfigError(parsed["error"], nearest=parsed["nearest"], hint=parsed["hint"])
        return parsed, matrix
