"""The bearer token: where it is found, and to which servers it is sent.

    find_token("https://host:8083", token_file="token.txt")

Without a token file, the search order is that of WLCG Bearer Token Discovery (doi:10.5281/zenodo.3937438):
BEARER_TOKEN, the file BEARER_TOKEN_FILE, XDG_RUNTIME_DIR/bt_u$UID, /tmp/bt_u$UID. The token is sent only over https or
to this machine, and messages never contain it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mlaas4hep.client.address import is_loopback, split_url
from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.input_files import check_is_file

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750's b64token."""

_MAX_BYTES = 100_000


def find_token(url: str, token_file: str | os.PathLike[str] | None = None) -> str | None:
    """Return the token for a server, or None if there is none or the URL does not allow one.

    Args:
        url: the server's URL.
        token_file: file with the token, which must exist; the URL must allow a token.

    Raises:
        ConfigError: the URL or the token is invalid, or the URL does not allow the token in `token_file`.
        FileUnreadable: a token file cannot be read.
    """
    if token_file is not None:
        check_allows_token(url)
        token = _read(Path(token_file), "--token-file")
        if token is None:
            raise ConfigError(f"the token file {token_file} is empty")
        return token
    if not allows_token(url):
        return None
    if text := os.environ.get("BEARER_TOKEN", "").strip():
        return check_token(text, "BEARER_TOKEN")
    if name := os.environ.get("BEARER_TOKEN_FILE"):
        return _read(Path(name), "BEARER_TOKEN_FILE")
    folders = [os.environ.get("XDG_RUNTIME_DIR"), "/tmp"]
    for path in (Path(folder, f"bt_u{os.geteuid()}") for folder in folders if folder):
        if _is_own_file(path) and (token := _read(path, "your token")):
            return token
    return None


def allows_token(url: str) -> bool:
    """Return whether a token may be sent to a server: over https, or to this machine."""
    return split_url(url).scheme == "https" or is_loopback(url)


def check_allows_token(url: str) -> None:
    """Raise a ConfigError unless `allows_token`."""
    if not allows_token(url):
        what = "the token is not sent over http, where others can read it"
        raise ConfigError(what, hint="use a URL that begins with https")


def check_token(text: str, source: str) -> str:
    """Return a token if it is valid; `source` says where it was found.

    Raises:
        ConfigError: it has characters that tokens do not have.
    """
    if not _TOKEN.fullmatch(text):
        raise ConfigError(f"invalid token in {source}", hint="a token is one word of letters, digits and -._~+/=")
    return text


def _read(path: Path, source: str) -> str | None:
    check_is_file(path)
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES).decode("latin-1").strip()
    except OSError as error:
        raise FileUnreadable(f"cannot read {source} ({path}): {error.strerror}") from error
    return check_token(text, str(path)) if text else None


def _is_own_file(path: Path) -> bool:
    """Return whether a file exists and is owned by this user, since every user can write to /tmp."""
    try:
        return path.lstat().st_uid == os.geteuid() and path.is_file()
    except OSError:
        return False
