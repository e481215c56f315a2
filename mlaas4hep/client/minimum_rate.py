"""Abort responses that stall. A socket's own timeout does not suffice: it restarts with each byte.

    session.mount("https://", MinimumRateAdapter())

The headers must be complete within the read timeout, counted from the first byte and including interim responses
(status 1xx). After this timeout, the response must have at least 1 kB for each second beyond it. Our server applies the
same rule to its clients.
"""

from __future__ import annotations

import io
import socket
import time
from http.client import CONTINUE, HTTPResponse
from typing import Any

from requests.adapters import HTTPAdapter

_MIN_RATE = 1000.0  # bytes per second
_MAX_INTERIM = 10
_SWITCHING_PROTOCOLS = 101  # a final response, although its status is 1xx


class ResponseTooSlow(OSError):
    """A response started but arrives too slowly; the message is the reason."""


class NoFinalResponse(OSError):
    """The server sends interim responses only; the message is the reason."""


class MinimumRateAdapter(HTTPAdapter):
    """A transport adapter; reading raises `ResponseTooSlow` or `NoFinalResponse`, which requests wraps."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """See `HTTPAdapter`."""
        super().init_poolmanager(*args, **options)
        _limit_responses(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """See `HTTPAdapter`."""
        is_new = proxy not in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **options)
        if is_new:
            _limit_responses(manager)
        return manager


def _limit_responses(manager: Any) -> None:
    """Make the connections of a urllib3 pool manager read their responses with `_LimitedResponse`."""
    pools = dict(manager.pool_classes_by_scheme)
    for scheme, pool in pools.items():
        connection = type("LimitedConnection", (pool.ConnectionCls,), {"response_class": _LimitedResponse})
        pools[scheme] = type("LimitedPool", (pool,), {"ConnectionCls": connection})
    manager.pool_classes_by_scheme = pools


class _LimitedResponse(HTTPResponse):
    """A response with limits; the timeout of the socket is the read timeout when the response is created."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._interim = 0
        self._stream: _MinimumRateStream | None = None
        timeout = sock.gettimeout()
        if timeout is not None:
            self._stream = _MinimumRateStream(self.fp.detach(), timeout)
            self.fp = io.BufferedReader(self._stream)

    def begin(self) -> None:
        """See `HTTPResponse`."""
        super().begin()
        if self._stream:
            self._stream.has_headers = True

    def _read_status(self) -> tuple[str, int, str]:
        """Read a status line. `begin` calls this again after each response with the status 100, without a limit."""
        version, status, reason = super()._read_status()  # type: ignore[misc]
        if 100 <= status < 200 and status != _SWITCHING_PROTOCOLS:
            self._interim += 1
            if self._interim > _MAX_INTERIM:
                sent = f"more than {_MAX_INTERIM} interim responses (status 1xx)"
                raise NoFinalResponse(f"the server sends {sent} and no final one")
            status = CONTINUE  # `begin` treats other interim responses as final
        return version, status, reason


class _MinimumRateStream(io.RawIOBase):
    """The bytes of one response.

    Attributes:
        has_headers: whether the headers of the final response are complete.
    """

    def __init__(self, raw: io.RawIOBase, timeout: float) -> None:
        self.has_headers = False
        self._raw = raw
        self._timeout = timeout
        self._started = 0.0
        self._received = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count = self._raw.readinto(buffer)
        now = time.monotonic()
        self._started = self._started or now
        self._received += count or 0
        overtime = now - self._started - self._timeout
        if overtime > 0 and not self.has_headers:
            raise ResponseTooSlow(f"the response headers were not complete within {self._timeout:g} s")
        if self._received < _MIN_RATE * overtime:
            raise ResponseTooSlow(f"the response arrives at less than {_MIN_RATE / 1000:g} kB/s")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
