"""Answers as JSON, and what an error is to a client: `{"error": "..."}`, which never says where something lies.

return json_response([0.123])
return error_response(request_line, error)
"""

from __future__ import annotations

import logging
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from mlaas4hep.errors import ConfigError, FileUnreadable, MLaaS4HEPError, ServiceError
from mlaas4hep.serving.store import UnknownModel, UnmanagedFolder

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_LONGEST_ERROR = 1000  # characters; some of them are the client's own
_log = logging.getLogger(__name__)


def json_response(content: Any, status_code: int = 200) -> Response:
    """Return an answer with some content.

    Of arrays in it, numbers have as many digits as 32 bits have (0.1, not 0.10000000149), and NaN is null.
    """
    return Response(to_json(content), status_code, media_type="application/json")


def to_json(content: Any) -> bytes:
    """Return the text of an answer; see `json_response`."""
    return orjson.dumps(content, option=_OPTIONS)


def error_response(what: str, error: BaseException) -> Response:
    """Return what a client is told of an error.

    Args:
        what: method and path of the request.
    """
    headers = None
    if isinstance(error, HTTPException):
        status, text, headers = error.status_code, f"{what}: {error.detail}", error.headers
    elif isinstance(error, UnknownModel):
        status, text = 404, str(error)
    elif isinstance(error, UnmanagedFolder):
        status, text = 409, str(error)
    elif isinstance(error, ConfigError):
        status, text = 400, str(error)
    elif isinstance(error, ServiceError):  # which is an OSError, too
        status, text = 503, str(error)
    elif isinstance(error, ClientDisconnect):
        status, text = 400, "the client left in the middle of the request"
    elif isinstance(error, (FileUnreadable, OSError)):
        _log.error("%s: %s", what, error)
        reason = getattr(error, "strerror", None) or "it cannot be read or written"
        status, text = 500, f"the server cannot use its models directory: {reason}"
    elif isinstance(error, MLaaS4HEPError):
        status, text = 501, str(error)
    else:
        _log.error("%s failed", what, exc_info=error)
        status, text = 500, "the server failed; its log says why"
    response = json_response({"error": text[:_LONGEST_ERROR]}, status)
    response.headers.update(headers or {})
    return response
