"""The URL of a server.

split_url("http://localhost:8083/tfaas").hostname
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from mlaas4hep.errors import ConfigError

_EXAMPLE = "one is http://localhost:8083"
_HOST = re.compile(r"[\w.-]+|[0-9a-f]*:[0-9a-f:.]+(%[\w.-]+)?")
"""A name, which may have letters of any language, or an IPv6 address with its zone."""


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
    is_whole = url.isprintable() and " " not in url and parts.scheme in ("http", "https")
    if not is_whole or not _HOST.fullmatch(parts.hostname or ""):
        raise ConfigError(f"'{url.rpartition('@')[2]}' is no URL of a server", hint=_EXAMPLE)  # without a password
    if "?" in url or "#" in url:
        shown = re.split("[?#]", url.rpartition("@")[2])[0]
        raise ConfigError(f"'{shown}' is followed by '?' or '#', which no URL of a server has", hint=_EXAMPLE)
    return parts


def is_loopback(url: str) -> bool:
    """Say whether a server is on this machine, by its name alone."""
    host = split_url(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
