"""A grid of one's own: an authority, a host, a person, and the proxies (RFC 3820) that the person makes."""

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
database = {folder}/issued.txt
new_certs_dir = {folder}
rand_serial = yes
unique_subject = no
default_md = sha256
policy = names
[names]
organizationName = supplied
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
[req]
distinguished_name = none
[none]
"""


class Grid:
    """Certificates in a folder: `authorities` for X509_CERT_DIR, `certificate` and `key` of localhost, and proxies."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("there is no openssl here: apt-get install openssl")
        self.folder = folder
        self.authorities = folder / "authorities"
        self.authorities.mkdir(parents=True)
        self.certificate, self.key = folder / "host.pem", folder / "host.key"
        (folder / "issued.txt").touch()
        (folder / "grid.cnf").write_text(CONFIG.format(folder=folder))
        self._issue("authority", "/O=Grid/CN=Authority", "-selfsign")
        self._issue("host", "/O=Grid/CN=localhost")
        self._issue("person", "/O=Grid/CN=A Person")
        certificate = folder / "authority.pem"
        name = _openssl("x509", "-in", certificate, "-noout", "-hash").strip()
        shutil.copy(certificate, self.authorities / f"{name}.0")  # where OpenSSL looks for it
        if os.getuid() == 0:  # the server runs as nobody, and its key must be its own
            shutil.chown(self.key, pwd.getpwnam("nobody").pw_uid)

    def proxy(self, name: str = "proxy", begins: timedelta = -DAY, ends: timedelta = DAY) -> Path:
        """Make a proxy of the person, valid between two times from now."""
        self._issue(name, "/O=Grid/CN=A Person/CN=1", issuer="person", kind="proxy", begins=begins, ends=ends)
        path = self.folder / f"{name}.proxy"
        parts = (f"{name}.pem", f"{name}.key", "person.pem")
        path.touch(mode=0o600)
        path.write_text("".join((self.folder / part).read_text() for part in parts))
        return path

    def _issue(
        self,
        name: str,
        subject: str,
        *options: str,
        issuer: str = "authority",
        kind: str = "",
        begins: timedelta = -DAY,
        ends: timedelta = DAY,
    ) -> None:
        key, request, certificate = (self.folder / f"{name}.{ending}" for ending in ("key", "csr", "pem"))
        config = ("-config", self.folder / "grid.cnf")
        _openssl("req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request,
                 "-subj", subject, *config)  # fmt: skip
        signer = ("-keyfile", self.folder / f"{issuer}.key")
        if "-selfsign" not in options:
            signer += ("-cert", self.folder / f"{issuer}.pem")
        validity = ("-startdate", _shown(begins), "-enddate", _shown(ends))
        _openssl("ca", "-batch", "-notext", "-preserveDN", *config, *signer, *options, *validity,
                 "-extensions", kind or name, "-in", request, "-out", certificate)  # fmt: skip


def _shown(from_now: timedelta) -> str:
    return f"{datetime.now(timezone.utc) + from_now:%Y%m%d%H%M%SZ}"


def _openssl(*args: str | Path) -> str:
    done = subprocess.run(["openssl", *map(str, args)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {args[0]}: {done.stderr}")
    return done.stdout
