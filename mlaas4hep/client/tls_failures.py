"""Explain TLS errors by OpenSSL's codes. The text of the error is not used, since it contains the URL.

explain_tls(ssl_error)      # ("the server's certificate has expired", "ask its administrator to renew it")
"""

from __future__ import annotations

import re
import ssl

_ANOTHER_HOST = ("the server's certificate is for another host", "use the host name in the certificate")
_NO_TLS = ("the server does not use TLS", "use a URL that begins with http, not https")
_CHECK_CLIENT_CERTIFICATE = "check --cert or X509_USER_PROXY"
_GIVE_CLIENT_CERTIFICATE = "a client certificate may be needed: --cert and --key, or X509_USER_PROXY"

_NAME_AUTHORITIES = "name the authorities: --capath or X509_CERT_DIR"
_UNTRUSTED = ("the server's certificate is not signed by a trusted authority", _NAME_AUTHORITIES)

_BY_VERIFY_CODE = {
    9: ("the server's certificate is not valid yet", "check the clocks of this machine and of the server"),
    10: ("the server's certificate has expired", "ask its administrator to renew it"),
    23: ("the server's certificate is revoked", "ask its administrator for a new one"),
    62: _ANOTHER_HOST,
    64: _ANOTHER_HOST,
}
"""Keys: X509_V_ERR_* of OpenSSL's x509_vfy.h."""

_BY_REASON = {
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "HTTP_REQUEST": _NO_TLS,
    "NO_CERTIFICATE_OR_CRL_FOUND": ("the file of --capath or X509_CERT_DIR has no certificates", "it must be PEM"),
    "KEY_VALUES_MISMATCH": ("the private key does not belong to the client certificate", "check --cert and --key"),
    "PEM_LIB": (
        "the client certificate or its key cannot be read",
        "both must be PEM; if the key has its own file, give --key",
    ),
    "TLSV1_ALERT_UNKNOWN_CA": (
        "the server does not trust the client certificate's authority",
        _CHECK_CLIENT_CERTIFICATE,
    ),
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": ("the client certificate has expired", _CHECK_CLIENT_CERTIFICATE),
    "SSLV3_ALERT_CERTIFICATE_REVOKED": ("the client certificate is revoked", _CHECK_CLIENT_CERTIFICATE),
    "SSLV3_ALERT_BAD_CERTIFICATE": ("the server rejects the client certificate", _CHECK_CLIENT_CERTIFICATE),
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": ("the server rejects the client certificate", _CHECK_CLIENT_CERTIFICATE),
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": (
        "the server requires a client certificate",
        "give one: --cert and --key, or X509_USER_PROXY",
    ),
    "UNEXPECTED_EOF_WHILE_READING": ("the server closed the connection during the TLS handshake", "see its log"),
}
"""Keys: OpenSSL's reason, as Python names it."""


def explain_tls(error: ssl.SSLError | None) -> tuple[str, str]:
    """Return cause and advice for a TLS error; `error` is None if no SSLError was found."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _BY_VERIFY_CODE.get(error.verify_code, _UNTRUSTED)
    return _BY_REASON.get(_reason_of(error) if error else "", ("the TLS handshake failed", _GIVE_CLIENT_CERTIFICATE))


def _reason_of(error: ssl.SSLError) -> str:
    """Return OpenSSL's reason; if Python has no name for it, derive it from the text of the message."""
    match = re.fullmatch(r"\[.*?\] (.*) \(_ssl\.c:\d+\)", error.strerror or "")
    return error.reason or (match[1].upper().replace(" ", "_") if match else "")
