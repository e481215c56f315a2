"""Which token is found, and to which servers it is sent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlaas4hep.client.address import is_loopback
from mlaas4hep.client.token import find_token
from mlaas4hep.errors import ConfigError, FileUnreadable

HOST = "https://host:8083"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment whose only token is in XDG_RUNTIME_DIR; return that folder."""
    for name in ("BEARER_TOKEN", "BEARER_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / f"bt_u{os.geteuid()}").write_text("of.the.folder\n")
    return tmp_path


def test_the_first_token_in_the_search_order_is_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_token(HOST) == "of.the.folder"
    (home / "other").write_text("\n of.the.variable== \n")
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(home / "other"))
    assert find_token(HOST) == "of.the.variable=="
    monkeypatch.setenv("BEARER_TOKEN", "at.once ")
    assert find_token(HOST) == "at.once"
    (home / "mine").write_text("mine")
    assert find_token(HOST, home / "mine") == "mine"


def test_a_discovered_token_is_not_sent_over_plain_http(home: Path) -> None:
    assert find_token("http://host") is None
    assert find_token("http://localhost:1") == find_token("http://[::1]:1") == "of.the.folder"
    (home / "mine").write_text("se.cret")
    with pytest.raises(ConfigError, match=r"^the token is not sent over http, .*; use a URL that begins with https$"):
        find_token("http://host", home / "mine")


@pytest.mark.parametrize(
    ("content", "error", "reason"),
    [
        (None, FileUnreadable, "cannot read --token-file .*mine.*: No such file"),
        (" \n", ConfigError, "the token file .*mine is empty"),
        ("two words", ConfigError, "invalid token in .*mine"),
        ("line\nline", ConfigError, "invalid token in .*mine"),
        ("é", ConfigError, "invalid token in .*mine"),
    ],
)
def test_the_error_for_an_invalid_token_file_does_not_show_its_content(
    home: Path, content: str | None, error: type[Exception], reason: str
) -> None:
    if content is not None:
        (home / "mine").write_text(content)
    with pytest.raises(error, match=reason) as caught:
        find_token(HOST, home / "mine")
    assert "words" not in str(caught.value).partition("a token is")[0]


def test_an_invalid_token_in_a_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEARER_TOKEN", "two words")
    with pytest.raises(ConfigError, match="invalid token in BEARER_TOKEN"):
        find_token(HOST)


def test_a_token_file_of_another_user_is_ignored(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: real + 1)
    (home / f"bt_u{real + 1}").write_text("of.somebody")
    monkeypatch.delenv("BEARER_TOKEN", raising=False)
    assert find_token(HOST) is None


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.2", True),
        ("http://localhost.evil.org", False),
        ("http://[::1]", True),
        ("http://10.0.0.1", False),
    ],
)
def test_loopback_is_recognised_by_the_host_name(url: str, here: bool) -> None:
    assert is_loopback(url) is here
