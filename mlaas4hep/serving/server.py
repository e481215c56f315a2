"""The server: one process, or several workers on one socket.

    serve(Settings("tfaas_models", port=8083))

The routes are in `app`, a single server process is in `process`, several worker processes are in `workers`.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from mlaas4hep import console
from mlaas4hep.errors import ServiceError, require
from mlaas4hep.serving.app import create_app
from mlaas4hep.serving.certificates.tls import server_tls
from mlaas4hep.serving.http.fast_path import unsupported_uvicorn
from mlaas4hep.serving.process import BACKLOG, run
from mlaas4hep.serving.settings import Settings
from mlaas4hep.serving.workers import run_workers


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; pending requests are finished first.

    Raises:
        ServiceError: the server cannot listen on the address.
        FileUnreadable, ConfigError: the models directory, a certificate or the token file cannot be used.
    """
    with _bind(settings) as listening, _reserved_grpc_port(settings) as grpc_port:
        settings = replace(settings, grpc_port=grpc_port)
        if problem := unsupported_uvicorn():
            console.notice(f"predictions take the slower path through ASGI: {problem}")
        grpc = f" and gRPC on port {grpc_port}" if grpc_port >= 0 else ""
        url = _url(listening, settings)
        ready = f"TFaaS server ready: {url}{grpc} (models in {settings.models_dir}; Ctrl-C stops it)"
        if settings.workers > 1:
            create_app(settings)  # to report invalid settings once, not once per worker
            server_tls(settings)
            run_workers(settings, listening, ready)
        else:
            run(settings, listening, lambda: print(ready, file=sys.stderr, flush=True))


def _bind(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition(" (while")[0]
        raise ServiceError(
            f"cannot listen on {settings.host} port {settings.port}: {reason}",
            hint="another port: --port=8084, a free one: --port=0",
        ) from error


@contextmanager
def _reserved_grpc_port(settings: Settings) -> Iterator[int]:
    """Yield the port of the gRPC service, which is reserved for the processes of this server; -1: no service.

    The workers listen on it themselves, and share it by SO_REUSEPORT.
    """
    if settings.grpc_port < 0:
        yield -1
        return
    require("grpc", "grpc", "--grpc-port")
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as reserved:
        try:
            with socket.create_server((settings.host, settings.grpc_port), family=family) as free:
                address = free.getsockname()  # with SO_REUSEPORT alone, two servers could share the port
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            reserved.bind(address)
        except OSError as error:
            raise ServiceError(
                f"cannot listen on {settings.host} port {settings.grpc_port}: {error.strerror}",
                hint="another port: --grpc-port=8001, a free one: --grpc-port=0",
            ) from error
        yield int(address[1])


def _url(listening: socket.socket, settings: Settings) -> str:
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    scheme = "https" if settings.cert else "http"
    return f"{scheme}://{shown}:{listening.getsockname()[1]}{settings.base}"
