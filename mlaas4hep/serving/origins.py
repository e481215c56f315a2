"""Protection against web pages: which `Host` is answered, and whether another origin's page may send a request.

    origins = Origins(host="127.0.0.1", allowed=["tfaas.example"])
    origins.check("POST", "http", "1.1", {b"host": b"localhost:8083", b"origin": b"https://other.example"})

The second line raises an HTTPException, 403.

A browser sends the requests of any page to any server that it can reach, this machine's loopback addresses included.
Two rules keep such pages out. They need no token, because the browser itself names the page:

* Requests other than GET, HEAD and OPTIONS are accepted only from pages of the same origin. Programs send neither
  `Origin` nor `Sec-Fetch-Site`, so the rule does not concern them. Predictions are included: a foreign page cannot read
  the answer, it can only use up the server's time.
* A server on a loopback address answers only to names of loopback. A page whose own name was made to resolve to
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
_OWN_SITES = (b"same-origin", b"none")  # "none": the person's own doing, such as a bookmark
_AUTHORITY = re.compile(rb"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{0,5}))?")
_DEFAULT_PORTS = {b"http": b"80", b"https": b"443"}
_REMEMBERED = 1000  # values of the header Host
_LONGEST_SHOWN = 60  # characters of a header that are quoted


class Origins:
    """The rules of one server.

    Args:
        host: the address that the server listens on.
        allowed: further names that clients may use as `Host`, without a port. With any, a server on other addresses
            than loopback accepts only these and the names of loopback.

    Raises:
        ConfigError: one of the names is not a host name.
    """

    def __init__(self, host: str, allowed: Iterable[str] = ()) -> None:
        names = {_checked(name) for name in allowed}
        self._restricted = bool(names) or _listens_on_loopback(host)
        self._names = names | {b"localhost", host.lower().encode()}
        self._known: dict[bytes, bool] = {}

    def check(self, method: str, scheme: str, version: str, headers: Mapping[bytes, bytes]) -> None:
        """Accept a request or raise.

        Args:
            scheme: "http" or "https", as the connection has it.
            version: of HTTP, such as "1.1".
            headers: by lower-case name.

        Raises:
            HTTPException: 400 for a request without a host, 403 for one that is not accepted.
        """
        host = headers.get(b"host")
        if host is None:
            if version != "1.0":
                raise HTTPException(400, "the request has no header Host")
        elif not (self._known.get(host) or self._accepts(host)):
            name = _shown(host)
            raise HTTPException(403, f"the server does not answer to the host {name}; --allowed-host adds names")
        if method not in _SAFE and (b"origin" in headers or b"sec-fetch-site" in headers):
            self._check_page(scheme.encode(), host or b"", headers)

    def _check_page(self, scheme: bytes, host: bytes, headers: Mapping[bytes, bytes]) -> None:
        """Raise unless the page that sends a request is of the origin that the request goes to."""
        site = headers.get(b"sec-fetch-site")
        if site is not None and site not in _OWN_SITES:
            raise HTTPException(403, f"a page of another origin sent the request (Sec-Fetch-Site: {_shown(site)})")
        origin = headers.get(b"origin")
        if origin is None:
            return
        theirs, _, authority = origin.partition(b"://")
        ours = theirs if site == b"same-origin" else scheme  # behind a proxy, only the browser knows of https
        page = _authority(authority, theirs)
        if ours != theirs or page is None or page != _authority(host, ours):
            raise HTTPException(403, f"a page of another origin sent the request (Origin: {_shown(origin)})")

    def _accepts(self, host: bytes) -> bool:
        found = _AUTHORITY.fullmatch(host.lower())
        known = found is not None and (found[1] in self._names or _is_loopback(found[1]))
        accepted = known or not self._restricted
        if accepted and len(self._known) < _REMEMBERED:
            self._known[host] = True
        return accepted


def _authority(text: bytes, scheme: bytes) -> tuple[bytes, bytes] | None:
    """Return host and port of "host:port"; None for anything else, such as "null"."""
    found = _AUTHORITY.fullmatch(text.lower())
    return (found[1], found[2] or _DEFAULT_PORTS.get(scheme, b"")) if found else None


def _is_loopback(name: bytes) -> bool:
    """Say whether a name, or an address as it stands in a URL, can only be this machine."""
    try:
        return name == b"localhost" or ipaddress.ip_address(name.decode().strip("[]")).is_loopback
    except ValueError:
        return False


def _listens_on_loopback(host: str) -> bool:
    """Say whether all addresses of a host name are loopback addresses; a name that does not resolve has none."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)} if host else set()
    except (OSError, UnicodeError):
        found = set()
    return bool(found) and all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)


def _checked(name: str) -> bytes:
    """Return an allowed name in lower case, IPv6 addresses in brackets."""
    found = name.strip().lower().encode(errors="replace")
    if found.count(b":") > 1 and not found.startswith(b"["):
        found = b"[%b]" % found
    match = _AUTHORITY.fullmatch(found)
    if match is None or match[2] is not None:
        raise ConfigError(
            f"'{name}' is not a host name", hint="--allowed-host=tfaas.example, without scheme, port and path"
        )
    return found


def _shown(value: bytes) -> str:
    return f"'{value[:_LONGEST_SHOWN].decode('latin-1')}'"
