"""TLS of the server: its certificate, and the authorities of client certificates.

    with ServerTls(settings) as tls:
        config.ssl = tls.context
        tls.client_certificates.of(transport.get_extra_info("ssl_object"))

All files are checked every second. New connections use the current files.
"""

from __future__ import annotations

import logging
import ssl
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from mlaas4hep.errors import ConfigError, FileUnreadable, MLaaS4HEPError, require
from mlaas4hep.serving.http.watched_file import file_version
from mlaas4hep.serving.settings import Settings

if TYPE_CHECKING:
    from mlaas4hep.serving.certificates.client_certificates import ClientCertificates
    from mlaas4hep.serving.certificates.grid_authorities import GridAuthorities

_INTERVAL = 1.0  # seconds between two checks of the files
_log = logging.getLogger(__name__)


class ServerTls:
    """The TLS configuration of a server; within a `with` block, a thread reloads changed files.

    Attributes:
        context: for the listening socket.
        client_certificates: returns the client certificate of a connection; None if the server requests none.

    Raises:
        FileUnreadable, ConfigError: the certificate or the authorities cannot be used.
        PackageMissing: client certificates need the package cryptography.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._authorities: GridAuthorities | None = None
        self.client_certificates: ClientCertificates | None = None
        if settings.capath:
            require("cryptography", "server", "--capath")
            from mlaas4hep.serving.certificates.client_certificates import ClientCertificates
            from mlaas4hep.serving.certificates.grid_authorities import GridAuthorities

            self._authorities = GridAuthorities(settings.capath)
            self.client_certificates = ClientCertificates(self._authorities)
        self._used = self._files()
        self._current = self._new_context()
        self.context = self._new_context()
        self.context.sni_callback = self._use_current
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="certificate files", daemon=True)

    def __enter__(self) -> ServerTls:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join(_INTERVAL)

    def refresh(self) -> None:
        """Check the files; if they have changed, use them for new connections."""
        if self._authorities is not None:
            self._authorities.reload()
        files = self._files()
        if files == self._used:
            return
        self._used = files
        try:
            self._current = self._new_context()
        except MLaaS4HEPError as error:
            _log.warning(
                "new connections use the previous certificate files, because the new ones are invalid: %s", error
            )

    def _watch(self) -> None:
        while not self._stop.wait(_INTERVAL):
            try:
                self.refresh()
            except Exception:  # this thread must not end
                _log.exception("cannot check the certificate files")

    def _use_current(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Use the current context for a new connection; OpenSSL calls this even if the client names no server."""
        connection.context = self._current

    def _files(self) -> object:
        """Return a value that changes with the certificate files."""
        changes = self._authorities.changes if self._authorities is not None else 0
        return changes, *(_version(path) for path in (self._settings.cert, self._settings.key) if path)

    def _new_context(self) -> ssl.SSLContext:
        settings = self._settings
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION  # renegotiation could change the client's certificate
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
    """Return the TLS configuration of the server; None if it has no certificate.

    Raises:
        FileUnreadable, ConfigError, PackageMissing: see `ServerTls`; ConfigError also if an option needs --cert.
    """
    if settings.cert:
        return ServerTls(settings)
    if settings.capath or settings.key:
        raise ConfigError("--capath and --key need --cert", hint="as in --cert=hostcert.pem")
    return None


def _trust(context: ssl.SSLContext, authorities: GridAuthorities) -> None:
    """Request a certificate, possibly a proxy (RFC 3820), from clients, and verify it.

    `revocation` checks CRLs, because OpenSSL would close the connection even if the client only wants a prediction.
    """
    try:
        kind = "capath" if authorities.path.is_dir() else "cafile"
        context.load_verify_locations(**{kind: str(authorities.path)})
    except OSError as error:
        raise FileUnreadable(f"cannot use the authorities in {authorities.path}: {error.strerror or error}") from error
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_ALLOW_PROXY_CERTS
    context.num_tickets = 0  # a resumed session has no verified chain
    context.options |= ssl.OP_NO_TICKET


def _version(path: str) -> tuple[int, ...]:
    with suppress(OSError):
        return file_version(path)
    return ()
