"""One server process: event loop, signals, and an orderly shutdown.

run(Settings("tfaas_models"), listening_socket, ready=lambda: None)
"""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from types import FrameType
from typing import Any, cast

import uvicorn
from uvicorn.config import LOGGING_CONFIG

from mlaas4hep.serving.app import create_app_and_fast_path
from mlaas4hep.serving.certificates.tls import server_tls
from mlaas4hep.serving.http import descriptors, parsers
from mlaas4hep.serving.http.connections import end_closed, end_overdue
from mlaas4hep.serving.http.fast_path import connection_class
from mlaas4hep.serving.http.middleware import Middleware
from mlaas4hep.serving.models import deadlines
from mlaas4hep.serving.models import process as model_process
from mlaas4hep.serving.service import Service
from mlaas4hep.serving.settings import Settings

_STOP_MODELS, _STOP_REQUESTS, _EXIT = 0.6, 0.8, 0.95
"""When running models, then connections, and finally the process itself are stopped, as fractions of the stop time."""

_POLL = 0.05  # seconds between two checks whether requests still run during a shutdown
BACKLOG = 2048
_ACCEPTED_AT_ONCE = 16  # connections accepted per turn of the event loop; libuv accepts one per listening socket


def run(settings: Settings, listening: socket.socket, ready: Any) -> None:
    """Answer the requests that arrive at a listening socket until SIGTERM or SIGINT.

    Args:
        ready: called once the server accepts connections.

    Raises:
        FileUnreadable, ConfigError: see `serve`.
    """
    app, fast_path, service = create_app_and_fast_path(settings)
    tls = server_tls(settings)
    config = uvicorn.Config(
        app,
        http=connection_class(
            fast_path,
            timeout=settings.timeout,
            limits=settings.limits,
            client_certificates=tls.client_certificates if tls else None,
        ),
        ws="none",
        lifespan="off",
        log_config=_log_config(settings.verbose),
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
    )
    config.load()
    config.ssl = tls.context if tls else None
    server = _Server(config, ready, app.flush, settings, _grpc_server(service, app, settings))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.stop_early)
    gc.collect()
    gc.freeze()  # the garbage collector need not scan the objects that exist now, since they are never freed
    gc.set_threshold(20_000, 20, 20)
    with tls or nullcontext():
        server.run(sockets=[listening, *(listening.dup() for _ in range(_ACCEPTED_AT_ONCE - 1))])


class _Server(uvicorn.Server):
    """uvicorn's server with a callback when it is ready, client timeouts, and a shutdown of bounded duration."""

    def __init__(
        self, config: uvicorn.Config, ready: Any, flush: Callable[[], None], settings: Settings, grpc: Any
    ) -> None:
        super().__init__(config)
        self._grpc = grpc
        self._ready, self._flush = ready, flush
        self._handshake = settings.timeout if config.ssl else None
        self._stop_time = settings.limits.stop_time

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen. Unlike uvicorn's method, this one also limits the duration of TLS handshakes."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(descriptors.handle_loop_error)
        await self.lifespan.startup()
        options: dict[str, Any] = {"ssl": self.config.ssl, "ssl_handshake_timeout": self._handshake}
        options["backlog"] = BACKLOG
        self.servers = [await loop.create_server(self._connect, sock=bound, **options) for bound in sockets or ()]
        if self._grpc is not None:
            await self._grpc.start()
        self.started = True
        self._ready()

    def _connect(self) -> asyncio.Protocol:
        protocol: Any = self.config.http_protocol_class
        return cast(asyncio.Protocol, protocol(self.config, self.server_state, self.lifespan.state))

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # every second
            end_overdue(self.server_state.connections)
            descriptors.check()
            self._flush()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for pending requests; stop models that still run after a while, so that their clients get a response.

        uvicorn's method waits for clients to close their TLS connections. A client that does not read never does.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        stop_models = loop.call_later(_STOP_MODELS * self._stop_time, _end_models)
        for listening in (*self.servers, *(sockets or ())):
            listening.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        wait = _STOP_REQUESTS * self._stop_time
        grpc_stopped = asyncio.ensure_future(self._grpc.stop(wait)) if self._grpc is not None else None
        end = began + _STOP_REQUESTS * self._stop_time
        while (self.server_state.connections or self.server_state.tasks) and not self.force_exit and loop.time() < end:
            await asyncio.sleep(_POLL)
            end_closed(self.server_state.connections)
        for task in self.server_state.tasks:
            task.cancel()
        if grpc_stopped is not None:
            await grpc_stopped
        stop_models.cancel()
        _end_models()  # also those whose clients have left: their threads would keep this process alive

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start to shut down; the process exits in time even if one of its threads does not."""
        last_resort = threading.Timer(_EXIT * self._stop_time, os._exit, [0])
        last_resort.daemon = True
        last_resort.start()
        super().handle_exit(sig, frame)

    def stop_early(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal while uvicorn's handler is not installed: exit before startup, do nothing after shutdown."""
        if not self.started:
            sys.exit(0)


def _grpc_server(service: Service, app: Middleware, settings: Settings) -> Any:
    """Return the gRPC server, or None; its package is optional."""
    if settings.grpc_port < 0:
        return None
    from mlaas4hep.serving.protocols.grpc_service import GrpcServer

    return GrpcServer(service, app, settings)


def _end_models() -> None:
    deadlines.end_all()
    model_process.end_all()
    parsers.end_all()


def _log_config(verbose: bool) -> dict[str, Any]:
    """Return uvicorn's logging configuration, extended by this package's logs; all go to stderr with a request ID."""
    config = copy.deepcopy(LOGGING_CONFIG)
    config["filters"] = {"request": {"()": "mlaas4hep.serving.http.middleware.RequestNumber"}}
    config["formatters"]["request"] = {"format": "%(asctime)s %(levelname)s [%(request)s] %(message)s"}
    config["handlers"] = {"default": {"class": "logging.StreamHandler", "formatter": "request", "filters": ["request"]}}
    config["loggers"] = {
        "uvicorn": {"handlers": ["default"], "level": "INFO" if verbose else "ERROR", "propagate": False},
        "mlaas4hep": {"handlers": ["default"], "level": "INFO" if verbose else "WARNING", "propagate": False},
    }
    return config
