"""The server as a process, or several: its socket, its signals, its one line when it is ready.

    serve(Settings("tfaas_models", port=8083))

The routes are in `app`, worker processes in `workers`.
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

from mlaas4hep.errors import ServiceError
from mlaas4hep.serving import deadlines, descriptors, model_process, parsers
from mlaas4hep.serving.app import create_app, create_app_and_shortcut
from mlaas4hep.serving.connections import Connection, end_overdue
from mlaas4hep.serving.settings import Settings
from mlaas4hep.serving.tls import server_tls

__all__ = ["create_app", "run", "serve"]

_MODELS_END, _REQUESTS_END, _ALL_ENDS = 6.0, 8.0, 9.5
"""Seconds after SIGTERM when models are ended that still run, then connections, and then the process itself."""

_BACKLOG = 2048
_AT_ONCE = 16  # connections that are accepted in one turn of the event loop: libuv accepts one of each socket


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; requests that are under way are finished first.

    Raises:
        ServiceError: the address cannot be listened on.
        FileUnreadable, ConfigError: the models directory, a certificate or the tokens cannot be used.
    """
    with _bind(settings) as listening:
        ready = f"TFaaS server ready: {_url(listening, settings)} (models in {settings.models_dir}; Ctrl-C stops it)"
        if settings.workers > 1:
            from mlaas4hep.serving.workers import run_workers

            create_app(settings)  # what can be wrong is wrong here already, and said once
            server_tls(settings)
            run_workers(settings, listening, ready)
        else:
            run(settings, listening, lambda: print(ready, file=sys.stderr, flush=True))


def run(settings: Settings, listening: socket.socket, ready: Any) -> None:
    """Answer what comes to a socket, until SIGTERM or SIGINT.

    Args:
        ready: called when requests are answered.

    Raises:
        FileUnreadable, ConfigError: see `serve`.
    """
    app, shortcut = create_app_and_shortcut(settings)
    tls = server_tls(settings)
    config = uvicorn.Config(
        app,
        http=Connection.customised(settings.timeout, shortcut, tls.client_certificates if tls else None),
        ws="none",
        lifespan="off",
        log_config=_log_config(settings.verbose),
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=int(_REQUESTS_END),
    )
    config.load()
    config.ssl = tls.context if tls else None
    server = _Server(config, ready, shortcut.flush, settings.timeout)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.stop_early)
    gc.collect()
    gc.freeze()  # what is there now stays, and need not be looked through again and again
    gc.set_threshold(20_000, 20, 20)
    with tls or nullcontext():
        server.run(sockets=[listening, *(listening.dup() for _ in range(_AT_ONCE - 1))])


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it is ready, looks after its clients, and ends without an error."""

    def __init__(self, config: uvicorn.Config, ready: Any, flush: Callable[[], None], timeout: float) -> None:
        super().__init__(config)
        self._ready, self._flush, self._handshake = ready, flush, timeout if config.ssl else None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; unlike uvicorn's own, this ends TLS handshakes that stall."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(descriptors.handle_loop_error)
        await self.lifespan.startup()
        options: dict[str, Any] = {"ssl": self.config.ssl, "ssl_handshake_timeout": self._handshake}
        options["backlog"] = _BACKLOG
        self.servers = [await loop.create_server(self._connect, sock=bound, **options) for bound in sockets or ()]
        self.started = True
        self._ready()

    def _connect(self) -> asyncio.Protocol:
        protocol: Any = self.config.http_protocol_class
        return cast(asyncio.Protocol, protocol(self.config, self.server_state, self.lifespan.state))

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # each second
            end_overdue(self.server_state.connections)
            descriptors.check()
            self._flush()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests end; models that still run after a while are ended, so that their clients get an answer."""
        late = asyncio.get_running_loop().call_later(_MODELS_END, _end_models)
        await super().shutdown(sockets)
        late.cancel()
        _end_models()  # also those that nobody waits for any more, which would keep this process

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; the process ends in time even if a thread of it does not."""
        last_resort = threading.Timer(_ALL_ENDS, os._exit, [0])
        last_resort.daemon = True
        last_resort.start()
        super().handle_exit(sig, frame)

    def stop_early(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal outside of uvicorn's own time: before it, stop; after it, all is done already."""
        if not self.started:
            sys.exit(0)


def _end_models() -> None:
    deadlines.end_all()
    model_process.end_all()
    parsers.end_all()


def _log_config(verbose: bool) -> dict[str, Any]:
    """Return uvicorn's own, with everything on stderr, and what this package logs, with the number of the request."""
    config = copy.deepcopy(LOGGING_CONFIG)
    config["filters"] = {"request": {"()": "mlaas4hep.serving.gate.RequestNumber"}}
    config["formatters"]["ours"] = {"format": "%(asctime)s %(levelname)s [%(request)s] %(message)s"}
    config["handlers"] = {
        "default": {"class": "logging.StreamHandler", "formatter": "ours", "filters": ["request"]},
    }
    config["loggers"] = {
        "uvicorn": {"handlers": ["default"], "level": "INFO" if verbose else "ERROR", "propagate": False},
        "mlaas4hep": {"handlers": ["default"], "level": "INFO" if verbose else "WARNING", "propagate": False},
    }
    return config


def _bind(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition(" (while")[0]
        raise ServiceError(
            f"cannot listen on {settings.host} port {settings.port}: {reason}",
            hint="another port: --port=8084, a free one: --port=0",
        ) from error


def _url(listening: socket.socket, settings: Settings) -> str:
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    scheme = "https" if settings.cert else "http"
    return f"{scheme}://{shown}:{listening.getsockname()[1]}{settings.base}"
