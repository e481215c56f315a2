"""The server as a process: its socket, its signals, its one line when it is ready.

    serve("tfaas_models", "127.0.0.1", 8083)

The routes are in `app`.
"""

from __future__ import annotations

import copy
import os
import signal
import socket
import sys
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.config import LOGGING_CONFIG

from mlaas4hep.errors import ServiceError
from mlaas4hep.serving.app import create_app

__all__ = ["create_app", "serve"]

_SECONDS_TO_FINISH = 10


def serve(
    models_dir: str | os.PathLike[str],
    host: str = "127.0.0.1",
    port: int = 8083,
    *,
    base_path: str = "",
    max_upload: int = 1_000_000_000,
    verbose: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT; requests that are under way are finished first.

    Args:
        models_dir: where the models are kept.
        host: address to listen on.
        port: 0 takes a free one.
        base_path: stands in front of every route.
        max_upload: the largest body that is taken, in bytes.
        verbose: log every request to stderr.

    Raises:
        ServiceError: the address cannot be listened on.
        FileUnreadable: the models directory cannot be used.
    """
    with _bind(host, port) as listening:
        app = create_app(models_dir, base_path=base_path, max_upload=max_upload)
        config = uvicorn.Config(
            app,
            ws="none",
            lifespan="off",
            log_config=_log_config(),
            log_level="info" if verbose else "error",
            access_log=verbose,
            server_header=False,
            timeout_graceful_shutdown=_SECONDS_TO_FINISH,
        )
        server = _Server(config, _url(listening, host, base_path), models_dir)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, server.stop_early)
        server.run(sockets=[listening])


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it is ready, and ends without an error when it is told to."""

    def __init__(self, config: uvicorn.Config, url: str, models_dir: str | os.PathLike[str]) -> None:
        super().__init__(config)
        self._ready_line = f"TFaaS server ready: {url} (models in {os.fspath(models_dir)}; Ctrl-C stops it)"

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._ready_line, file=sys.stderr, flush=True)

    def stop_early(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal outside of uvicorn's own time: before it, stop; after it, all is done already."""
        if not self.started:
            sys.exit(0)


def _log_config() -> dict[str, Any]:
    """Return uvicorn's own, with everything on stderr, and what this package logs."""
    config = copy.deepcopy(LOGGING_CONFIG)
    config["handlers"]["access"]["stream"] = "ext://sys.stderr"
    config["loggers"]["mlaas4hep"] = {"handlers": ["default"], "level": "WARNING", "propagate": False}
    return config


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition(" (while")[0]
        raise ServiceError(
            f"cannot listen on {host} port {port}: {reason}", hint="another port: --port=8084, a free one: --port=0"
        ) from error


def _url(listening: socket.socket, host: str, base_path: str) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listening.getsockname()[1]}/{base_path.strip('/')}".rstrip("/")
