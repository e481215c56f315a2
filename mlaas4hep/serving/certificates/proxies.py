"""Proxy certificates (RFC 3820) and the rights that they delegate.

    if is_proxy(certificate):
        problem = proxy_problem(certificate)

Full proxies ("inherit all") and Globus's limited proxies act for their owner, as on storage services. Independent
proxies do not, and restricted proxies have a policy that this server cannot evaluate: both are refused.
"""

from __future__ import annotations

from cryptography import x509

_PROXY_CERT_INFO = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")
_INHERIT_ALL = bytes.fromhex("2b06010505071501")  # 1.3.6.1.5.5.7.21.1
_LIMITED = bytes.fromhex("2b060104019b5001010109")  # 1.3.6.1.4.1.3536.1.1.1.9, of Globus
_SEQUENCE, _INTEGER, _OBJECT_IDENTIFIER = 0x30, 0x02, 0x06


def is_proxy(certificate: x509.Certificate) -> bool:
    """Return whether a certificate is a proxy."""
    return _proxy_cert_info(certificate) is not None


def proxy_problem(certificate: x509.Certificate) -> str | None:
    """Return why a proxy does not act for its owner, or None.

    Raises:
        ValueError: the proxyCertInfo extension is malformed.
    """
    if _policy_language(_proxy_cert_info(certificate) or b"") in (_INHERIT_ALL, _LIMITED):
        return None
    return "the proxy does not inherit its owner's rights; create one with voms-proxy-init"


def _proxy_cert_info(certificate: x509.Certificate) -> bytes | None:
    for extension in certificate.extensions:
        if extension.oid == _PROXY_CERT_INFO and isinstance(extension.value, x509.UnrecognizedExtension):
            return extension.value.value
    return None


def _policy_language(info: bytes) -> bytes:
    """Return the encoded policyLanguage of a ProxyCertInfo (RFC 3820, 3.8)."""
    tag, content, _ = _read(info)
    if tag == _SEQUENCE:
        tag, policy, rest = _read(content)
        if tag == _INTEGER:  # pCPathLenConstraint
            tag, policy, rest = _read(rest)
        if tag == _SEQUENCE:
            tag, language, _ = _read(policy)
            if tag == _OBJECT_IDENTIFIER:
                return language
    raise ValueError("malformed proxyCertInfo")


def _read(data: bytes) -> tuple[int, bytes, bytes]:
    """Split DER into tag and content of its first element, and the rest."""
    if len(data) < 2:
        raise ValueError("malformed proxyCertInfo")
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    if start + length > len(data):
        raise ValueError("malformed proxyCertInfo")
    return data[0], data[start : start + length], data[start + length :]
