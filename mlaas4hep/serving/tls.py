"""TLS of the server: its certificate, and whose client certificates are accepted.

    with ServerTls(settings) as tls:
        config.ssl = tls.context
        tls.client_certificates.of(transport.get_extra_info("ssl_object"))

All files are looked at every second, and used for new connections when they have changed.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
from types import TracebackType
from typing import TYPE_CHECKING

from mlaas4hep.errors import ConfigError, FileUnreadable, MLaaS4HEPError, require
from mlaas4hep.serving.settings import Settings

if TYPE_CHECKING:
    from mlaas4hep.serving.client_certificates import ClientCertificates
    from mlaas4hep.serving.grid_authorities import GridAuthorities

_INTERVAL = 1.0  # seconds between two looks at the files
_log = logging.getLogger(__name__)


class ServerTls:
    """How a server speaks TLS. As a context manager it looks at the files until the end.

    Attributes:
        context: for the listening socket.
        client_certificates: tells who a client is; None if no client certificates are accepted.

    Raises:
        FileUnreadable, ConfigError: the certificate or the authorities cannot be used.
        PackageMissing: client certificates need the package cryptography.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._authorities: GridAuthorities | None = None
        self.client_certificates: ClientCertificates | None = None
        if settings.capath:
            self._authorities, self.client_certificates = _authorities(settings.capath)
        self._used = self._files()
        self._current = self._new_context()
        self.context = self._new_context()
        self.context.sni_callback = self._use_current
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="certificate files", daemon=True)

    def __enter__(self) -> ServerTls:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(_INTERVAL)

    def refresh(self) -> None:
        """Look at the files; use them for new connections if they have changed."""
        if self._authorities is not None:
            self._authorities.reload()
        files = self._files()
        if files == self._used:
            return
        self._used = files
        try:
            self._current = self._new_context()
        except MLaaS4HEPError as error:
            _log.warning("new connections go on with the certificate files as they were before: %s", error)

    def _watch(self) -> None:
        while not self._stop.wait(_INTERVAL):
            try:
                self.refresh()
            except Exception:  # this thread must go on
                _log.exception("cannot look at the certificate files")

    def _use_current(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Replace a new connection's context: OpenSSL calls this whether or not the client names a server."""
        connection.context = self._current

    def _files(self) -> object:
        """Return what changes with the certificate files."""
        changes = self._authorities.changes if self._authorities is not None else 0
        return changes, *(_version(path) for path in (self._settings.cert, self._settings.key) if path)

    def _new_context(self) -> ssl.SSLContext:
        settings = self._settings
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION  # which could change the client's certificate
        try:
            context.load_cert_chain(settings.cert, settings.key or None, password=lambda: "")
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise FileUnreadable(
                f"cannot use the certificate {settings.cert}: {getattr(error, 'strerror', None) or error}",
                hint="--cert and --key are PEM files, the key without a password",
            ) from error
        if self._authorities is not None:
            _trust(context, self._authorities)
        return context


def server_tls(settings: Settings) -> ServerTls | None:
    """Return how the server speaks TLS; None if it has no certificate.

    Raises:
        FileUnreadable, ConfigError, PackageMissing: see `ServerTls`; or options need a certificate and there is none.
    """
    if settings.cert:
        return ServerTls(settings)
    if settings.capath or settings.key:
        raise ConfigError("--capath and --key are for TLS, and there is no --cert", hint="--cert=hostcert.pem")
    return None


def _authorities(capath: str) -> tuple[GridAuthorities, ClientCertificates]:
    require("cryptography", "server", "--capath")
    from mlaas4hep.serving.client_certificates import ClientCertificates
    from mlaas4hep.serving.grid_authorities import GridAuthorities

    authorities = GridAuthorities(capath)
    return authorities, ClientCertificates(authorities)


def _trust(context: ssl.SSLContext, authorities: GridAuthorities) -> None:
    """Ask clients for a certificate, which may be a proxy (RFC 3820), and verify it.

    CRLs are left to `revocation`: OpenSSL would end the connection, also where a client only wants a prediction.
    """
    try:
        if authorities.path.is_dir():
            context.load_verify_locations(capath=str(authorities.path))
        else:
            context.load_verify_locations(cafile=str(authorities.path))
    except OSError as error:
        raise FileUnreadable(f"cannot use the authorities in {authorities.path}: {error.strerror or error}") from error
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_ALLOW_PROXY_CERTS
    context.num_tickets = 0  # a resumed session has no verified chain
    context.options |= ssl.OP_NO_TICKET


def _version(path: str) -> tuple[int, ...]:
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino
