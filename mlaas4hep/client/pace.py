"""An end to answers that come to none: a socket's timeout begins anew with each byte, be it one a minute.

    session.mount("https://", PacedAdapter())

Once an answer has taken longer than the timeout for reading, it must have come at 1 kB/s since then: the rule that our
server has for its clients. It holds from the first byte, so for headers too.
"""

from __future__ import annotations

import io
import socket
import time
from http.client import HTTPResponse
from typing import Any

from requests.adapters import HTTPAdapter

_SLOWEST = 1000.0  # bytes a second


class TooSlow(OSError):
    """An answer has begun, and does not go on fast enough."""


class PacedAdapter(HTTPAdapter):
    """What requests sends with; reading raises `TooSlow`, which it wraps."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """See `HTTPAdapter`."""
        super().init_poolmanager(*args, **options)
        _pace(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """See `HTTPAdapter`."""
        is_new = proxy not in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **options)
        if is_new:
            _pace(manager)
        return manager


def _pace(manager: Any) -> None:
    """Let the connections that a manager of urllib3 makes read their answers by `_Response`."""
    manager.pool_classes_by_scheme = {
        scheme: type("PacedPool", (pool,), {"ConnectionCls": _paced(pool.ConnectionCls)})
        for scheme, pool in manager.pool_classes_by_scheme.items()
    }


def _paced(connection: type) -> type:
    return type("PacedConnection", (connection,), {"response_class": _Response})


class _Response(HTTPResponse):
    """See `http.client`; the socket has the timeout for reading when an answer is made of it."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        timeout = sock.gettimeout()
        if timeout is not None:
            self.fp = io.BufferedReader(_Paced(self.fp.detach(), timeout))


class _Paced(io.RawIOBase):
    """What arrives of one answer."""

    def __init__(self, raw: io.RawIOBase, timeout: float) -> None:
        self._raw = raw
        self._timeout = timeout
        self._began = 0.0
        self._arrived = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count = self._raw.readinto(buffer)
        now = time.monotonic()
        self._began = self._began or now
        self._arrived += count or 0
        if self._arrived < _SLOWEST * (now - self._began - self._timeout):
            raise TooSlow(f"{self._arrived} bytes in {now - self._began:.0f} s")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
