"""The URL of a server.

split_url("http://localhost:8083/tfaas").hostname
"""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

from mlaas4hep.errors import ConfigError


def split_url(url: str) -> SplitResult:
    """Return the parts of a server's URL.

    Raises:
        ConfigError: it is none.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port, (parts.hostname or "").encode("idna")
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        shown = url.rpartition("@")[2]  # no password
        raise ConfigError(f"'{shown}' is no URL of a server", hint="one is http://localhost:8083")
    return parts


def is_loopback(url: str) -> bool:
    """Say whether a server is on this machine, by its name alone."""
    host = split_url(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
