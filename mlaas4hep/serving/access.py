"""Who may do what: tokens, client certificates, and a server that nobody may change.

    access = Access(Tokens("tokens.txt"), private=True)
    access.check("POST", "/upload", bearer=b"...", certificate=None)

Clients are known by a token of the file, or by a certificate. If the server has tokens or accepts certificates, only
known clients may change models; `allowed` names restrict this to some certificates. If the server is `private`, only
known clients may ask.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from mlaas4hep.errors import ConfigError
from mlaas4hep.serving.allowed_names import AllowedNames
from mlaas4hep.serving.watched_file import WatchedFile

if TYPE_CHECKING:
    from mlaas4hep.serving.client_certificates import ClientCertificate

_SHORTEST = 16
_CHANGING = {("POST", "/upload"), ("POST", "/bundle"), ("POST", "/params")}
_OPEN = {"/v2/health/live", "/v2/health/ready", "", "/"}  # for what watches over servers, and to ask for a token
_OPEN_FOLDER = "/static/"  # of the page


class Tokens:
    """Tokens in a file, one a line; '#' begins a comment. A file that changes is read again.

    Raises:
        FileUnreadable, ConfigError: it cannot be read, holds none, or one that can be guessed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = WatchedFile(path, _parse_tokens, "tokens")

    def know(self, token: bytes) -> bool:
        """Say whether the token is in the file."""
        return hashlib.sha256(token).digest() in (self._file.content() or ())


def _parse_tokens(text: str) -> frozenset[bytes]:
    """Return the digests of the tokens in a file."""
    tokens = [line.split("#")[0].strip() for line in text.splitlines()]
    tokens = [token for token in tokens if token]
    if not tokens or min(map(len, tokens)) < _SHORTEST:
        what = f"holds a token of less than {_SHORTEST} characters" if tokens else "holds no token"
        raise ConfigError(what, hint="one a line: python -c 'import secrets; print(secrets.token_urlsafe())'")
    return frozenset(hashlib.sha256(token.encode()).digest() for token in tokens)


class Access:
    """The rules of one server.

    Attributes:
        open: whether there are none.

    Args:
        tokens: those that are known; None where there is no such file.
        certificates: whether clients may present certificates.
        private, read_only: see `Settings`.
        allowed: whose certificates may change models; None: all.
    """

    def __init__(
        self,
        tokens: Tokens | None = None,
        certificates: bool = False,
        private: bool = False,
        read_only: bool = False,
        allowed: AllowedNames | None = None,
    ) -> None:
        self._tokens = tokens
        self._rules = tokens is not None or certificates
        self._ways = " or ".join(
            way for way, there in (("a token", tokens is not None), ("a client certificate", certificates)) if there
        )
        self.open = not (self._rules or read_only)
        self._private = private
        self._read_only = read_only
        self._allowed = allowed
        if private and not self._rules:
            raise ConfigError("the server is private, and nobody can be known to it", hint="--token-file, or --capath")
        if allowed is not None and not certificates:
            raise ConfigError("--allow-dn and --gridmap are for client certificates", hint="--capath accepts them")

    def check(self, method: str, path: str, bearer: bytes | None, certificate: ClientCertificate | None) -> None:
        """Let a request pass, or not.

        Args:
            path: without the base path.
            bearer: the token of the header `Authorization`.
            certificate: the client's, as TLS has verified it; None without one.

        Raises:
            HTTPException: 401 for clients that must be known and are not, 403 for what they may not do.
        """
        changes = method == "DELETE" or (method, path) in _CHANGING
        if changes and self._read_only:
            raise HTTPException(403, "the server is read-only")
        if not self._rules or not (changes or self._private) or path in _OPEN or path.startswith(_OPEN_FOLDER):
            return
        if bearer is not None and self._tokens is not None and self._tokens.know(bearer):
            return
        if certificate is None:
            unknown = bearer is not None and self._tokens is not None
            raise self._unknown("the token is not known" if unknown else f"{self._ways} is needed")
        self._check_certificate(certificate, changes)

    def _check_certificate(self, certificate: ClientCertificate, changes: bool) -> None:
        problem = certificate.problem()
        if problem:
            certificate.log_refusal(problem)
            raise self._unknown(f"the client certificate is refused: {problem}")
        if changes and self._allowed is not None and not self._allowed.permit(certificate.subject):
            certificate.log_refusal("it may not change models")
            raise HTTPException(403, f"{certificate.shown} may not change models")

    def _unknown(self, reason: str) -> HTTPException:
        return HTTPException(401, reason, {"WWW-Authenticate": "Bearer"} if self._tokens is not None else None)
