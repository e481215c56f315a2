"""Explain why a server rejected the user's grid proxy.

    raise PermanentFailure(f"the server requires authentication: {proxy_problem()}")

XRootD's client finds and sends the proxy, but does not report what it found. This module looks at the same paths.
"""

from __future__ import annotations

import os
import re
import ssl
from datetime import datetime, timezone
from pathlib import Path

from mlaas4hep.input_files import special_kind

CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.S)

VALIDITY = re.compile(rb"\x30.(?:\x17\x0d\d{10,12}Z|\x18\x0f\d{14}Z)(?:\x17\x0d(\d{12}Z)|\x18\x0f(\d{14}Z))", re.S)
"""A certificate's `Validity` in DER: a sequence of two times, each a UTCTime or a GeneralizedTime (RFC 5280)."""


def proxy_problem() -> str:
    """Return the likely reason why a server rejected the grid proxy, and what to do."""
    path = Path(os.environ.get("X509_USER_PROXY") or f"/tmp/x509up_u{os.getuid()}")
    authorities = Path(os.environ.get("X509_CERT_DIR") or "/etc/grid-security/certificates")
    kind = special_kind(path)
    if kind:
        return f"the grid proxy {path} is {kind}, not a file: set X509_USER_PROXY"
    try:
        expiry = expiry_of(path.read_text(encoding="latin-1"))
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else "cannot be read"
        return f"the grid proxy {path} {reason}: create one with voms-proxy-init, or set X509_USER_PROXY"
    if expiry is None:
        return f"the grid proxy {path} contains no certificate: create a new one with voms-proxy-init"
    if expiry <= datetime.now(timezone.utc):
        return f"the grid proxy {path} expired on {expiry:%Y-%m-%d at %H:%M} UTC: create a new one with voms-proxy-init"
    if not authorities.is_dir():
        return f"{authorities} contains no certificates of authorities: set X509_CERT_DIR"
    return f"it rejects the grid proxy {path}, valid until {expiry:%Y-%m-%d %H:%M} UTC: does the VO match?"


def expiry_of(proxy: str) -> datetime | None:
    """Return the time until which all certificates of a proxy file are valid; None if it contains none."""
    expiries = []
    for certificate in CERTIFICATE.findall(proxy):
        try:
            validity = VALIDITY.search(ssl.PEM_cert_to_DER_cert(certificate))
        except ValueError:  # not base64
            return None
        if validity is not None:
            short, long = validity.groups()
            text, form = (long, "%Y%m%d%H%M%SZ") if long else (short, "%y%m%d%H%M%SZ")
            expiries.append(datetime.strptime(text.decode(), form).replace(tzinfo=timezone.utc))
    return min(expiries, default=None)
