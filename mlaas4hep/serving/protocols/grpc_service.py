"""The gRPC service of the Open Inference Protocol, on a port of its own.

    server = GrpcServer(service, middleware, settings)
    await server.start()

It answers with the same models, limits, tokens and metrics as HTTP. Client certificates do not authenticate here. The
methods that load and unload models, and the streaming method, are not implemented.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.concurrency import run_in_threadpool

from mlaas4hep.errors import ConfigError, ServiceError, require
from mlaas4hep.serving.http.bodies import run_aside
from mlaas4hep.serving.http.middleware import Middleware
from mlaas4hep.serving.http.responses import error_response
from mlaas4hep.serving.http.watched_file import file_version
from mlaas4hep.serving.models.predictor import Model
from mlaas4hep.serving.models.rows import shown
from mlaas4hep.serving.protocols.grpc_messages import DATA_TYPES, SERVICE, load_messages
from mlaas4hep.serving.protocols.grpc_tensors import read_grpc_inference, write_grpc_response
from mlaas4hep.serving.protocols.oip import model_index, tensor_metadata
from mlaas4hep.serving.protocols.triton import EXTENSIONS, model_config, model_statistics
from mlaas4hep.serving.service import Service
from mlaas4hep.serving.settings import Settings
from mlaas4hep.serving.store.store import UnknownModel
from mlaas4hep.version import __version__

_CONCURRENT = 1_000  # requests at the same time; more get RESOURCE_EXHAUSTED
_ENVELOPE = 1 << 16  # bytes of a message besides its tensors
_IDLE = 600.0  # seconds until an idle connection is closed
_AGE, _GRACE = 600.0, 60.0  # seconds until a connection must end, and that its last requests may then take
_CODES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    413: "RESOURCE_EXHAUSTED", 429: "RESOURCE_EXHAUSTED", 501: "UNIMPLEMENTED", 503: "UNAVAILABLE",
}  # fmt: skip
"""The gRPC codes of HTTP statuses; INTERNAL for others."""

_OPEN = ("ServerLive", "ServerReady")
Handler = Callable[[Any], Awaitable[Any]]


class GrpcServer:
    """The gRPC server of one process.

    Args:
        middleware: access rules, rate limit and request IDs.

    Raises:
        PackageMissing: grpcio is not installed.
        ServiceError: the port is in use.
        FileUnreadable: the certificate cannot be read.
    """

    def __init__(self, service: Service, middleware: Middleware, settings: Settings) -> None:
        self._grpc = require("grpc", "grpc", "--grpc-port")
        self._service, self._middleware, self._settings = service, middleware, settings
        self._messages = load_messages()
        self._server: Any = None
        self._certificate: object = None

    async def start(self) -> None:
        """Start to listen; several processes may share the port."""
        grpc, settings = self._grpc, self._settings
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=_CONCURRENT,
            options=[
                ("grpc.max_receive_message_length", settings.limits.json_body + _ENVELOPE),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", settings.limits.head),
                ("grpc.max_connection_idle_ms", int(1000 * _IDLE)),
                ("grpc.max_connection_age_ms", int(1000 * _AGE)),
                ("grpc.max_connection_age_grace_ms", int(1000 * _GRACE)),
                ("grpc.keepalive_time_ms", int(1000 * settings.timeout)),
                ("grpc.keepalive_timeout_ms", int(1000 * settings.timeout)),
                ("grpc.so_reuseport", 1),
            ],
        )
        handlers = {name: self._handler(name, method) for name, method in self._methods().items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"{host}:{settings.grpc_port}"
        try:
            if settings.cert:
                first = self._new_certificate()
                credentials = grpc.dynamic_ssl_server_credentials(first, self._new_certificate)
                self._server.add_secure_port(address, credentials)
            else:
                self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ServiceError(f"cannot listen on {address}", hint="another port: --grpc-port=0") from error
        await self._server.start()

    async def stop(self, seconds: float) -> None:
        """Stop to accept requests, and wait at most `seconds` for pending ones."""
        if self._server is not None:
            await self._server.stop(seconds)

    def _new_certificate(self) -> Any:
        """Return the certificate and key of the server if the files have changed, else None."""
        cert, key = Path(self._settings.cert), Path(self._settings.key or self._settings.cert)
        version = file_version(cert), file_version(key)
        if version == self._certificate:
            return None
        pair = key.read_bytes(), cert.read_bytes()
        self._certificate = version
        return self._grpc.ssl_server_certificate_configuration([pair])

    def _methods(self) -> dict[str, Handler]:
        return {
            "ServerLive": self._live, "ServerReady": self._ready, "ServerMetadata": self._metadata,
            "ModelReady": self._model_ready, "ModelMetadata": self._model_metadata, "ModelConfig": self._config,
            "ModelStatistics": self._statistics, "RepositoryIndex": self._index, "ModelInfer": self._infer,
        }  # fmt: skip

    def _handler(self, name: str, method: Handler) -> Any:
        """Return gRPC's handler of a method, which checks and counts requests, and turns errors into codes."""
        path, message = f"/{SERVICE}/{name}", self._messages[f"{name}Request"]

        async def handle(body: bytes, call: Any) -> bytes:
            headers = {
                key.encode(): value.encode() for key, value in call.invocation_metadata() or () if type(value) is str
            }
            scope = {"type": "http", "method": "POST", "path": path, "client": _client(call.peer()), "headers": []}
            context = self._middleware.enter(scope, headers)
            status = 200
            try:
                self._middleware.check_access(context, is_open=name in _OPEN)
                request = await run_aside(len(body), parse_message, message, body)
                answer = await method(request)
                return answer if isinstance(answer, bytes) else bytes(answer.SerializeToString())
            except Exception as error:
                response = error_response(path.rpartition("/")[2], error)
                status = response.status_code
                text = str(json.loads(bytes(response.body))["error"])
                code = getattr(self._grpc.StatusCode, _CODES.get(status, "INTERNAL"))
            finally:
                self._middleware.leave(context, status)
            await call.abort(code, text)
            raise AssertionError("abort raises")

        return self._grpc.unary_unary_rpc_method_handler(handle)

    async def _live(self, request: Any) -> Any:
        return self._messages["ServerLiveResponse"](live=True)

    async def _ready(self, request: Any) -> Any:
        await run_in_threadpool(self._service.store.names)
        return self._messages["ServerReadyResponse"](ready=True)

    async def _metadata(self, request: Any) -> Any:
        return self._messages["ServerMetadataResponse"](name="mlaas4hep", version=__version__, extensions=EXTENSIONS)

    async def _model(self, name: str, version: str) -> Model:
        if not name:
            raise ConfigError("the request does not name a model")
        model = await self._service.model(name)
        if version not in ("", model.version):
            raise UnknownModel(f"model '{name}' has no version {shown(version)}", hint=f"it has: {model.version}")
        return model

    async def _model_ready(self, request: Any) -> Any:
        await self._model(request.name, request.version)
        return self._messages["ModelReadyResponse"](ready=True)

    async def _model_metadata(self, request: Any) -> Any:
        model = await self._model(request.name, request.version)
        inputs, outputs = tensor_metadata(model.predictor)
        return self._messages["ModelMetadataResponse"](
            name=model.name,
            versions=[model.version],
            platform=model.predictor.platform,
            inputs=inputs,
            outputs=outputs,
        )

    async def _config(self, request: Any) -> Any:
        config = model_config(await self._model(request.name, request.version), self._service.limits)
        for tensor in (*config["input"], *config["output"]):
            tensor["data_type"] = DATA_TYPES[tensor["data_type"]]
        return self._messages["ModelConfigResponse"](config=config)

    async def _statistics(self, request: Any) -> Any:
        model = await self._model(request.name, request.version)
        counters = await run_in_threadpool(self._service.metrics.of_model, model.name)
        return self._messages["ModelStatisticsResponse"](model_stats=[model_statistics(model, counters)])

    async def _index(self, request: Any) -> Any:
        entries = await run_in_threadpool(model_index, self._service.store)
        wanted = [entry for entry in entries if entry["state"] == "READY" or not request.ready]
        return self._messages["RepositoryIndexResponse"](models=wanted)

    async def _infer(self, request: Any) -> bytes:
        size = request.ByteSize()
        model = await self._model(request.model_name, request.model_version)
        predictor = model.predictor
        inference = await run_aside(size, read_grpc_inference, request, predictor.input, predictor.output)
        scores = await self._service.score(model, inference.matrix)
        return await run_aside(
            scores.nbytes, write_grpc_response, model.name, model.version, predictor.output, inference, scores
        )


def parse_message(message: Any, body: bytes) -> Any:
    """Return the message of a request; raise ConfigError if the body is invalid."""
    try:
        return message.FromString(body)
    except Exception as error:  # protobuf's DecodeError; its module is imported only if it is installed
        raise ConfigError(f"the request is not a protobuf message {message.DESCRIPTOR.full_name}") from error


def _client(peer: str) -> tuple[str, int]:
    """Return address and port of "ipv4:127.0.0.1:50123" or "ipv6:%5B::1%5D:50123"."""
    address, _, port = unquote(peer).partition(":")[2].rpartition(":")
    return address.strip("[]"), int(port) if port.isdecimal() else 0
