"""The folder of trusted authorities: their certificates, CRLs and signing policies, read again when they change.

    authorities = GridAuthorities("/etc/grid-security/certificates")
    authorities.current.crls_of(name)

The folder is laid out as IGTF and fetch-crl do it: `HASH.0`, `HASH.r0`, `HASH.signing_policy`, where HASH is OpenSSL's
hash of the authority's name. All other files are ignored. A single PEM file with certificates and CRLs works too.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mlaas4hep.errors import ConfigError, FileUnreadable, MLaaS4HEPError, first_line
from mlaas4hep.serving.distinguished_names import CanonicalName, canonical_name, shown
from mlaas4hep.serving.revocation import Crl
from mlaas4hep.serving.signing_policy import SigningPolicy, parse_signing_policy

Version = tuple[int, ...]
"""What tells one content of a file from the next."""

_FILE = re.compile(r"(?P<hash>[0-9a-f]{8})\.(?:[0-9]+|r[0-9]+|signing_policy)")
_PEM = re.compile(rb"-----BEGIN (CERTIFICATE|X509 CRL)-----.+?-----END \1-----", re.S)
_SETTLED = 100_000_000  # ns; a file changed less than this ago may change again without a new time stamp
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Content:
    """What one file holds.

    Attributes:
        problem: why it cannot be used; "" for none.
    """

    certificates: tuple[x509.Certificate, ...] = ()
    crls: tuple[Crl, ...] = ()
    policy: SigningPolicy | None = None
    problem: str = ""


@dataclass(frozen=True)
class AuthoritySnapshot:
    """All files at one time.

    Attributes:
        anchors: the trusted certificates, in DER.
        problems: by authority, why its CRL or signing policy cannot be used.
        crls, policies: by authority.
        files: by authority, the names of its files.
        versions: of every file, and of the folder itself under "".
    """

    anchors: frozenset[bytes] = frozenset()
    problems: Mapping[CanonicalName, str] = field(default_factory=dict)
    crls: Mapping[CanonicalName, tuple[Crl, ...]] = field(default_factory=dict)
    policies: Mapping[CanonicalName, SigningPolicy] = field(default_factory=dict)
    files: Mapping[CanonicalName, frozenset[str]] = field(default_factory=dict)
    versions: Mapping[str, Version | None] = field(default_factory=dict)


class GridAuthorities:
    """The authorities in a folder or file.

    Attributes:
        current: the content at the time of the last look.
        changes: how often the trusted certificates have changed.

    Raises:
        FileUnreadable, ConfigError: it cannot be read, or holds no authority.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._contents: dict[Version, _Content] = {}
        self._without_crl: set[str] = set()
        self._failure = ""
        self.current = self._load()
        self.changes = 0

    def reload(self) -> None:
        """Look at all files again; an unreadable folder leaves no authority."""
        with self._lock:
            before = self.current
            try:
                self.current, self._failure = self._load(), ""
            except MLaaS4HEPError as error:
                self.current = AuthoritySnapshot()
                if str(error) != self._failure:
                    self._failure = str(error)
                    _log.warning("client certificates are refused from now on: %s", error)
            self.changes += self.current.anchors != before.anchors

    def reload_if_changed(self, authorities: Iterable[CanonicalName]) -> None:
        """Look at the files of some authorities, and at all if one of those has changed."""
        snapshot = self.current
        names = {"", *(name for authority in authorities for name in snapshot.files.get(authority, ()))}
        if any(_version(self.path / name) != snapshot.versions.get(name) for name in names):
            self.reload()

    def _load(self) -> AuthoritySnapshot:
        version = _version(self.path)
        try:
            names = [n for n in os.listdir(self.path) if _FILE.fullmatch(n)] if self.path.is_dir() else [""]
            versions = {name: _version(self.path / name) for name in names} | {"": version}
            contents = {name: self._content(name, versions[name]) for name in sorted(names)}
        except OSError as error:
            raise FileUnreadable(
                f"cannot use the authorities in {self.path}: {error.strerror or error}", hint="check --capath"
            ) from error
        self._contents = {v: contents[name] for name, v in versions.items() if v is not None and name in contents}
        snapshot = _combine(contents, versions)
        if not snapshot.anchors:
            raise ConfigError(
                f"{self.path} holds no certificates of authorities",
                hint="'openssl rehash' gives PEM files the names that are looked up (HASH.0)",
            )
        self._warn_without_crl(contents, snapshot)
        return snapshot

    def _content(self, name: str, version: Version | None) -> _Content:
        known = self._contents.get(version) if version is not None else None
        if known is not None:
            return known
        path = self.path / name
        try:
            return _parse(name, path.read_bytes())
        except (OSError, ValueError) as error:
            problem = f"cannot use {path}: {error if isinstance(error, MLaaS4HEPError) else first_line(error)}"
            if not name:
                raise FileUnreadable(problem, hint="check --capath") from error
            _log.warning("%s", problem)
            return _Content(problem=problem)

    def _warn_without_crl(self, contents: Mapping[str, _Content], snapshot: AuthoritySnapshot) -> None:
        certificates = {c for content in contents.values() for c in content.certificates}
        found = {shown(c.subject) for c in certificates if not snapshot.crls.get(canonical_name(c.subject))}
        new = sorted(found - self._without_crl)
        self._without_crl = found
        if new:
            names = ", ".join(new[:3]) + (f" and {len(new) - 3} more" if len(new) > 3 else "")
            _log.warning(
                "%s has no CRL for %s: certificates are accepted without a revocation check; fetch-crl gets CRLs",
                self.path,
                names,
            )


