"""The folder of trusted authorities: their certificates, CRLs and signing policies, read again when they change.

    authorities = GridAuthorities("/etc/grid-security/certificates")
    authorities.current.crls_of(name)

The folder has the layout of IGTF and fetch-crl: `HASH.0`, `HASH.r0`, `HASH.signing_policy`, where HASH is OpenSSL's
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

from mlaas4hep.errors import ConfigError, FileUnreadable, MLaaS4HEPError, error_summary
from mlaas4hep.serving.certificates.distinguished_names import CanonicalName, canonical_name, shown
from mlaas4hep.serving.certificates.revocation import Crl
from mlaas4hep.serving.certificates.signing_policy import SigningPolicy, parse_signing_policy

Version = tuple[int, ...]
"""Changes with the content of a file."""

_FILE = re.compile(r"(?P<hash>[0-9a-f]{8})\.(?:[0-9]+|r[0-9]+|signing_policy)")
_PEM = re.compile(rb"-----BEGIN (CERTIFICATE|X509 CRL)-----.+?-----END \1-----", re.S)
_SETTLED = 100_000_000  # ns; two changes within this time may leave the same modification time
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Content:
    """The content of one file.

    Attributes:
        problem: why the file cannot be used; "" if it can.
    """

    certificates: tuple[x509.Certificate, ...] = ()
    crls: tuple[Crl, ...] = ()
    policy: SigningPolicy | None = None
    problem: str = ""


@dataclass(frozen=True)
class AuthoritySnapshot:
    """The content of all files at one time.

    Attributes:
        anchors: the trusted certificates, in DER.
        problems: why a CRL or signing policy cannot be used, by authority.
        crls, policies: by authority.
        files: names of the files, by authority.
        versions: version of every file by name, and of the folder itself under "".
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
        current: the content at the time of the last check.
        changes: number of changes of the trusted certificates.

    Raises:
        FileUnreadable: the folder or file cannot be read.
        ConfigError: it has no certificate of an authority.
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
        """Check all files again; if the folder cannot be read, no authority is trusted."""
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
        """Check the files of some authorities; if one has changed, reload all."""
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
                f"{self.path} has no certificates of authorities",
                hint="run 'openssl rehash': it gives PEM files the required names (HASH.0)",
            )
        self._warn_without_crl(contents, snapshot)
        return snapshot

    def _content(self, name: str, version: Version | None) -> _Content:
        cached = self._contents.get(version) if version is not None else None
        if cached is not None:
            return cached
        path = self.path / name
        try:
            return _parse(name, path.read_bytes())
        except (OSError, ValueError) as error:
            problem = f"cannot use {path}: {error if isinstance(error, MLaaS4HEPError) else error_summary(error)}"
            if not name:
                raise FileUnreadable(problem, hint="check --capath") from error
            _log.warning("%s", problem)
            return _Content(problem=problem)

    def _warn_without_crl(self, contents: Mapping[str, _Content], snapshot: AuthoritySnapshot) -> None:
        certificates = {c for content in contents.values() for c in content.certificates}
        without_crl = {shown(c.subject) for c in certificates if not snapshot.crls.get(canonical_name(c.subject))}
        new = sorted(without_crl - self._without_crl)
        self._without_crl = without_crl
        if new:
            names = ", ".join(new[:3]) + (f" and {len(new) - 3} more" if len(new) > 3 else "")
            what = "certificates are accepted without a revocation check; run fetch-crl to get CRLs"
            _log.warning("%s has no CRL for %s: %s", self.path, names, what)


def _parse(name: str, content: bytes) -> _Content:
    if name.endswith(".signing_policy"):
        return _Content(policy=parse_signing_policy(content.decode("utf-8", "surrogateescape")))
    blocks = [(match[1], match[0]) for match in _PEM.finditer(content)]
    if not blocks:
        raise ConfigError("it has no certificate or CRL in PEM format")
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
            same_hash = by_hash[name.partition(".")[0]]
            files.setdefault(authority, set()).update(same_hash)
            for other in same_hash:
                policy, problem = contents[other].policy, contents[other].problem
                if policy:
                    policies[authority] = policy
                if problem:
                    problems[authority] = problem
    return AuthoritySnapshot(
        frozenset(anchors),
        problems,
        {authority: tuple(unique.values()) for authority, unique in crls.items()},
        policies,
        {authority: frozenset(names) for authority, names in files.items()},
        versions,
    )


def _version(path: Path) -> Version | None:
    """Return the version of a file or folder, None if it is missing; it differs on every call just after a change."""
    try:
        status = path.stat()
    except OSError:
        return None
    version = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)
    now = time.time_ns()
    return (*version, now) if 0 <= now - status.st_mtime_ns < _SETTLED else version
