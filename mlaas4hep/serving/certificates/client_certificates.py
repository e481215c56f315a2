"""Client certificates: their owners, and checks beyond those of TLS.

    certificates = ClientCertificates(GridAuthorities("/etc/grid-security/certificates"))
    certificate = certificates.of(transport.get_extra_info("ssl_object"))
    certificate.problem()       # None, or "/O=Grid/CN=Authority has revoked the certificate /O=Grid/CN=Jane Doe"

TLS verifies signatures, validity and path lengths. This module adds CRLs, signing policies, and the rules for proxies.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, cast

from cryptography import x509

from mlaas4hep.errors import error_summary, printable
from mlaas4hep.serving.certificates.distinguished_names import canonical_name, shown, slash_form
from mlaas4hep.serving.certificates.grid_authorities import AuthoritySnapshot, GridAuthorities
from mlaas4hep.serving.certificates.proxies import is_proxy, proxy_problem
from mlaas4hep.serving.certificates.revocation import revocation_problem

_FRESH = 1.0  # seconds until a certificate is checked again on an open connection
_SESSIONS = 4096  # TLS 1.2 sessions whose chain is cached; a client with an older session is not authenticated
_log = logging.getLogger(__name__)


class ClientCertificates:
    """Returns the client certificates of connections; caches the chains of TLS 1.2 sessions."""

    def __init__(self, authorities: GridAuthorities) -> None:
        self._authorities = authorities
        self._sessions: OrderedDict[bytes, tuple[bytes, ...]] = OrderedDict()

    def of(self, connection: ssl.SSLObject | None) -> ClientCertificate | None:
        """Return the client certificate of a connection; None if there is none."""
        if connection is None or not connection.getpeercert(binary_form=True):
            return None
        return ClientCertificate(self._chain(connection), self._authorities)

    def _chain(self, connection: ssl.SSLObject) -> tuple[bytes, ...]:
        """Return the verified chain, from the client's certificate to the root, in DER.

        A resumed session has no chain, so the chain of the session's first connection is cached.
        """
        session = connection.session.id if connection.session else b""
        if connection.session_reused:
            return self._sessions.get(session, ())
        chain = _verified_chain(connection)
        if session:
            self._sessions[session] = chain
            while len(self._sessions) > _SESSIONS:
                self._sessions.popitem(last=False)
        return chain


class ClientCertificate:
    """The certificate that the client of one connection presented.

    Attributes:
        subject: name of the person or host in slash form, even if the client presented a proxy; None if the name is
            ambiguous.

    Args:
        chain: the chain that TLS verified, from the client's certificate to the root, in DER; () if it is unknown.
    """

    def __init__(self, chain: Sequence[bytes], authorities: GridAuthorities) -> None:
        self._authorities = authorities
        self._checked = -_FRESH
        self._snapshot: AuthoritySnapshot | None = None
        self._problem: str | None = None
        self._logged: set[str] = set()
        self._anchor = chain[-1] if chain else b""
        self._certificates: list[x509.Certificate] = []
        self.subject: str | None = None
        self.shown = "without a verified chain"
        try:
            self._certificates = [x509.load_der_x509_certificate(der) for der in chain]
            owner = next((c for c in self._certificates if not is_proxy(c)), None)
            if owner is not None:
                self.subject, self.shown = slash_form(owner.subject), printable(shown(owner.subject))
        except ValueError as error:
            self._certificates = []
            self.shown = f"that cannot be parsed ({printable(error_summary(error))})"

    def problem(self) -> str | None:
        """Return why the certificate is refused now, or None."""
        now = time.monotonic()
        if self._snapshot is None:
            self._authorities.reload_if_changed(canonical_name(c.subject) for c in self._certificates)
        if self._snapshot is not self._authorities.current or now - self._checked > _FRESH:
            self._snapshot, self._checked = self._authorities.current, now
            self._problem = self._check(self._snapshot)
        return self._problem

    def log_refusal(self, reason: str) -> None:
        """Log why the certificate was refused, once per connection and reason."""
        if reason not in self._logged:
            self._logged.add(reason)
            _log.warning("refused the client certificate %s: %s", self.shown, reason)

    def _check(self, snapshot: AuthoritySnapshot) -> str | None:
        if not self._certificates:
            return "its chain is unknown"
        if self._anchor not in snapshot.anchors:
            return f"{printable(shown(self._certificates[-1].subject))} is not a trusted authority"
        try:
            problem = chain_problem(self._certificates, snapshot, datetime.now(timezone.utc))
        except ValueError as error:  # a malformed extension
            problem = error_summary(error)
        return problem and printable(problem)


def chain_problem(chain: Sequence[x509.Certificate], snapshot: AuthoritySnapshot, now: datetime) -> str | None:
    """Return why a verified chain, from the client's certificate to the root, is refused; None if it is accepted."""
    for position, certificate in enumerate(chain):
        first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not first <= now <= last:
            period = f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
            return f"the certificate {shown(certificate.subject)} is valid from {period}"
        if is_proxy(certificate):
            problem = proxy_problem(certificate)
        else:
            issuers = chain[position + 1 :] or [certificate]
            problem = _issued_problem(certificate, issuers, snapshot, now)
        if problem:
            return problem
    return None


def _issued_problem(
    certificate: x509.Certificate, issuers: Sequence[x509.Certificate], snapshot: AuthoritySnapshot, now: datetime
) -> str | None:
    """Return why a certificate other than a proxy is refused, or None; `issuers` are ordered up to the root."""
    issuer = issuers[0]
    authority = canonical_name(issuer.subject)
    if authority in snapshot.problems:
        return f"the CRL or signing policy of {shown(issuer.subject)} cannot be used"
    problem = revocation_problem(certificate, issuer, snapshot.crls.get(authority, ()), now)
    if problem or certificate is issuer:
        return problem
    for author in issuers:  # the policy of the issuer, or else of the next authority above it
        policy = snapshot.policies.get(canonical_name(author.subject))
        if policy:
            if not policy.permits(slash_form(author.subject), slash_form(certificate.subject)):
                return f"the signing policy of {shown(author.subject)} does not permit {shown(certificate.subject)}"
            break
    return None


def _verified_chain(connection: ssl.SSLObject) -> tuple[bytes, ...]:
    if hasattr(connection, "get_verified_chain"):  # Python 3.13
        return tuple(cast(Any, connection).get_verified_chain())
    chain = cast(Any, connection)._sslobj.get_verified_chain() or ()
    return tuple(ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in chain)
