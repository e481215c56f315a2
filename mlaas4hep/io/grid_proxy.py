"""The grid proxy that tells servers who we are: what is the matter with it, when one of them turns us away.

    raise Refused(f"it asks who we are, and {advice()}")

It is XRootD's client that finds the proxy and shows it; this only looks where it does, since it does not say what it
found.
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


def advice() -> str:
    """Return why a server of the grid does not know us, and what to do."""
    path = Path(os.environ.get("X509_USER_PROXY") or f"/tmp/x509up_u{os.getuid()}")
    authorities = Path(os.environ.get("X509_CERT_DIR") or "/etc/grid-security/certificates")
    kind = special_kind(path)
    if kind:
        return f"the grid proxy {path} is {kind}, not a file: set X509_USER_PROXY"
    try:
        end = end_of(path.read_text(encoding="latin-1"))
    except OSError as error:
        reason = "there is no grid proxy" if isinstance(error, FileNotFoundError) else "we may not read the grid proxy"
        return f"{reason} {path}: make one with voms-proxy-init, or set X509_USER_PROXY"
    if end is None:
        return f"there is no certificate in the grid proxy {path}: make a new one with voms-proxy-init"
    if end <= datetime.now(timezone.utc):
        return f"the grid proxy {path} has expired on {end:%Y-%m-%d at %H:%M} UTC: make a new one with voms-proxy-init"
    if not authorities.is_dir():
        return f"there are no certificates of authorities in {authorities}: set X509_CERT_DIR"
    return f"does not take the grid proxy {path}, good until {end:%Y-%m-%d %H:%M} UTC: is it of the right VO?"


def end_of(proxy: str) -> datetime | None:
    """Return until when all certificates of a proxy are good, given what its file holds; None if it holds none."""
    ends = []
    for certificate in CERTIFICATE.findall(proxy):
        try:
            found = VALIDITY.search(ssl.PEM_cert_to_DER_cert(certificate))
        except ValueError:  # not base64
            return None
        if found is not None:
            short, long = found.groups()
            text, form = (long, "%Y%m%d%H%M%SZ") if long else (short, "%y%m%d%H%M%SZ")
            ends.append(datetime.strptime(text.decode(), form).replace(tzinfo=timezone.utc))
    return min(ends, default=None)
