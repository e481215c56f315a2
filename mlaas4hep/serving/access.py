"""Who may do what: tokens, client certificates, and a server that nobody may change.

    access = Access(Tokens("tokens.txt"), private=True)
    access.check("POST", "/upload", bearer=b"...", certificate=False)

Whoever shows a token of the file, or a certificate that TLS has verified, is known. Where there is a way to be known,
only the known may change models; `private`, only they may ask.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from pathlib import Path

from starlette.exceptions import HTTPException

from mlaas4hep.errors import ConfigError, FileUnreadable

_SHORTEST = 16
_FRESH = 1.0  # seconds that a token file is believed without another look
_CHANGING = {("POST", "/upload"), ("POST", "/bundle"), ("POST", "/params")}
_OPEN = {"/v2/health/live", "/v2/health/ready", "", "/"}  # for what watches over servers, and to ask for a token
_OPEN_FOLDER = "/static/"  # of the page
_log = logging.getLogger(__name__)


class Tokens:
    """Tokens in a file, one a line; '#' begins a comment. A file that changes is read again.

    Raises:
        FileUnreadable, ConfigError: it cannot be read, holds none, or one that can be guessed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._digests, self._version, self._looked = self._read(), self._stat(), time.monotonic()

    def know(self, token: bytes) -> bool:
        """Say whether the token is in the file."""
        if time.monotonic() - self._looked > _FRESH:
            self._look_again()
        return hashlib.sha256(token).digest() in self._digests

    def _look_again(self) -> None:
        self._looked = time.monotonic()
        try:
            version = self._stat()
            if version != self._version:
                self._digests, self._version = self._read(), version
        except (FileUnreadable, ConfigError) as error:
            if self._version is not None:  # told once
                _log.warning("nobody is known any more by a token: %s", error)
            self._digests, self._version = frozenset(), None  # whoever took the file away wants nobody in

    def _stat(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError as error:
            raise FileUnreadable(f"cannot read the tokens in {self._path}: {error.strerror}") from error
        return status.st_mtime_ns, status.st_ino

    def _read(self) -> frozenset[bytes]:
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise FileUnreadable(f"cannot read the tokens in {self._path}: {reason}") from error
        tokens = [line.split("#")[0].strip() for line in lines]
        tokens = [token for token in tokens if token]
        if not tokens or min(map(len, tokens)) < _SHORTEST:
            what = f"holds a token of less than {_SHORTEST} characters" if tokens else "holds no token"
            raise ConfigError(
                f"{self._path} {what}", hint="one a line: python -c 'import secrets; print(secrets.token_urlsafe())'"
            )
        return frozenset(hashlib.sha256(token.encode()).digest() for token in tokens)


class Access:
    """The rules of one server.

    Attributes:
        open: whether there are none.

    Args:
        tokens: those that are known; None where there is no such file.
        certificates: whether clients may show certificates.
        private, read_only: see `Settings`.
    """

    def __init__(
        self, tokens: Tokens | None = None, certificates: bool = False, private: bool = False, read_only: bool = False
    ) -> None:
        self._tokens = tokens
        self._rules = tokens is not None or certificates
        self._ways = " or ".join(
            way for way, there in (("a token", tokens is not None), ("a client certificate", certificates)) if there
        )
        self.open = not (self._rules or read_only)
        self._private = private
        self._read_only = read_only
        if private and not self._rules:
            raise ConfigError("the server is private, and nobody can be known to it", hint="--token-file, or --capath")

    def check(self, method: str, path: str, bearer: bytes | None, certificate: bool) -> None:
        """Let a request pass, or not.

        Args:
            path: without the base path.
            bearer: the token of the header `Authorization`.
            certificate: whether the client showed one that TLS believes.

        Raises:
            HTTPException: 401 for who is not known and must be, 403 for what nobody may do.
        """
        changes = method == "DELETE" or (method, path) in _CHANGING
        if changes and self._read_only:
            raise HTTPException(403, "the server is read-only")
        if not self._rules or not (changes or self._private) or path in _OPEN or path.startswith(_OPEN_FOLDER):
            return
        if certificate or (bearer is not None and self._tokens is not None and self._tokens.know(bearer)):
            return
        wrong = (
            "the token is not known" if bearer is not None and self._tokens is not None else f"{self._ways} is needed"
        )
        raise HTTPException(401, wrong, {"WWW-Authenticate": "Bearer"} if self._tokens is not None else None)
