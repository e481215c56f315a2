"""Find out which TFaaS server responds: ours, or a stock server.

    server_kind(connection)         # ServerKind.STOCK

Only our server implements the Open Inference Protocol. A stock server responds to its route as Go's HTTP
server does to all unknown routes. Any other response may come from a proxy.
"""

from __future__ import annotations

from enum import Enum

from mlaas4hep.client.connection import Connection
from mlaas4hep.client.failures import UnexpectedResponse

_METADATA = "/v2"
_UNKNOWN_ROUTE = "404 page not found"


class ServerKind(Enum):
    """The implementation of a server."""

    OURS = "tfaas_server.py"
    STOCK = "TFaaS"
    UNKNOWN = "unknown"


def server_kind(connection: Connection) -> ServerKind:
    """Return which server responds, from a single request.

    Raises:
        ServiceError: the server does not respond.
    """
    try:
        metadata = connection.json("GET", _METADATA)
    except UnexpectedResponse as error:
        is_stock = error.status == 404 and error.text.strip() == _UNKNOWN_ROUTE
        return ServerKind.STOCK if is_stock else ServerKind.UNKNOWN
    is_ours = isinstance(metadata, dict) and "extensions" in metadata
    return ServerKind.OURS if is_ours else ServerKind.UNKNOWN
