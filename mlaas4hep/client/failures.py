"""Explain failed requests: the cause in one line, and what to do about it.

    explain(error, timeouts=(5, 60))             # ("connection refused", "start a server: tfaas_server.py")

`connection` adds method and URL, and decides about retries.
"""

from __future__ import annotations

import errno
import json
import socket
import ssl
from collections.abc import Mapping
from http.client import HTTPException, IncompleteRead, RemoteDisconnected
from typing import NamedTuple, TypeVar

import requests
from urllib3.exceptions import NameResolutionError, NewConnectionError, ReadTimeoutError

from mlaas4hep.client.minimum_rate import NoFinalResponse, ResponseTooSlow
from mlaas4hep.client.tls_failures import explain_tls
from mlaas4hep.errors import ServiceError

MAX_REASON_LENGTH = 300
WRONG_SERVER = "this may be the wrong server: check the URL, its base path and --protocol"
_BUSY = "the server is busy or hangs: try again later, or increase --timeout=SECONDS"
_TLS = "if the server uses TLS, the URL must begin with https"

_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)
_MOVED = (301, 302, 303, 307, 308)
_Cause = TypeVar("_Cause", bound=BaseException)


class ServerResponse(NamedTuple):
    """A complete HTTP response."""

    status: int
    phrase: str
    headers: Mapping[str, str]
    content: bytes

    @property
    def text(self) -> str:
        """The body decoded as UTF-8, with a replacement character for invalid bytes."""
        return self.content.decode(errors="replace")

    @property
    def redirect(self) -> str:
        """The URL that the response redirects to; "" if it is not a redirect."""
        return self.headers.get("Location", "") if self.status in _MOVED else ""


class UnexpectedResponse(ServiceError):
    """The response of a server is an error or invalid.

    Attributes:
        status: the HTTP status code.
        text: the body of an error response.
    """

    def __init__(self, what: str, status: int, hint: str = "", text: str = "") -> None:
        super().__init__(what, hint=hint)
        self.status = status
        self.text = text


def error_message(response: ServerResponse) -> str:
    """Return the server's error message in one line; that of TFaaS is {"error": "..."}."""
    text = response.text
    try:
        message = json.loads(text)["error"]
        text = message if isinstance(message, str) else json.dumps(message)
    except (ValueError, LookupError, TypeError, RecursionError):
        if text.lstrip()[:1] == "<":  # HTML
            text = ""
    return " ".join(text.split())[:MAX_REASON_LENGTH] or response.phrase or "no reason given"


def advise_on(response: ServerResponse, has_token: bool, url_allows_token: bool) -> str:
    """Return advice on an error response; "" if the server's message suffices.

    Args:
        has_token: a token was sent with the request.
        url_allows_token: the URL allows a token to be sent.
    """
    status = response.status
    if status in (401, 403):
        if has_token:
            return "the server does not accept the token for this request: it may have expired"
        ways = "a token (--token-file, BEARER_TOKEN) or a certificate (--cert, X509_USER_PROXY)"
        return f"give {ways}" + ("" if url_allows_token else ", over https")
    if status == 400 and "HTTPS" in response.text:
        return "use a URL that begins with https"
    if status == 413:
        return "the server accepts no larger bodies; see --max-upload of tfaas_server.py"
    if status == 429:
        return "send fewer requests, or try again later"
    return ""


def explain(error: Exception, timeouts: tuple[float, float]) -> tuple[str, str]:
    """Return cause and advice for an exception of requests.

    Args:
        timeouts: for the connection and for the response, in seconds.
    """
    failure = requests.exceptions
    if isinstance(error, UnicodeError):  # requests decodes the header Location of every redirect
        return "the response redirects to an invalid URL", WRONG_SERVER
    if slow := find_cause(error, ResponseTooSlow):
        return str(slow), _BUSY
    if no_final := find_cause(error, NoFinalResponse):
        return str(no_final), WRONG_SERVER
    if isinstance(error, failure.SSLError):
        return explain_tls(find_cause(error, ssl.SSLError))
    if isinstance(error, failure.ProxyError):
        return "the proxy does not forward the request", "check HTTPS_PROXY and HTTP_PROXY, or set NO_PROXY"
    if isinstance(error, failure.ConnectTimeout):
        return f"no connection within {timeouts[0]:g} s", "check host and port"
    if isinstance(error, failure.ReadTimeout) or find_cause(error, ReadTimeoutError):
        return f"no response within {timeouts[1]:g} s", _BUSY
    if unresolved := find_cause(error, socket.gaierror):
        if unresolved.errno == socket.EAI_AGAIN:
            return "the host name cannot be resolved at present", "check the URL and the network, or try again later"
        return "unknown host", "check the URL"
    if refused := find_cause(error, NewConnectionError):
        return _explain_connection(find_cause(refused, OSError))
    if isinstance(error, failure.ContentDecodingError):
        return "the response does not have the compression that it declares", "see the server's log"
    if isinstance(error, failure.ChunkedEncodingError) or find_cause(error, IncompleteRead):
        return "the response is incomplete", "see the server's log"
    if find_cause(error, TimeoutError):  # urllib3 applies the connect timeout to sending
        return f"the server read nothing of the request for {timeouts[0]:g} s", _BUSY
    if find_cause(error, HTTPException) and not find_cause(error, RemoteDisconnected):
        return "the response is not HTTP", f"{_TLS}; else check the port"
    if isinstance(error, failure.ConnectionError):
        return "the server closed the connection without a response", f"{_TLS}; else see its log"
    return " ".join(str(error).split())[:MAX_REASON_LENGTH], ""


def _explain_connection(error: OSError | None) -> tuple[str, str]:
    """Return cause and advice if there was no connection."""
    if error is None or error.errno == errno.ECONNREFUSED:
        return "connection refused", "start a server: tfaas_server.py"
    if error.errno in _UNREACHABLE:
        return "no route to the host", "check the host name, the network and the VPN"
    return f"no connection: {error.strerror or error}", "check host and port"


def never_connected(error: Exception) -> bool:
    """Return whether the server cannot have received any of the request, and a retry may help."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return True
    return bool(find_cause(error, NewConnectionError)) and not find_cause(error, NameResolutionError)


def connection_lost(error: Exception) -> bool:
    """Return whether the connection ended before the response was complete, not because of a limit, TLS or a proxy."""
    failure = requests.exceptions
    others = (failure.SSLError, failure.ProxyError, failure.Timeout)
    ended = isinstance(error, (failure.ConnectionError, failure.ChunkedEncodingError)) and not isinstance(error, others)
    own_limits = (TimeoutError, ReadTimeoutError, ResponseTooSlow, NoFinalResponse)
    return ended and not any(find_cause(error, kind) for kind in (*own_limits, NameResolutionError))


def find_cause(error: BaseException, kind: type[_Cause]) -> _Cause | None:
    """Return the wrapped exception of a class, or None.

    `requests` and urllib3 wrap exceptions in arguments, in `reason`, and as the explicit cause. `__context__` is not
    searched: it also has the exception that was being handled when the request began.
    """
    if isinstance(error, kind):
        return error
    parts = (*error.args, getattr(error, "reason", None), error.__cause__)
    wrapped = [part for part in parts if isinstance(part, BaseException)]
    return next((cause for part in wrapped if (cause := find_cause(part, kind))), None)
