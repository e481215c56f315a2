"""Authentication of clients by tokens and certificates, and authorization of requests.

    access = Access(Tokens("tokens.txt"), private=True)
    access.check("POST", "/upload", bearer=b"...", certificate=None)

A client is authenticated by a token of the file, or by a certificate. If the server has tokens or accepts
certificates, only authenticated clients may change models; `allowed` restricts this right to some certificates. If the
server is `private`, all other requests require authentication too. A `read_only` server refuses all changes.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from mlaas4hep.errors import ConfigError
from mlaas4hep.serving.certificates.allowed_names import AllowedNames
from mlaas4hep.serving.http.watched_file import WatchedFile

if TYPE_CHECKING:
    from mlaas4hep.serving.certificates.client_certificates import ClientCertificate

_SHORTEST_TOKEN = 16
_CHANGES = {("POST", "/upload"), ("POST", "/bundle"), ("POST", "/params")}
_OPEN = {"/v2/health/live", "/v2/health/ready", "", "/"}  # for monitoring, and for the page, which asks for a token
_OPEN_PREFIX = "/static/"  # files of the page


class Tokens:
    """Tokens in a file, one per line; '#' begins a comment. The file is read again when it changes.

    Raises:
        FileUnreadable: the file cannot be read.
        ConfigError: the file has no token, or one that is too short.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = WatchedFile(path, _parse_tokens, "tokens")

    def contains(self, token: bytes) -> bool:
        """Return whether the token is in the file."""
        return hashlib.sha256(token).digest() in (self._file.content() or ())


def _parse_tokens(text: str) -> frozenset[bytes]:
    """Return the digests of the tokens in a file."""
    tokens = [line.split("#")[0].strip() for line in text.splitlines()]
    tokens = [token for token in tokens if token]
    if not tokens or min(map(len, tokens)) < _SHORTEST_TOKEN:
        what = f"has a token of less than {_SHORTEST_TOKEN} characters" if tokens else "has no token"
        raise ConfigError(what, hint="write one per line: python -c 'import secrets; print(secrets.token_urlsafe())'")
    return frozenset(hashlib.sha256(token.encode()).digest() for token in tokens)


class Access:
    """The access rules of a server.

    Args:
        tokens: the tokens that authenticate a client; None: no tokens.
        certificates: whether the server accepts client certificates.
        private, read_only: see `Settings`.
        allowed: the names of certificates that may change models; None: all.

    Attributes:
        open: whether every request is permitted.
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
        self._authenticates = tokens is not None or certificates
        credentials = (("a token", tokens is not None), ("a client certificate", certificates))
        self._credentials = " or ".join(name for name, accepted in credentials if accepted)
        self.open = not (self._authenticates or read_only)
        self._private = private
        self._read_only = read_only
        self._allowed = allowed
        if private and not self._authenticates:
            raise ConfigError("--private needs a way to authenticate clients", hint="add --token-file or --capath")
        if allowed is not None and not certificates:
            raise ConfigError("--allow-dn and --gridmap need client certificates", hint="add --capath")

    def check(self, method: str, path: str, bearer: bytes | None, certificate: ClientCertificate | None) -> None:
        """Raise unless a request is permitted.

        Args:
            path: without the base path.
            bearer: the token of the `Authorization` header; None without one.
            certificate: the client's certificate, verified by TLS; None without one.

        Raises:
            HTTPException: 401 if the request requires authentication, 403 if the client is not permitted to send it.
        """
        changes = method == "DELETE" or (method, path) in _CHANGES
        if changes and self._read_only:
            raise HTTPException(403, "the server is read-only")
        if not self._authenticates or not (changes or self._private) or path in _OPEN or path.startswith(_OPEN_PREFIX):
            return
        if bearer is not None and self._tokens is not None and self._tokens.contains(bearer):
            return
        if certificate is None:
            rejected = bearer is not None and self._tokens is not None
            raise self._unauthorized("invalid token" if rejected else f"{self._credentials} is required")
        self._check_certificate(certificate, changes)

    def _check_certificate(self, certificate: ClientCertificate, changes: bool) -> None:
        problem = certificate.problem()
        if problem:
            certificate.log_refusal(problem)
            raise self._unauthorized(f"the client certificate is refused: {problem}")
        if changes and self._allowed is not None and not self._allowed.permit(certificate.subject):
            certificate.log_refusal("it may not change models")
            raise HTTPException(403, f"{certificate.shown} may not change models")

    def _unauthorized(self, reason: str) -> HTTPException:
        return HTTPException(401, reason, {"WWW-Authenticate": "Bearer"} if self._tokens is not None else None)
