"""Protection against web pages of other origins, by the headers `Host`, `Origin` and `Sec-Fetch-Site`.

    origins = Origins(host="127.0.0.1", allowed=["tfaas.example"])
    origins.check("POST", "http", "1.1", {b"host": b"localhost:8083", b"origin": b"https://other.example"})

The second line raises an HTTPException with status 403.

A browser sends the requests of any page to any server that it can reach, including the loopback addresses of its own
machine. Two rules keep such pages out without a token, since the browser names the page in its headers:

* Requests other than GET, HEAD and OPTIONS are accepted only from pages of the same origin. Programs send neither
  `Origin` nor `Sec-Fetch-Site`, so the rule does not affect them. Predictions are included: a page of another origin
  could not read the response, but it could keep the server busy.
* A server on a loopback address accepts only loopback names as `Host`. A page whose name was made to resolve to
  127.0.0.1 (DNS rebinding) still sends its own name as `Host`.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping

from starlette.exceptions import HTTPException

from mlaas4hep.errors import ConfigError

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_TRUSTED_SITES = (b"same-origin", b"none")  # "none": the user opened the URL directly, as from a bookmark
_AUTHORITY = re.compile(rb"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{0,5}))?")
_DEFAULT_PORTS = {b"http": b"80", b"https": b"443"}
_CACHED = 1000  # accepted values of the Host header
_LONGEST_SHOWN = 60  # characters of a header in an error message


class Origins:
    """The checks of a server.

    Args:
        host: the address that the server listens on.
        allowed: further values of `Host` to accept, without a port. If there are any, a server on an address other
            than loopback accepts only these and the loopback names.

    Raises:
        ConfigError: a value is not a host name.
    """

    def __init__(self, host: str, allowed: Iterable[str] = ()) -> None:
        names = {_checked(name) for name in allowed}
        self._restricted = bool(names) or _listens_on_loopback(host)
        self._names = names | {b"localhost", host.lower().encode()}
        self._accepted: dict[bytes, bool] = {}

    def check(self, method: str, scheme: str, version: str, headers: Mapping[bytes, bytes]) -> None:
        """Raise unless a request is accepted.

        Args:
            scheme: "http" or "https".
            version: of HTTP, as in "1.1".
            headers: by lower-case name.

        Raises:
            HTTPException: 400 for a request without a host, 403 for one that is not accepted.
        """
        host = headers.get(b"host")
        if host is None:
            if version != "1.0":
                raise HTTPException(400, "the request has no Host header")
        elif not (self._accepted.get(host) or self._accepts(host)):
            name = _shown(host)
            raise HTTPException(403, f"the server does not accept the host {name}; --allowed-host adds names")
        if method not in _SAFE and (b"origin" in headers or b"sec-fetch-site" in headers):
            self._check_page(scheme.encode(), host or b"", headers)

    def _check_page(self, scheme: bytes, host: bytes, headers: Mapping[bytes, bytes]) -> None:
        """Raise unless the page that sent a request has the origin of the server."""
        site = headers.get(b"sec-fetch-site")
        if site is not None and site not in _TRUSTED_SITES:
            raise HTTPException(403, f"a page of another origin sent the request (Sec-Fetch-Site: {_shown(site)})")
        origin = headers.get(b"origin")
        if origin is None:
            return
        page_scheme, _, authority = origin.partition(b"://")
        expected = page_scheme if site == b"same-origin" else scheme  # behind a proxy, only the browser knows of https
        page = _authority(authority, page_scheme)
        if expected != page_scheme or page is None or page != _authority(host, expected):
            raise HTTPException(403, f"a page of another origin sent the request (Origin: {_shown(origin)})")

    def _accepts(self, host: bytes) -> bool:
        match = _AUTHORITY.fullmatch(host.lower())
        named = match is not None and (match[1] in self._names or _is_loopback(match[1]))
        accepted = named or not self._restricted
        if accepted and len(self._accepted) < _CACHED:
            self._accepted[host] = True
        return accepted


def _authority(text: bytes, scheme: bytes) -> tuple[bytes, bytes] | None:
    """Return host and port of "host:port"; None for anything else, such as "null"."""
    match = _AUTHORITY.fullmatch(text.lower())
    return (match[1], match[2] or _DEFAULT_PORTS.get(scheme, b"")) if match else None


def _is_loopback(name: bytes) -> bool:
    """Return whether a name or an address, as written in a URL, can only be this machine."""
    try:
        return name == b"localhost" or ipaddress.ip_address(name.decode().strip("[]")).is_loopback
    except ValueError:
        return False


def _listens_on_loopback(host: str) -> bool:
    """Return whether a host name resolves, and only to loopback addresses."""
    try:
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)} if host else set()
    except (OSError, UnicodeError):
        addresses = set()
    return bool(addresses) and all(ipaddress.ip_address(one.partition("%")[0]).is_loopback for one in addresses)


def _checked(name: str) -> bytes:
    """Return an allowed host name in lower case, an IPv6 address in brackets."""
    host = name.strip().lower().encode(errors="replace")
    if host.count(b":") > 1 and not host.startswith(b"["):
        host = b"[%b]" % host
    match = _AUTHORITY.fullmatch(host)
    if match is None or match[2] is not None:
        hint = "--allowed-host=tfaas.example, without scheme, port and path"
        raise ConfigError(f"'{name}' is not a host name", hint=hint)
    return host


def _shown(value: bytes) -> str:
    return f"'{value[:_LONGEST_SHOWN].decode('latin-1')}'"