def _parse(name: str, content: bytes) -> _Content:
    if name.endswith(".signing_policy"):
        return _Content(policy=parse_signing_policy(content.decode("utf-8", "surrogateescape")))
    blocks = [(found[1], found[0]) for found in _PEM.finditer(content)]
    if not blocks:
        raise ConfigError("it holds no certificate or CRL in PEM")
    return _Content(
        certificates=tuple(x509.load_pem_x509_certificate(pem) for kind, pem in blocks if kind == b"CERTIFICATE"),
        crls=tuple(Crl(x509.load_pem_x509_crl(pem)) for kind, pem in blocks if kind == b"X509 CRL"),
    )


def _combine(contents: Mapping[str, _Content], versions: Mapping[str, Version | None]) -> AuthoritySnapshot:
    anchors: set[bytes] = set()
    problems: dict[CanonicalName, str] = {}
    crls: dict[CanonicalName, dict[int, Crl]] = {}
    policies: dict[CanonicalName, SigningPolicy] = {}
    files: dict[CanonicalName, set[str]] = {}
    by_hash: dict[str, list[str]] = {}
    for name, content in contents.items():
        by_hash.setdefault(name.partition(".")[0], []).append(name)
        for crl in content.crls:
            crls.setdefault(crl.issuer, {})[id(crl)] = crl
            files.setdefault(crl.issuer, set()).add(name)
    for name, content in contents.items():
        for certificate in content.certificates:
            authority = canonical_name(certificate.subject)
            anchors.add(certificate.public_bytes(Encoding.DER))
            beside = by_hash[name.partition(".")[0]]
            files.setdefault(authority, set()).update(beside)
            for other in beside:
                policy, problem = contents[other].policy, contents[other].problem
                if policy:
                    policies[authority] = policy
                if problem:
                    problems[authority] = problem
    return AuthoritySnapshot(
        frozenset(anchors),
        problems,
        {authority: tuple(found.values()) for authority, found in crls.items()},
        policies,
        {authority: frozenset(found) for authority, found in files.items()},
        versions,
    )


def _version(path: Path) -> Version | None:
    """Return the version of a file or folder; one that was just changed never has the same version twice."""
    try:
        status = path.stat()
    except OSError:
        return None
    version = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)
    now = time.time_ns()
    return (*version, now) if 0 <= now - status.st_mtime_ns < _SETTLED else version
