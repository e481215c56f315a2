"""Signing policies: what IGTF's files say, and files that nobody understands."""

from __future__ import annotations

import pytest

from mlaas4hep.errors import ConfigError
from mlaas4hep.serving.certificates.signing_policy import parse_signing_policy

TWO = """
# ca_policy.conf  -*- 'quotes' in a comment
 access_id_CA  X509  '/C=CH/O=CERN/CN=Root'   # the root
 pos_rights    globus  CA:sign
 cond_subjects globus '"/C=CH/O=CERN/*"'

 access_id_CA  X509  "/DC=ch/DC=cern/CN=Grid CA 1"
 access_id_CA  X509  '/DC=ch/DC=cern/CN=Grid CA 2'
 pos_rights    globus  CA:sign
 cond_subjects globus '"/DC=ch/DC=cern/OU=*/CN=*" "/DC=ch/Email=a@cern.ch"'
"""


@pytest.mark.parametrize(
    ("authority", "subject", "expected"),
    [
        ("/C=CH/O=CERN/CN=Root", "/C=CH/O=CERN/CN=x", True),
        ("/C=CH/O=CERN/CN=Root", "/C=CH/O=CERNx/CN=x", False),
        ("/C=CH/O=CERN/CN=Root", "/x/C=CH/O=CERN/CN=x", False),
        ("/C=CH/O=CERN/CN=Root", "/DC=ch/DC=cern/OU=x/CN=y", False),
        ("/DC=ch/DC=cern/CN=Grid CA 1", "/DC=ch/DC=cern/OU=x/CN=y", True),
        ("/DC=ch/DC=cern/CN=Grid CA 2", "/DC=ch/DC=cern/OU=x/CN=y", True),
        ("/DC=ch/DC=cern/CN=Grid CA 2", "/DC=ch/emailAddress=a@cern.ch", True),
        ("/DC=ch/DC=cern/CN=Grid CA 2", "/DC=ch/emailAddress=aacern.ch", False),
        ("/DC=ch/DC=cern/CN=Grid CA 2", None, False),
        ("/CN=Another", "/C=CH/O=CERN/CN=x", False),
        (None, "/C=CH/O=CERN/CN=x", False),
    ],
)
def test_an_authority_may_sign_subjects_that_a_pattern_of_its_entry_matches(
    authority: str | None, subject: str | None, expected: bool
) -> None:
    assert parse_signing_policy(TWO).permits(authority, subject) is expected


def test_a_condition_may_be_a_single_pattern() -> None:
    for condition in ('"/O=Grid/*"', "'/O=Grid/*'", "/O=Grid/*"):
        text = f"access_id_CA X509 '/O=Grid/CN=A'\npos_rights globus CA:sign\ncond_subjects globus {condition}\n"
        assert parse_signing_policy(text).permits("/O=Grid/CN=A", "/O=Grid/CN=x")


@pytest.mark.parametrize("rights", ["pos_rights globus CA:other", ""])
def test_a_condition_without_the_right_to_sign_permits_no_subject(rights: str) -> None:
    text = f"access_id_CA X509 '/CN=A'\n{rights}\ncond_subjects globus '\"*\"'\n"
    assert not parse_signing_policy(text).permits("/CN=A", "/CN=x")


@pytest.mark.parametrize(
    "line", ["access_id_CA X509", "neg_rights globus CA:sign", "access_id_ANYBODY x y", "<html> is not it"]
)
def test_a_line_that_is_not_understood_makes_the_policy_unusable(line: str) -> None:
    with pytest.raises(ConfigError, match="line 11 of a signing policy"):
        parse_signing_policy(TWO + line)
