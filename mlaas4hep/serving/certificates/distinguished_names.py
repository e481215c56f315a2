r"""Distinguished names in OpenSSL's slash form, as used in grid-mapfiles and signing policies.

    slash_form(certificate.subject)                      # "/DC=ch/DC=cern/CN=Jane Doe"
    normalise("/DC=ch/DC=cern/Email=jane@cern.ch")       # "/DC=ch/DC=cern/emailAddress=jane@cern.ch"

Most software does not escape slashes: O="Grid/CN=Jane" and O="Grid", CN="Jane" look the same. An ambiguous name has no
slash form here, so that a certificate cannot be mistaken for another one. OpenSSL 3.0.22 and later escape slashes in
values, as in `CN=host\/a.b`; this spelling is supported.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.x509 import Name

CanonicalName = tuple[frozenset[tuple[str, str]], ...]
"""A name in a form for comparisons that ignore case and white space, as in OpenSSL."""

_SHORT_NAMES = {
    "2.5.4.3": "CN",
    "2.5.4.4": "SN",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "street",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.5.4.12": "title",
    "2.5.4.13": "description",
    "2.5.4.17": "postalCode",
    "2.5.4.42": "GN",
    "2.5.4.43": "initials",
    "2.5.4.46": "dnQualifier",
    "2.5.4.65": "pseudonym",
    "2.5.4.97": "organizationIdentifier",
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC",
    "1.2.840.113549.1.9.1": "emailAddress",
}
_SPELLINGS = {name.lower(): name for name in _SHORT_NAMES.values()} | {
    "e": "emailAddress",
    "email": "emailAddress",
    "userid": "UID",
    "s": "ST",
}
_TYPE = re.compile(r"/([A-Za-z][A-Za-z0-9-]*|[0-9]+(?:\.[0-9]+)+)=")
_ESCAPED_SIGN = re.compile(r"\\(?!/[A-Za-z0-9.-]+=)([/+])")
_ESCAPED_BYTE = re.compile(rb"\\x([0-9A-Fa-f]{2})")


def slash_form(name: Name) -> str | None:
    """Return a certificate's name in normalised slash form; None if that would be ambiguous."""
    parts = []
    for rdn in name.rdns:
        attributes = list(rdn)
        value = attributes[0].value
        if len(attributes) > 1 or not isinstance(value, str):
            return None
        if _TYPE.search(value) or _ESCAPED_BYTE.search(value.encode("utf-8", "surrogatepass")):
            return None
        oid = attributes[0].oid.dotted_string
        parts.append(f"/{_SHORT_NAMES.get(oid, oid)}={value}")
    return "".join(parts)


def shown(name: Name) -> str:
    """Return a certificate's name for messages: in slash form, or in the form of RFC 4514."""
    return slash_form(name) or name.rfc4514_string()


def normalise(text: str) -> str:
    r"""Return a name in slash form with one spelling of each attribute type, without escapes such as `\xC3\xA9`."""
    raw = _ESCAPED_BYTE.sub(lambda match: bytes.fromhex(match[1].decode()), text.encode("utf-8", "surrogateescape"))
    decoded = _ESCAPED_SIGN.sub(r"\1", raw.decode("utf-8", "surrogateescape"))
    return _TYPE.sub(lambda match: f"/{_SPELLINGS.get(match[1].lower(), match[1])}=", decoded)


def is_slash_form(text: str) -> bool:
    """Return whether a text begins like a name in slash form."""
    return _TYPE.match(text) is not None


def canonical_name(name: Name) -> CanonicalName:
    """Return a name in a form for comparisons."""
    return tuple(
        frozenset((attribute.oid.dotted_string, _canonical_value(attribute.value)) for attribute in rdn)
        for rdn in name.rdns
    )


def _canonical_value(value: str | bytes) -> str:
    return value.hex() if isinstance(value, bytes) else " ".join(value.split()).lower()
