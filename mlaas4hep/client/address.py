"""Parsing of server URLs.

split_url("http://localhost:8083/tfaas").hostname
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from mlaas4hep.errors import ConfigError

_EXAMPLE = "write it as in http://localhost:8083"
_HOST = re.compile(r"[\w.-]+|[0-9a-f]*:[0-9a-f:.]+(%[\w.-]+)?")
"""A host name, which may have letters of any language, or an IPv6 address with its zone."""


def split_url(url: str) -> SplitResult:
    """Return the parts of a server's URL.

    Raises:
        ConfigError: the URL is invalid.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port, (parts.hostname or "").encode("idna")
    except ValueError:
        parts = urlsplit("")
    is_valid = url.isprintable() and " " not in url and parts.scheme in ("http", "https")
    without_password = url.rpartition("@")[2]
    if not is_valid or not _HOST.fullmatch(parts.hostname or ""):
        raise ConfigError(f"invalid server URL '{without_password}'", hint=_EXAMPLE)
    if "?" in url or "#" in url:
        shown = re.split("[?#]", without_password)[0]
        raise ConfigError(f"the server URL '{shown}' must not have a query or a fragment", hint=_EXAMPLE)
    return parts


def is_loopback(url: str) -> bool:
    """Return whether a server is on this machine, judged by its host name alone."""
    host = split_url(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
