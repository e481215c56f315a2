"""What goes wrong between us and a server, each in one line that says what to do.

    explain(error, timeouts=(5, 60))             # ("nobody listens there", "start a server: tfaas_server.py")

Which request it was, and whether it is sent again, is the business of `connection`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import requests
from urllib3.exceptions import MaxRetryError, NameResolutionError, NewConnectionError

from mlaas4hep.client.pace import TooSlow
from mlaas4hep.errors import ServiceError

LONGEST_REASON = 300
WRONG_SERVER = "is it the right server? check the URL, its base path and --protocol"
_TLS = "if it speaks TLS, the URL begins with https"

_TLS_FAILURES = {
    "Hostname mismatch": ("its certificate is for another host", "give the name that is in it"),
    "IP address mismatch": ("its certificate is for another host", "give the name that is in it"),
    "has expired": ("its certificate has expired", "whoever runs the server must renew it"),
    "CERTIFICATE_VERIFY_FAILED": (
        "its certificate is of no authority that is trusted here",
        "name them: --capath or X509_CERT_DIR",
    ),
    "WRONG_VERSION_NUMBER": ("the server does not speak TLS", "the URL begins with http, not https"),
    "record layer failure": ("the server does not speak TLS", "the URL begins with http, not https"),
    "NO_CERTIFICATE_OR_CRL_FOUND": ("there is no authority in the file of --capath or X509_CERT_DIR", "it must be PEM"),
    "KEY_VALUES_MISMATCH": ("the private key is another certificate's", "check --cert and --key"),
    "PEM lib": ("the client certificate or its key cannot be read", "both must be PEM; the key may need --key"),
    "ALERT_UNKNOWN_CA": ("it does not know who signed the client certificate", "check --cert or X509_USER_PROXY"),
}
"""What OpenSSL's errors say, and what that means, the more precise first."""


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
    failure, text = requests.exceptions, str(error)
    if cause_of(error, TooSlow):
        return "the answer comes at less than 1 kB/s", "the server is busy or hangs; --timeout"
    if isinstance(error, failure.SSLError):
        return _explain_tls(text)
    if isinstance(error, failure.ProxyError):
        return "the proxy does not pass it on", "check HTTPS_PROXY and HTTP_PROXY, or set NO_PROXY"
    if isinstance(error, failure.ConnectTimeout):
        return f"no connection within {timeouts[0]:g} s", "check host and port"
    if isinstance(error, failure.Timeout) or "Read timed out" in text:
        return f"no answer within {timeouts[1]:g} s", "the server is busy or hangs; --timeout"
    if "timed out" in text:  # urllib3 sends under the first of the two timeouts
        return f"the server took nothing of the request for {timeouts[0]:g} s", "it is busy or hangs; --timeout"
    if "refused" in text:
        return "nobody listens there", "start a server: tfaas_server.py"
    if "resolve" in text:
        return "there is no host of that name", "check the URL"
    if isinstance(error, failure.ContentDecodingError):
        return "the answer is not packed as it says", "see the server's log"
    if "IncompleteRead" in text or isinstance(error, failure.ChunkedEncodingError):
        return "the answer broke off", "see the server's log"
    if "BadStatusLine" in text:
        return "the answer is no HTTP", f"{_TLS}; else check the port"
    if isinstance(error, failure.ConnectionError):
        return "the server closed the connection without an answer", f"{_TLS}; else see its log"
    return " ".join(text.split())[:LONGEST_REASON], ""


def never_connected(error: requests.RequestException) -> bool:
    """Say whether the server cannot have got any of the request, and may be there soon."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return True
    reason = error.args[0].reason if error.args and isinstance(error.args[0], MaxRetryError) else None
    return isinstance(reason, NewConnectionError) and not isinstance(reason, NameResolutionError)


def broke_off(error: requests.RequestException) -> bool:
    """Say whether a connection ended before the whole answer was there, and not for want of time, trust or a proxy."""
    failure = requests.exceptions
    others = (failure.SSLError, failure.ProxyError, failure.Timeout)
    ended = isinstance(error, (failure.ConnectionError, failure.ChunkedEncodingError)) and not isinstance(error, others)
    return ended and "timed out" not in str(error) and "resolve" not in str(error) and not cause_of(error, TooSlow)


def cause_of(error: BaseException, kind: type[_Cause]) -> _Cause | None:
    """Return what requests has wrapped, if that is of a kind, as of a file that became shorter while it was sent.

    What was being handled as the request began, which is in `__context__` too, has nothing to do with it.
    """
    if isinstance(error, kind):
        return error
    wrapped = [part for part in (*error.args, getattr(error, "reason", None)) if isinstance(part, BaseException)]
    return next((found for part in wrapped if (found := cause_of(part, kind))), None)


def _explain_tls(text: str) -> tuple[str, str]:
    for sign, explained in _TLS_FAILURES.items():
        if sign in text:
            return explained
    return "TLS fails", "a client certificate may be needed: --cert and --key, or X509_USER_PROXY"
