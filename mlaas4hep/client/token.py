"""The token that says who we are: where it is found, and to which servers it goes.

    find_token("https://host:8083", token_file="token.txt")

Without a file of the user's it is found as WLCG's tools find it: BEARER_TOKEN, the file BEARER_TOKEN_FILE,
XDG_RUNTIME_DIR/bt_u$UID, /tmp/bt_u$UID (WLCG Bearer Token Discovery, doi:10.5281/zenodo.3937438). It goes over https,
or to this machine, and nowhere else; its text is never part of a message.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mlaas4hep.client.address import is_loopback, split_url
from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.input_files import check_is_file

_FORM = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""What goes into the header: RFC 6750's b64token."""

_LARGEST = 100_000  # bytes


def find_token(url: str, token_file: str | os.PathLike[str] | None = None) -> str | None:
    """Return the token for a server; None where there is none, or where it would go over the net as plain text.

    Args:
        url: the server's.
        token_file: where the user says that it is; it must be there then, and the server one that it may go to.

    Raises:
        ConfigError: the URL is none, what is found is no token, or `token_file` is for a server that it may not go to.
        FileUnreadable: a file that is named cannot be read.
    """
    if token_file is not None:
        check_token_may_go_to(url)
        token = _read(Path(token_file), "--token-file")
        if token is None:
            raise ConfigError(f"there is no token in {token_file}")
        return token
    if not may_carry_token(url):
        return None
    if text := os.environ.get("BEARER_TOKEN", "").strip():
        return checked_token(text, "BEARER_TOKEN")
    if name := os.environ.get("BEARER_TOKEN_FILE"):
        return _read(Path(name), "BEARER_TOKEN_FILE")
    folders = [os.environ.get("XDG_RUNTIME_DIR"), "/tmp"]
    for path in (Path(folder, f"bt_u{os.geteuid()}") for folder in folders if folder):
        if _is_ours(path) and (token := _read(path, "your token")):
            return token
    return None


def may_carry_token(url: str) -> bool:
    """Say whether a token may go to a server: over https, or to this machine."""
    return split_url(url).scheme == "https" or is_loopback(url)


def check_token_may_go_to(url: str) -> None:
    """Raise a ConfigError unless `may_carry_token`."""
    if not may_carry_token(url):
        raise ConfigError(
            "the token is not sent over http, where others can read it", hint="the URL must begin with https"
        )


def checked_token(text: str, source: str) -> str:
    """Return a token, if it is one; `source` is where it comes from.

    Raises:
        ConfigError: it has other letters than tokens have.
    """
    if not _FORM.fullmatch(text):
        raise ConfigError(
            f"what is in {source} is no token", hint="one is a single word of letters, digits and -._~+/="
        )
    return text


def _read(path: Path, source: str) -> str | None:
    check_is_file(path)
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST).decode("latin-1").strip()
    except OSError as error:
        raise FileUnreadable(f"cannot read {source} ({path}): {error.strerror}") from error
    return checked_token(text, str(path)) if text else None


def _is_ours(path: Path) -> bool:
    """Say whether a file is there that nobody else can have left for us: everybody may write to /tmp."""
    try:
        return path.lstat().st_uid == os.geteuid() and path.is_file()
    except OSError:
        return False
