"""Explain TLS errors by OpenSSL's own codes, and never by the text of the whole error, which contains the URL.

explain_tls(ssl_error)      # ("its certificate has expired", "whoever runs the server must renew it")
"""

from __future__ import annotations

import re
import ssl

_ANOTHER_HOST = ("its certificate is for another host", "give the name that is in it")
_NO_TLS = ("the server does not speak TLS", "the URL begins with http, not https")
_CHECK_CLIENT_CERTIFICATE = "check --cert or X509_USER_PROXY"
_GIVE_CLIENT_CERTIFICATE = "a client certificate may be needed: --cert and --key, or X509_USER_PROXY"

_UNTRUSTED = ("its certificate is of no authority that is trusted here", "name them: --capath or X509_CERT_DIR")

_BY_VERIFY_CODE = {
    9: ("its certificate is not valid yet", "check the clocks of this machine and of the server"),
    10: ("its certificate has expired", "whoever runs the server must renew it"),
    23: ("its certificate is revoked", "whoever runs the server must get a new one"),
    62: _ANOTHER_HOST,
    64: _ANOTHER_HOST,
}
"""By X509_V_ERR_* of OpenSSL's x509_vfy.h."""

_BY_REASON = {
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "HTTP_REQUEST": _NO_TLS,
    "NO_CERTIFICATE_OR_CRL_FOUND": ("there is no authority in the file of --capath or X509_CERT_DIR", "it must be PEM"),
    "KEY_VALUES_MISMATCH": ("the private key is another certificate's", "check --cert and --key"),
    "PEM_LIB": ("the client certificate or its key cannot be read", "both must be PEM; the key may need --key"),
    "TLSV1_ALERT_UNKNOWN_CA": ("it does not know who signed the client certificate", _CHECK_CLIENT_CERTIFICATE),
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": ("the client certificate has expired", _CHECK_CLIENT_CERTIFICATE),
    "SSLV3_ALERT_CERTIFICATE_REVOKED": ("the client certificate is revoked", _CHECK_CLIENT_CERTIFICATE),
    "SSLV3_ALERT_BAD_CERTIFICATE": ("it rejects the client certificate", _CHECK_CLIENT_CERTIFICATE),
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": ("it rejects the client certificate", _CHECK_CLIENT_CERTIFICATE),
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": (
        "it requires a client certificate",
        "give one: --cert and --key, or X509_USER_PROXY",
    ),
    "UNEXPECTED_EOF_WHILE_READING": ("the server closed the connection during the TLS handshake", "see its log"),
}
"""By OpenSSL's reason, as Python names it."""


def explain_tls(error: ssl.SSLError | None) -> tuple[str, str]:
    """Return the cause and the advice for a TLS error; None where the library names none."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _BY_VERIFY_CODE.get(error.verify_code, _UNTRUSTED)
    return _BY_REASON.get(_reason_of(error) if error else "", ("TLS fails", _GIVE_CLIENT_CERTIFICATE))


def _reason_of(error: ssl.SSLError) -> str:
    """Return OpenSSL's reason; Python has no name for some of them, and then only says it in words."""
    words = re.fullmatch(r"\[.*?\] (.*) \(_ssl\.c:\d+\)", error.strerror or "")
    return error.reason or (words[1].upper().replace(" ", "_") if words else "")
