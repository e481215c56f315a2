"""What goes wrong between us and a server, each in one line that says what to do.

    explain(error, timeouts=(5, 60))             # ("nobody listens there", "start a server: tfaas_server.py")

Which request it was, and whether it is sent again, is the business of `connection`.
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

from mlaas4hep.client.pace import TooSlow
from mlaas4hep.client.tls_failures import explain_tls
from mlaas4hep.errors import ServiceError

LONGEST_REASON = 300
WRONG_SERVER = "is it the right server? check the URL, its base path and --protocol"
_TLS = "if it speaks TLS, the URL begins with https"

_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)
_MOVED = (301, 302, 303, 307, 308)
_Cause = TypeVar("_Cause", bound=BaseException)


class Answer(NamedTuple):
    """What a server answered: HTTP's status, its words for that, headers and body."""

    status: int
    words: str
    headers: Mapping[str, str]
    content: bytes

    @property
    def text(self) -> str:
        """The body as UTF-8, with another letter for what is none."""
        return self.content.decode(errors="replace")

    @property
    def moved_to(self) -> str:
        """Where the server moved; "" if it did not."""
        return self.headers.get("Location", "") if self.status in _MOVED else ""


class Refusal(ServiceError):
    """A server answered, and not what was asked for; `status` is HTTP's."""

    def __init__(self, what: str, status: int, hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.status = status


def reason_of(answer: Answer) -> str:
    """Return the server's own words, in one line; TFaaS says {"error": "..."}."""
    text = answer.text
    try:
        said = json.loads(text)["error"]
        text = said if isinstance(said, str) else json.dumps(said)
    except (ValueError, LookupError, TypeError, RecursionError):
        if text.lstrip()[:1] == "<":  # a page for people
            text = ""
    return " ".join(text.split())[:LONGEST_REASON] or answer.words or "no reason given"


def advice_on(answer: Answer, has_token: bool, takes_token: bool) -> str:
    """Return what to do about an answer that is an error; nothing where the server's words are all there is to say.

    Args:
        has_token: a token went with the request.
        takes_token: one could go, as over https.
    """
    status = answer.status
    if status in (401, 403):
        if has_token:
            return "it does not take the token, or not for this: is it a new one?"
        ways = "a token (--token-file, BEARER_TOKEN) or a certificate (--cert, X509_USER_PROXY)"
        return f"give {ways}" + ("" if takes_token else ", over https")
    if status == 400 and "HTTPS" in answer.text:
        return "the URL begins with https"
    if status == 413:
        return "it is more than the server takes; see --max-upload of tfaas_server.py"
    if status == 429:
        return "ask less often, or later"
    return ""


def explain(error: requests.RequestException, timeouts: tuple[float, float]) -> tuple[str, str]:
    """Return the reason and the advice for what requests raised.

    Args:
        error: what was raised.
        timeouts: for the connection, and for the answer, in seconds.
    """
    failure = requests.exceptions
    if cause_of(error, TooSlow):
        return "the answer comes at less than 1 kB/s", "the server is busy or hangs; --timeout"
    if isinstance(error, failure.SSLError):
        return explain_tls(cause_of(error, ssl.SSLError))
    if isinstance(error, failure.ProxyError):
        return "the proxy does not pass it on", "check HTTPS_PROXY and HTTP_PROXY, or set NO_PROXY"
    if isinstance(error, failure.ConnectTimeout):
        return f"no connection within {timeouts[0]:g} s", "check host and port"
    if isinstance(error, failure.ReadTimeout) or cause_of(error, ReadTimeoutError):
        return f"no answer within {timeouts[1]:g} s", "the server is busy or hangs; --timeout"
    if unresolved := cause_of(error, socket.gaierror):
        return _explain_resolution(unresolved)
    if refused := cause_of(error, NewConnectionError):
        return _explain_connection(cause_of(refused, OSError))
    if isinstance(error, failure.ContentDecodingError):
        return "the answer is not packed as it says", "see the server's log"
    if isinstance(error, failure.ChunkedEncodingError) or cause_of(error, IncompleteRead):
        return "the answer broke off", "see the server's log"
    if cause_of(error, TimeoutError):  # urllib3 sends under the first of the two timeouts
        return f"the server took nothing of the request for {timeouts[0]:g} s", "it is busy or hangs; --timeout"
    if cause_of(error, HTTPException) and not cause_of(error, RemoteDisconnected):
        return "the answer is no HTTP", f"{_TLS}; else check the port"
    if isinstance(error, failure.ConnectionError):
        return "the server closed the connection without an answer", f"{_TLS}; else see its log"
    return " ".join(str(error).split())[:LONGEST_REASON], ""


def _explain_resolution(error: socket.gaierror) -> tuple[str, str]:
    if error.errno == socket.EAI_AGAIN:
        return "no name server says at present where that host is", "check the URL and the network, or try again later"
    return "there is no host of that name", "check the URL"


def _explain_connection(error: OSError | None) -> tuple[str, str]:
    """Return the cause and the advice where no connection was made."""
    if error is None or error.errno == errno.ECONNREFUSED:
        return "nobody listens there", "start a server: tfaas_server.py"
    if error.errno in _UNREACHABLE:
        return "there is no route to that host", "check the host's name, the network and the VPN"
    return f"no connection: {error.strerror or error}", "check host and port"


def never_connected(error: requests.RequestException) -> bool:
    """Say whether the server cannot have got any of the request, and may be there soon."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return True
    return bool(cause_of(error, NewConnectionError)) and not cause_of(error, NameResolutionError)


def broke_off(error: requests.RequestException) -> bool:
    """Say whether a connection ended before the whole answer was there, and not for want of time, trust or a proxy."""
    failure = requests.exceptions
    others = (failure.SSLError, failure.ProxyError, failure.Timeout)
    ended = isinstance(error, (failure.ConnectionError, failure.ChunkedEncodingError)) and not isinstance(error, others)
    return ended and not any(
        cause_of(error, kind) for kind in (TimeoutError, ReadTimeoutError, NameResolutionError, TooSlow)
    )


def cause_of(error: BaseException, kind: type[_Cause]) -> _Cause | None:
    """Return the wrapped exception of a kind, such as that of a file that became shorter while it was sent.

    `requests` and urllib3 wrap exceptions in arguments, in `reason`, and as the explicit cause. `__context__` is not
    searched: it also holds what was being handled as the request began.
    """
    if isinstance(error, kind):
        return error
    parts = (*error.args, getattr(error, "reason", None), error.__cause__)
    wrapped = [part for part in parts if isinstance(part, BaseException)]
    return next((found for part in wrapped if (found := cause_of(part, kind))), None)
