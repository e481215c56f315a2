"""Certificate revocation lists (CRLs, RFC 5280).

    revocation_problem(certificate, issuer, [Crl(x509.load_pem_x509_crl(pem))], now)     # None: not revoked

The rules are those of `openssl verify -crl_check_all`, with one exception: certificates of an authority without a CRL
are accepted, as in Globus. dCache also accepts expired CRLs by default, which are refused here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mlaas4hep.serving.certificates.distinguished_names import canonical_name, shown


class Crl:
    """A CRL; its signature is checked on first use.

    Attributes:
        issuer: name of the authority, for comparisons.

    Raises:
        ValueError: the issuer or an extension is malformed.
    """

    def __init__(self, content: x509.CertificateRevocationList) -> None:
        self._content = content
        self.issuer = canonical_name(content.issuer)
        self._signed: dict[bytes, bool] = {}
        critical = [extension for extension in content.extensions if extension.critical]
        self._scope = next((e.value for e in critical if isinstance(e.value, x509.IssuingDistributionPoint)), None)
        self.is_delta = any(isinstance(e.value, x509.DeltaCRLIndicator) for e in content.extensions)
        self.is_supported = len(critical) == (self._scope is not None) and not (
            self._scope
            and (self._scope.indirect_crl or self._scope.only_some_reasons or self._scope.only_contains_attribute_certs)
        )

    def is_signed_by(self, issuer: x509.Certificate) -> bool:
        """Return whether the key of a certificate signed the list and may sign CRLs."""
        key = issuer.public_key()
        encoded = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if encoded not in self._signed:
            try:
                self._signed[encoded] = self._content.is_signature_valid(key)  # type: ignore[arg-type]
            except (TypeError, ValueError, UnsupportedAlgorithm):
                self._signed[encoded] = False
        return self._signed[encoded] and _may_sign_lists(issuer)

    def covers(self, certificate: x509.Certificate) -> bool:
        """Return whether a certificate is within the scope of the list."""
        if self._scope is None:
            return True
        if is_authority(certificate):
            return not self._scope.only_contains_user_certs
        return not self._scope.only_contains_ca_certs

    def is_current(self, now: datetime) -> bool:
        """Return whether the list is valid now."""
        until = self._content.next_update_utc
        return self._content.last_update_utc <= now and (until is None or now <= until)

    def revokes(self, certificate: x509.Certificate) -> bool:
        """Return whether the list contains a certificate."""
        return self._content.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None

    @property
    def validity(self) -> str:
        """The period of validity, for messages."""
        first, last = self._content.last_update_utc, self._content.next_update_utc or datetime.max
        return f"valid from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"


def revocation_problem(
    certificate: x509.Certificate, issuer: x509.Certificate, crls: Sequence[Crl], now: datetime
) -> str | None:
    """Return why a certificate is refused, or None.

    Args:
        issuer: the verified issuer of the certificate.
        crls: the lists with the issuer's name.
    """
    if not crls:
        return None
    authority = shown(issuer.subject)
    signed = [crl for crl in crls if crl.is_signed_by(issuer)]
    if not signed:
        return f"the CRL of {authority} is not signed by it"
    if any(crl.revokes(certificate) for crl in signed):
        return f"{authority} has revoked the certificate {shown(certificate.subject)}"
    usable = [crl for crl in signed if crl.is_supported and not crl.is_delta and crl.covers(certificate)]
    if not usable:
        return f"the CRL of {authority} has an unsupported type"
    if not any(crl.is_current(now) for crl in usable):
        return f"the CRL of {authority} is out of date: {usable[0].validity}"
    return None


def is_authority(certificate: x509.Certificate) -> bool:
    """Return whether a certificate belongs to an authority."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _may_sign_lists(issuer: x509.Certificate) -> bool:
    try:
        return issuer.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return True
