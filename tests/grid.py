"""A grid for tests, made with openssl: authorities, a host, people, their proxies (RFC 3820), and CRLs.

grid = Grid(tmp_path, key="ec")
grid.issue("mallory", "/O=Grid/CN=Mallory", kind="person")
grid.revoke("mallory")
grid.write_crl()
grid.openssl_accepts("mallory.pem", "-crl_check_all")      # False
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

DAY = timedelta(days=1)

CONFIG = """[ca]
default_ca = grid
[grid]
database = {folder}/{issuer}.txt
new_certs_dir = {folder}
rand_serial = yes
unique_subject = no
default_md = sha256
policy = names
[names]
organizationName = optional
commonName = supplied
[authority]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[host]
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
[person]
keyUsage = critical, digitalSignature, keyEncipherment
[proxy]
keyUsage = critical, digitalSignature, keyEncipherment
proxyCertInfo = critical, language:id-ppl-inheritAll
[limited_proxy]
keyUsage = critical, digitalSignature, keyEncipherment
proxyCertInfo = critical, language:1.3.6.1.4.1.3536.1.1.1.9
[independent_proxy]
keyUsage = critical, digitalSignature, keyEncipherment
proxyCertInfo = critical, language:id-ppl-independent
[req]
distinguished_name = none
[none]
"""


class Grid:
    """Certificates in a folder: `authorities` for X509_CERT_DIR, `certificate` and `key` of localhost, and proxies.

    Args:
        key: kind of the keys, "rsa" or "ec". The latter are made faster.
    """

    def __init__(self, folder: Path, key: str = "rsa") -> None:
        if shutil.which("openssl") is None:
            pytest.skip("there is no openssl here: apt-get install openssl")
        self.folder = folder
        self._key = ("rsa:2048",) if key == "rsa" else ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")
        self.authorities = folder / "authorities"
        self.authorities.mkdir(parents=True)
        self.certificate, self.key = folder / "host.pem", folder / "host.key"
        self.issue("authority", "/O=Grid/CN=Authority", "-selfsign")
        self.issue("host", "/O=Grid/CN=localhost")
        self.issue("person", "/O=Grid/CN=A Person")
        self.trust("authority")
        if os.getuid() == 0:  # the server runs as nobody, and its key must be its own
            shutil.chown(self.key, pwd.getpwnam("nobody").pw_uid)

    def proxy(
        self,
        name: str = "proxy",
        begins: timedelta = -DAY,
        ends: timedelta = DAY,
        *,
        owner: str = "person",
        subject: str = "/O=Grid/CN=A Person",
        kind: str = "proxy",
    ) -> Path:
        """Make a proxy of a person, valid between two times from now."""
        self.issue(name, f"{subject}/CN=1", issuer=owner, kind=kind, begins=begins, ends=ends)
        path = self.folder / f"{name}.proxy"
        path.touch(mode=0o600)
        path.write_text(
            "".join((self.folder / part).read_text() for part in (f"{name}.pem", f"{name}.key", f"{owner}.pem"))
        )
        return path

    def issue(
        self,
        name: str,
        subject: str,
        *options: str,
        issuer: str = "authority",
        kind: str = "",
        begins: timedelta = -DAY,
        ends: timedelta = DAY,
    ) -> None:
        """Make a key and a certificate.

        Args:
            kind: section of the configuration with its extensions (default: the name).
        """
        key, request, certificate = (self.folder / f"{name}.{ending}" for ending in ("key", "csr", "pem"))
        issuer = name if "-selfsign" in options else issuer
        config = self._config(issuer)
        openssl("req", "-new", "-utf8", "-newkey", *self._key, "-nodes", "-keyout", key, "-out", request,
                "-subj", subject, *config)  # fmt: skip
        signer = ("-keyfile", self.folder / f"{issuer}.key")
        if "-selfsign" not in options:
            signer += ("-cert", self.folder / f"{issuer}.pem")
        validity = ("-startdate", _shown(begins), "-enddate", _shown(ends))
        openssl("ca", "-batch", "-notext", "-preserveDN", *config, *signer, *options, *validity,
                "-extensions", kind or name, "-in", request, "-out", certificate)  # fmt: skip

    def hash(self, name: str) -> str:
        """Return the hash by which OpenSSL looks for a certificate."""
        return openssl("x509", "-in", self.folder / f"{name}.pem", "-noout", "-hash").strip()

    def trust(self, name: str) -> None:
        """Put a certificate where OpenSSL looks for authorities."""
        shutil.copy(self.folder / f"{name}.pem", self.authorities / f"{self.hash(name)}.0")

    def revoke(self, name: str, issuer: str = "authority") -> None:
        """Note that an authority has revoked a certificate; its next CRL contains it."""
        self._sign_as(issuer, "-revoke", self.folder / f"{name}.pem")

    def write_crl(
        self,
        issuer: str = "authority",
        begins: timedelta = -DAY,
        ends: timedelta = DAY,
        *,
        number: int = 0,
        signer: str = "",
    ) -> Path:
        """Write an authority's CRL to its place, at once, as fetch-crl does.

        Args:
            number: of the file, HASH.r0 or HASH.r1.
            signer: another authority of the same name, whose key signs the list.
        """
        path = self.authorities / f"{self.hash(issuer)}.r{number}"
        new = self.folder / "new.crl"
        times = ("-crl_lastupdate", _shown(begins), "-crl_nextupdate", _shown(ends))
        self._sign_as(issuer, "-gencrl", *times, "-out", new, signer=signer or issuer)
        return new.replace(path)

    def openssl_accepts(self, file: str, *options: str) -> bool:
        """Say whether `openssl verify` accepts the first certificate of a file."""
        path = self.folder / file
        always = ("-allow_proxy_certs", "-purpose", "sslclient", "-CApath", self.authorities, "-no-CAfile")
        command = ["openssl", "verify", *always, *options, "-untrusted", path, path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "verification failed" in done.stderr if done.returncode else done.stdout.endswith(": OK\n"), done.stderr
        return done.returncode == 0

    def _sign_as(self, issuer: str, *options: str | Path, signer: str = "") -> None:
        signer = signer or issuer
        files = ("-keyfile", self.folder / f"{signer}.key", "-cert", self.folder / f"{signer}.pem")
        openssl("ca", "-batch", *self._config(issuer), *files, *options)

    def _config(self, issuer: str) -> tuple[str, Path]:
        """Return the options that name the configuration of an issuer, with a database of its own."""
        path = self.folder / f"{issuer}.cnf"
        if not path.exists():
            path.write_text(CONFIG.format(folder=self.folder, issuer=issuer))
            (self.folder / f"{issuer}.txt").touch()
        return "-config", path


def _shown(from_now: timedelta) -> str:
    return f"{datetime.now(timezone.utc) + from_now:%Y%m%d%H%M%SZ}"


def openssl(*args: str | Path) -> str:
    """Run openssl; return its output."""
    done = subprocess.run(["openssl", *map(str, args)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {args[0]}: {done.stderr}")
    return done.stdout
