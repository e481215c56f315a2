"""Names in slash form: one spelling for each, and none for a name that could be read in two ways."""

from __future__ import annotations

from pathlib import Path

import pytest
from grid import Grid, openssl

x509 = pytest.importorskip("cryptography.x509", reason="cryptography is not installed")

from mlaas4hep.serving.certificates.distinguished_names import canonical_name, normalise, slash_form  # noqa: E402

OIDS = {"C": "2.5.4.6", "O": "2.5.4.10", "OU": "2.5.4.11", "CN": "2.5.4.3", "DC": "0.9.2342.19200300.100.1.25",
        "UID": "0.9.2342.19200300.100.1.1", "email": "1.2.840.113549.1.9.1", "other": "1.2.3.4"}  # fmt: skip


def name(*parts: tuple[str, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.ObjectIdentifier(OIDS[kind]), value) for kind, value in parts])


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([("DC", "ch"), ("DC", "cern"), ("CN", "Jane Doe")], "/DC=ch/DC=cern/CN=Jane Doe"),
        ([("O", "Grid"), ("CN", "host/a.cern.ch")], "/O=Grid/CN=host/a.cern.ch"),
        ([("CN", "André"), ("email", "a@cern.ch"), ("UID", "a")], "/CN=André/emailAddress=a@cern.ch/UID=a"),
        ([("CN", "a"), ("other", "b")], "/CN=a/1.2.3.4=b"),
        ([("O", "Grid/CN=Jane")], None),
        ([("O", "Grid/e=jane@cern.ch")], None),
        ([("O", "Grid/1.2.3.4=x")], None),
        ([("CN", "Andr\\xC3\\xA9")], None),
    ],
)
def test_a_name_has_a_slash_form_only_if_it_can_be_read_in_one_way(
    parts: list[tuple[str, str]], expected: str | None
) -> None:
    assert slash_form(name(*parts)) == expected


def test_a_relative_name_of_two_attributes_has_no_slash_form() -> None:
    pair = [x509.NameAttribute(x509.ObjectIdentifier(OIDS[kind]), value) for kind, value in (("O", "a"), ("CN", "b"))]
    assert slash_form(x509.Name([x509.RelativeDistinguishedName(pair)])) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/CN=A/Email=a@b.c", "/CN=A/emailAddress=a@b.c"),
        ("/CN=A/E=a@b.c", "/CN=A/emailAddress=a@b.c"),
        ("/cn=A/emailaddress=a@b.c", "/CN=A/emailAddress=a@b.c"),
        ("/USERID=x/CN=A", "/UID=x/CN=A"),
        (r"/CN=Andr\xC3\xA9", "/CN=André"),
        (r"/CN=host\/a.cern.ch", "/CN=host/a.cern.ch"),
        (r"/O=Grid\/CN=Jane", r"/O=Grid\/CN=Jane"),  # not Jane of Grid
    ],
)
def test_spellings_of_the_same_name_are_equal(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize(
    "subject",
    ["/C=CH/O=Grid/CN=host\\/a.cern.ch", "/DC=ch/UID=7/CN=Żółw (1), \\+x", "/ST=GE/L=Meyrin/CN=a/emailAddress=a@b.c"],
)
def test_the_name_that_openssl_shows_is_the_slash_form(tmp_path: Path, subject: str) -> None:
    grid = Grid(tmp_path, key="ec")
    grid.issue("someone", subject, "-selfsign", kind="person")
    shown = openssl("x509", "-in", tmp_path / "someone.pem", "-noout", "-subject", "-nameopt", "compat")
    certificate = x509.load_pem_x509_certificate((tmp_path / "someone.pem").read_bytes())
    assert normalise(shown.strip().removeprefix("subject=")) == slash_form(certificate.subject)


def test_case_and_spaces_do_not_count_when_an_issuer_is_looked_up() -> None:
    assert canonical_name(name(("O", "Grid"), ("CN", "An  Authority "))) == canonical_name(
        name(("O", "GRID"), ("CN", "an authority"))
    )
    assert canonical_name(name(("O", "a"))) != canonical_name(name(("CN", "a")))
