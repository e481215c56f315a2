"""One server over HTTP: a session, what is asked again when it fails, and errors of one line.

    connection = Connection("http://localhost:8083")
    connection.json("GET", "/models")

What is asked again, with growing pauses, or when the server says (Retry-After):

- requests that may be repeated (whatever reads, and predictions): when the connection is refused or ends before the
  whole answer is there, and after 429, 502 and 503.
- requests that are sent `once` (uploads and deletions): only when the server cannot have begun with them: there was no
  connection, or it says with 429 or 503 when to come again. Were they repeated otherwise, what somebody else uploaded
  under the same name in between would be lost.

A server that lets us wait is not asked again, since it would have even more to do. No answer goes on for ever: it must
come in time (`pace`), and be no larger than `LARGEST`, or what the request allows.
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
    Answer,
    Refusal,
    advice_on,
    broke_off,
    cause_of,
    explain,
    never_connected,
    reason_of,
)
from mlaas4hep.client.pace import PacedAdapter
from mlaas4hep.client.token import check_token_may_go_to, checked_token, may_carry_token
from mlaas4hep.errors import FileUnreadable, MLaaS4HEPError, ServiceError
from mlaas4hep.input_files import check_is_file

LARGEST = 64_000_000
"""Bytes of an answer, unpacked."""

_PIECE = 1 << 20  # bytes that are read at a time
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 30
"""Seconds; a server that asks for more is not waited for."""

_WORTH_A_NOTICE = 2  # seconds
_NO_PROXIES: Any = {"http": None, "https": None, "all": None}
"""For a server on this machine, which no proxy elsewhere can reach, and whose token none should see."""


class Connection:
    """One server, one session.

    Args:
        url: the server's, with its base path, as in "http://localhost:8083".
        timeout: seconds to wait for a connection, and for each answer.
        retries: how often to ask again, see above.
        cert: client certificate for https: a file with certificate and key, or a pair of files.
        capath: the authorities that the server's certificate may come from: a file, or a folder with hashed names.
        token: goes along as `Authorization: Bearer`.

    Attributes:
        shown_url: the URL without a password.

    Raises:
        ConfigError: the URL is none, or the token may not go there.
        FileUnreadable: a certificate is not there, or may not be read.
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
                raise FileUnreadable(f"there is no certificate, or no key, that can be read at {file}")
        if capath and not os.path.isdir(capath):
            check_is_file(capath)
        if capath and not os.path.exists(capath):
            raise FileUnreadable(f"there are no certificates of authorities at {capath}")
        self._url = url.rstrip("/")
        self.shown_url = self._url.replace(netloc, netloc.rpartition("@")[2], 1)
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
            self._session.mount(scheme, PacedAdapter())
        self._session.headers["Accept"] = "application/json"
        if token is not None:
            check_token_may_go_to(url)
            self._session.auth = _Bearer(checked_token(token, "the token"))

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def json(self, method: str, path: str, content: Any = None, *, largest: int = LARGEST) -> Any:
        """Send `content` as JSON, if there is any, and return the JSON of the answer, of at most `largest` bytes.

        Raises:
            ServiceError: see `send`.
            Refusal: the answer is no JSON.
        """
        body = None if content is None else json.dumps(content, allow_nan=False).encode()
        headers = {"Content-Type": "application/json"} if body else None
        return self.parse(method, path, self.send(method, path, body, headers, largest=largest).content)

    def parse(self, method: str, path: str, text: bytes) -> Any:
        """Return what the JSON of an answer says.

        Raises:
            Refusal: it is none.
        """
        try:
            return json.loads(text, parse_float=_finite, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            kind = "HTML" if text.lstrip()[:1] == b"<" else "no JSON"
            raise self.refusal(method, path, f"the answer is {kind}") from error

    def send(
        self,
        method: str,
        path: str,
        body: bytes | Body | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        once: bool = False,
        largest: int = LARGEST,
    ) -> Answer:
        """Send a request, if need be several times (see the module), and return the answer.

        Raises:
            ServiceError: there is no answer.
            Refusal: it is an error, says that the server moved, or has more than `largest` bytes.
        """
        attempt = 0
        while True:
            outcome = self._try(method, path, body, headers, once, largest)
            if isinstance(outcome, Answer):
                return outcome
            pause = outcome.pause
            if pause is None:
                pause = _FIRST_PAUSE * 2**attempt * random.uniform(1, 2)
            if not outcome.again or pause > _LONGEST_PAUSE or attempt == self._retries:
                raise outcome.problem
            if pause >= _WORTH_A_NOTICE:
                console.notice(f"{outcome.problem.what}; asking again in {pause:.0f} s")
            time.sleep(pause)
            attempt += 1

    def refusal(self, method: str, path: str, reason: str) -> Refusal:
        """Return the error for an answer that is not one to this request."""
        return Refusal(self._line(method, path, reason), 200, WRONG_SERVER)

    def _try(
        self,
        method: str,
        path: str,
        body: bytes | Body | None,
        headers: Mapping[str, str] | None,
        once: bool,
        largest: int,
    ) -> Answer | _Failure:
        connect, read = self._timeout
        timeouts = (read if once else connect, read)  # urllib3 sends each piece of an upload under the first
        try:
            with self._session.request(
                method, self._url + path, data=body, headers=headers, timeout=timeouts, stream=True, **self._settings
            ) as response:
                content = self._content(method, path, response, largest)
        except requests.RequestException as error:
            if own := cause_of(error, MLaaS4HEPError):
                raise own from None
            reason, hint = explain(error, timeouts)
            problem = ServiceError(self._line(method, path, reason), hint=hint)
            problem.__cause__ = error
            return _Failure(problem, never_connected(error) or (broke_off(error) and not once))
        except UnicodeError as error:  # requests decodes the header Location of every redirect
            problem = ServiceError(
                self._line(method, path, "the answer redirects to an invalid URL"), hint=WRONG_SERVER
            )
            problem.__cause__ = error
            return _Failure(problem, False)
        answer = Answer(response.status_code, response.reason or "", response.headers, content)
        if answer.status < 400 and not answer.moved_to:
            return answer
        pause = _asked_pause(answer)
        again = answer.status in ((429, 502, 503) if not once else () if pause is None else (429, 503))
        return _Failure(self._refused(method, path, answer), again, pause)

    def _content(self, method: str, path: str, response: requests.Response, largest: int) -> bytes:
        """Read an answer, and no more of it than may be."""
        pieces, size = [], 0
        for piece in response.iter_content(_PIECE):
            pieces.append(piece)
            size += len(piece)
            if size > largest:
                raise self.refusal(method, path, f"the answer is larger than {largest / 1e6:,.0f} MB")
        return b"".join(pieces)

    def _refused(self, method: str, path: str, answer: Answer) -> Refusal:
        status = answer.status
        if answer.moved_to:
            return Refusal(
                self._line(method, path, f"{status}: it moved to {answer.moved_to}"), status, "give that URL"
            )
        line = self._line(method, path, f"{status}: {reason_of(answer)}")
        return Refusal(line, status, advice_on(answer, self._has_token, may_carry_token(self._url)))

    def _line(self, method: str, path: str, reason: str) -> str:
        for secret in self._secrets:  # some servers say a token back, and some errors a URL
            reason = reason.replace(secret, "...")
        return f"{method} {self.shown_url}{path}: {reason}"


def _refuse(word: str) -> NoReturn:
    """Raise for NaN, Infinity and -Infinity, which Python's parser would take."""
    raise ValueError(f"{word} is no JSON")


def _finite(text: str) -> float:
    """Return a number; one as 1e999 could not be said in JSON again."""
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large")
    return number


class _Failure(NamedTuple):
    """A request without the answer that was asked for: whether to send it again, and after how many seconds."""

    problem: ServiceError
    again: bool
    pause: float | None = None


class _Bearer(requests.auth.AuthBase):
    """An Authorization header that neither .netrc nor a password in the URL replaces."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _asked_pause(answer: Answer) -> float | None:
    """Return the seconds that the server asks to wait (Retry-After: seconds, or a date), None where it does not."""
    text = answer.headers.get("Retry-After", "")
    if text.isdecimal():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())
