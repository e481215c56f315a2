"""Client certificates: whose they are, and why one is refused although TLS has verified it.

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

from mlaas4hep.errors import first_line, printable
from mlaas4hep.serving.distinguished_names import canonical_name, shown, slash_form
from mlaas4hep.serving.grid_authorities import AuthoritySnapshot, GridAuthorities
from mlaas4hep.serving.proxies import is_proxy, proxy_problem
from mlaas4hep.serving.revocation import revocation_problem
from mlaas4hep.serving.signing_policy import SigningPolicy

_FRESH = 1.0  # seconds until a certificate is checked again on an open connection
_SESSIONS = 4096  # TLS 1.2 sessions that are remembered; a client whose session was forgotten counts as unknown
_log = logging.getLogger(__name__)


class ClientCertificates:
    """The certificates that clients of one server present."""

    def __init__(self, authorities: GridAuthorities) -> None:
        self._authorities = authorities
        self._sessions: OrderedDict[bytes, tuple[bytes, ...]] = OrderedDict()

    def of(self, connection: ssl.SSLObject | None) -> ClientCertificate | None:
        """Return the certificate of a connection's client; None without one."""
        if connection is None or not connection.getpeercert(binary_form=True):
            return None
        return ClientCertificate(self._chain(connection), self._authorities)

    def _chain(self, connection: ssl.SSLObject) -> tuple[bytes, ...]:
        """Return the verified chain, from the client's certificate to the root, in DER.

        A resumed session has none, so it is remembered from the session's first connection.
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
        subject: the person's or host's name in slash form, also if the client presented a proxy; None if it is not
            clear.

    Args:
        chain: as TLS has verified it, from the client's certificate to the root, in DER.
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
            self.shown = f"that cannot be parsed ({printable(first_line(error))})"

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
            return "its chain is not known"
        if self._anchor not in snapshot.anchors:
            return f"{printable(shown(self._certificates[-1].subject))} is not a trusted authority"
        try:
            problem = chain_problem(self._certificates, snapshot, datetime.now(timezone.utc))
        except ValueError as error:  # a malformed extension
            problem = first_line(error)
        return problem and printable(problem)


def chain_problem(chain: Sequence[x509.Certificate], snapshot: AuthoritySnapshot, now: datetime) -> str | None:
    """Return why a verified chain is refused, or None."""
    for position, certificate in enumerate(chain):
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            return f"the certificate {shown(certificate.subject)} is valid from {_period(certificate)}"
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
    """Check a certificate that an authority issued; `issuers` go up to the root."""
    issuer = issuers[0]
    authority = canonical_name(issuer.subject)
    if authority in snapshot.problems:
        return f"the CRL or signing policy of {shown(issuer.subject)} cannot be used"
    problem = revocation_problem(certificate, issuer, snapshot.crls.get(authority, ()), now)
    if problem or certificate is issuer:
        return problem
    policy, author = _policy(issuers, snapshot)
    if policy and not policy.permits(slash_form(author.subject), slash_form(certificate.subject)):
        return f"the signing policy of {shown(author.subject)} does not permit {shown(certificate.subject)}"
    return None


def _policy(
    issuers: Sequence[x509.Certificate], snapshot: AuthoritySnapshot
) -> tuple[SigningPolicy | None, x509.Certificate]:
    """Return the policy that binds an issuer, and whose it is: its own, else that of the next authority above it."""
    for issuer in issuers:
        policy = snapshot.policies.get(canonical_name(issuer.subject))
        if policy:
            return policy, issuer
    return None, issuers[0]


def _period(certificate: x509.Certificate) -> str:
    return f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} to {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"


def _verified_chain(connection: ssl.SSLObject) -> tuple[bytes, ...]:
    if hasattr(connection, "get_verified_chain"):  # Python 3.13
        return tuple(cast(Any, connection).get_verified_chain())
    found = cast(Any, connection)._sslobj.get_verified_chain() or ()
    return tuple(ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in found)
