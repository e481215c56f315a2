"""An HTTP session with one server: retries, timeouts, and errors of one line.

    connection = Connection("http://localhost:8083", ...)
    connection.json("GET", "/models")

Retries use an exponential backoff, or the delay that the server asks for (Retry-After):

- Repeatable requests (queries and predictions) are retried if the connection is refused or lost, and after 429, 502
  and 503.
- Uploads and deletions (`repeatable=False`) are retried only if the server cannot have processed them: there was no
  connection, or it answered 429 or 503 with Retry-After. Otherwise a retry could overwrite a model that another client
  uploaded under the same name meanwhile.

Timeouts are not retried, since this would only add to the load of a slow server. Responses must arrive at a minimum
rate (`minimum_rate`) and may have at most `max_bytes`.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, NoReturn

import requests

from mlaas4hep import console
from mlaas4hep.client.address import is_loopback, split_url
from mlaas4hep.client.bodies import Body
from mlaas4hep.client.failures import (
    WRONG_SERVER,
    ServerResponse,
    UnexpectedResponse,
    advise_on,
    connection_lost,
    error_message,
    explain,
    find_cause,
    never_connected,
)
from mlaas4hep.client.minimum_rate import MinimumRateAdapter
from mlaas4hep.client.token import allows_token, check_allows_token, check_token
from mlaas4hep.errors import FileUnreadable, MLaaS4HEPError, ServiceError
from mlaas4hep.input_files import check_is_file

MAX_RESPONSE_BYTES = 64_000_000
"""Largest size of a response body, decompressed."""

_CHUNK_SIZE = 1 << 20  # bytes
_FIRST_DELAY = 0.2
_MAX_DELAY = 30
"""Seconds; a request is not retried if the server asks for a longer delay."""

_NOTICE_DELAY = 2  # seconds
_NO_PROXIES: Any = {"http": None, "https": None, "all": None}
"""For servers on this machine: a proxy elsewhere cannot reach them, and must not see the token."""


class Connection:
    """An HTTP session with one server; for the arguments and the errors see `TFaaSClient`.

    Attributes:
        display_url: the URL without a password.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: tuple[float, float],
        retries: int,
        cert: str | tuple[str, str] | None,
        capath: str | None,
        token: str | None,
    ) -> None:
        netloc = split_url(url).netloc
        for file in [cert] if isinstance(cert, str) else cert or []:
            check_is_file(file)
            if not os.path.isfile(file) or not os.access(file, os.R_OK):
                raise FileUnreadable(f"the certificate or key {file} is missing or unreadable")
        if capath and not os.path.isdir(capath):
            check_is_file(capath)
        if capath and not os.path.exists(capath):
            raise FileUnreadable(f"the certificates of authorities {capath} do not exist")
        self._url = url.rstrip("/")
        self.display_url = self._url.replace(netloc, netloc.rpartition("@")[2], 1)
        self._timeout = timeout
        self._retries = retries
        self._has_token = token is not None
        self._secrets = [token] if token else []
        if "@" in netloc:
            self._secrets.append(netloc.rpartition("@")[0])
        self._settings: dict[str, Any] = {"cert": cert, "verify": capath or True, "allow_redirects": False}
        if is_loopback(url):
            self._settings["proxies"] = _NO_PROXIES
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, MinimumRateAdapter())
        self._session.headers["Accept"] = "application/json"
        if token is not None:
            check_allows_token(url)
            self._session.auth = _BearerAuth(check_token(token, "the argument 'token'"))

    def close(self) -> None:
        """Close the session."""
        self._session.close()

    def json(self, method: str, path: str, content: Any = None, *, max_bytes: int = MAX_RESPONSE_BYTES) -> Any:
        """Send `content` as JSON unless it is None, and return the parsed JSON of the response.

        Raises:
            ServiceError: see `send`.
            UnexpectedResponse: the response is not JSON.
        """
        body = None if content is None else json.dumps(content, allow_nan=False).encode()
        headers = {"Content-Type": "application/json"} if body else None
        return self.parse(method, path, self.send(method, path, body, headers, max_bytes=max_bytes).content)

    def parse(self, method: str, path: str, text: bytes) -> Any:
        """Parse the JSON of a response; raise UnexpectedResponse if it is not JSON."""
        try:
            return json.loads(text, parse_float=_parse_float, parse_constant=_reject_constant)
        except (ValueError, RecursionError) as error:
            kind = "HTML, not JSON" if text.lstrip()[:1] == b"<" else "not JSON"
            raise self.unexpected(method, path, f"the response is {kind}") from error

    def send(
        self,
        method: str,
        path: str,
        body: bytes | Body | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        repeatable: bool = True,
        max_bytes: int = MAX_RESPONSE_BYTES,
        response_timeout: float | None = None,
    ) -> ServerResponse:
        """Send a request, with retries as described in the module, and return the response.

        Args:
            path: the path relative to the base URL.
            headers: additional headers.
            repeatable: whether the request may be sent again after it may have been processed.
            max_bytes: maximum size of the response.
            response_timeout: seconds to wait for the response (default: the second value of `timeout`).

        Raises:
            ServiceError: the server does not respond.
            UnexpectedResponse: the response is an error or a redirect, or has more than `max_bytes`.
        """
        connect, read = self._timeout
        # urllib3 applies the first timeout to each chunk of an upload, too.
        timeouts = (connect if repeatable else read, response_timeout or read)
        attempt = 0
        while True:
            outcome = self._attempt(method, path, repeatable, max_bytes, timeouts, data=body, headers=headers)
            if isinstance(outcome, ServerResponse):
                return outcome
            delay = outcome.delay
            if delay is None:
                delay = _FIRST_DELAY * 2**attempt * random.uniform(1, 2)
            if not outcome.retry or delay > _MAX_DELAY or attempt == self._retries:
                raise outcome.error
            if delay >= _NOTICE_DELAY:
                console.notice(f"{outcome.error.what}; retrying in {delay:.0f} s")
            time.sleep(delay)
            attempt += 1

    def unexpected(self, method: str, path: str, reason: str) -> UnexpectedResponse:
        """Return the error for a successful response with invalid content."""
        return UnexpectedResponse(self._message(method, path, reason), 200, WRONG_SERVER)

    def _attempt(
        self, method: str, path: str, repeatable: bool, max_bytes: int, timeouts: tuple[float, float], **options: Any
    ) -> ServerResponse | _FailedAttempt:
        options |= {"timeout": timeouts, "stream": True, **self._settings}
        try:
            with self._session.request(method, self._url + path, **options) as response:
                content = self._read_body(method, path, response, max_bytes)
        except (requests.RequestException, UnicodeError) as error:
            if own := find_cause(error, MLaaS4HEPError):
                raise own from None
            reason, hint = explain(error, timeouts)
            failure = ServiceError(self._message(method, path, reason), hint=hint)
            failure.__cause__ = error
            return _FailedAttempt(failure, never_connected(error) or (connection_lost(error) and repeatable))
        answer = ServerResponse(response.status_code, response.reason or "", response.headers, content)
        if answer.status < 400 and not answer.redirect:
            return answer
        delay = _retry_after(answer)
        retry = answer.status in ((429, 502, 503) if repeatable else () if delay is None else (429, 503))
        return _FailedAttempt(self._error(method, path, answer), retry, delay)

    def _read_body(self, method: str, path: str, response: requests.Response, max_bytes: int) -> bytes:
        chunks, size = [], 0
        for chunk in response.iter_content(_CHUNK_SIZE):
            chunks.append(chunk)
            size += len(chunk)
            if size > max_bytes:
                raise self.unexpected(method, path, f"the response is larger than {max_bytes / 1e6:,.0f} MB")
        return b"".join(chunks)

    def _error(self, method: str, path: str, response: ServerResponse) -> UnexpectedResponse:
        status = response.status
        if response.redirect:
            message = self._message(method, path, f"{status}: the server redirects to {response.redirect}")
            return UnexpectedResponse(message, status, "use that URL")
        message = self._message(method, path, f"{status}: {error_message(response)}")
        advice = advise_on(response, self._has_token, allows_token(self._url))
        return UnexpectedResponse(message, status, advice, response.text)

    def _message(self, method: str, path: str, reason: str) -> str:
        for secret in self._secrets:  # some servers repeat the token, and some errors contain the URL
            reason = reason.replace(secret, "...")
        return f"{method} {self.display_url}{path}: {reason}"


def _reject_constant(text: str) -> NoReturn:
    """Raise for NaN, Infinity and -Infinity, which Python's parser would accept."""
    raise ValueError(f"{text} is not JSON")


def _parse_float(text: str) -> float:
    """Return a finite number; infinity (from 1e999) cannot be written as JSON again."""
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large")
    return number


class _FailedAttempt(NamedTuple):
    """A request that failed: whether to retry it, and after how many seconds (None: no preference)."""

    error: ServiceError
    retry: bool
    delay: float | None = None


class _BearerAuth(requests.auth.AuthBase):
    """An Authorization header that takes precedence over .netrc and a password in the URL."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _retry_after(response: ServerResponse) -> float | None:
    """Return the delay in seconds of the header Retry-After (seconds or a date), or None."""
    text = response.headers.get("Retry-After", "")
    if text.isdecimal():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())
