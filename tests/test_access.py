"""Who may do what: tokens, client certificates of a grid, a server that is read-only, and one that is private."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from grid import Grid
from serving_fixtures import MET, MET_SCORE, Server, bundle_fixture, write_archive  # noqa: F401

from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.serving.http.access import Access, Tokens

TOKEN, OTHER = "a-token-that-is-long-enough", "another-token-of-many-letters"


@contextmanager
def server(tmp_path: Path, *options: str) -> Iterator[Server]:
    with Server.start(tmp_path / "models", *options) as started:
        yield started
        assert started.stop() == 0


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.txt"
    path.write_text(f"# whom we know\n{TOKEN}  # Alice\n\n{OTHER}\n")
    return path


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    return Grid(tmp_path_factory.mktemp("grid"))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_only_who_has_a_token_changes_models_and_everybody_asks(tmp_path: Path, tokens: Path, bundle: Path) -> None:
    archive = write_archive(tmp_path / "m.tar", bundle).read_bytes()
    with server(tmp_path, f"--token-file={tokens}") as running:
        for headers, reason in (({}, "a token is required"), (bearer("x" * 30), "invalid token")):
            answer = requests.post(f"{running.url}/upload", data=archive, headers=headers, timeout=20)
            assert answer.status_code == 401
            assert answer.json() == {"error": f"POST /upload: {reason}"}
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert requests.get(f"{running.url}/models", timeout=20).json() == []
        requests.post(f"{running.url}/upload", data=archive, headers=bearer(TOKEN), timeout=20).raise_for_status()
        assert requests.post(f"{running.url}/json", json=MET, timeout=20).json() == [MET_SCORE]
        assert requests.delete(f"{running.url}/delete/htautau", timeout=20).status_code == 401
        assert requests.delete(f"{running.url}/delete/htautau", headers=bearer(OTHER), timeout=20).status_code == 200


def test_a_private_server_responds_only_to_authenticated_clients(tmp_path: Path, tokens: Path) -> None:
    with server(tmp_path, f"--token-file={tokens}", "--private", "--base-path=/tfaas") as running:
        assert requests.get(f"{running.url}/models", timeout=20).status_code == 401
        assert requests.post(f"{running.url}/json", json=MET, timeout=20).status_code == 401
        assert requests.get(f"{running.url}/models", headers=bearer(TOKEN), timeout=20).json() == []


def test_a_read_only_server_refuses_changes(tmp_path: Path, bundle: Path) -> None:
    bundle.rename(tmp_path / "htautau")
    (tmp_path / "models").mkdir()
    (tmp_path / "htautau").rename(tmp_path / "models/htautau")
    before = sorted(tmp_path.rglob("*"))
    with server(tmp_path, "--read-only") as running:
        assert requests.post(f"{running.url}/json", json=MET, timeout=20).json() == [MET_SCORE]
        for method, path in (
            ("POST", "/upload"),
            ("POST", "/bundle"),
            ("POST", "/params"),
            ("DELETE", "/delete/htautau"),
        ):
            answer = requests.request(method, running.url + path, data=b"{}", timeout=20)
            assert (answer.status_code, answer.json()["error"]) == (403, f"{method} {path}: the server is read-only")
    assert sorted(tmp_path.rglob("*")) == before  # it may be on a disk that nobody can write


def test_a_certificate_of_a_grid_is_as_good_as_a_token(tmp_path: Path, grid: Grid, bundle: Path) -> None:
    archive = write_archive(tmp_path / "m.tar", bundle).read_bytes()
    authority = next(grid.authorities.glob("*.0"))
    options = (f"--cert={grid.certificate}", f"--key={grid.key}", f"--capath={grid.authorities}")
    with server(tmp_path, *options) as running:
        url = running.url.replace("127.0.0.1", "localhost")
        assert url.startswith("https://")
        refused = requests.post(f"{url}/upload", data=archive, verify=authority, timeout=20)
        assert (refused.status_code, refused.json()["error"]) == (401, "POST /upload: a client certificate is required")
        person = (grid.folder / "person.pem", grid.folder / "person.key")
        proxy = str(grid.proxy())
        for certificate in (tuple(map(str, person)), proxy):
            sent = requests.post(f"{url}/upload", data=archive, verify=authority, cert=certificate, timeout=20)
            assert sent.status_code == 200
        assert requests.post(f"{url}/json", json=MET, verify=authority, timeout=20).json() == [MET_SCORE]


def test_a_certificate_of_strangers_ends_the_connection(tmp_path: Path, grid: Grid) -> None:
    strangers = Grid(tmp_path / "strangers")
    authority = next(grid.authorities.glob("*.0"))
    options = (f"--cert={grid.certificate}", f"--key={grid.key}", f"--capath={grid.authorities}", "--private")
    with server(tmp_path, *options) as running:
        url = running.url.replace("127.0.0.1", "localhost")
        stranger = (str(strangers.folder / "person.pem"), str(strangers.folder / "person.key"))
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{url}/models", verify=authority, cert=stranger, timeout=20)
        assert requests.get(f"{url}/models", verify=authority, timeout=20).status_code == 401


def test_a_token_file_that_changes_is_read_again(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens_file = Tokens(tokens)
    monkeypatch.setattr("mlaas4hep.serving.http.watched_file.FRESH", -1.0)
    assert tokens_file.contains(TOKEN.encode())
    tokens.write_text("x" * 20)
    assert tokens_file.contains(b"x" * 20)
    assert not tokens_file.contains(TOKEN.encode())
    tokens.unlink()
    assert not tokens_file.contains(b"x" * 20)


def test_a_token_file_that_becomes_invalid_is_reported_once(
    tokens: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tokens_file = Tokens(tokens)
    monkeypatch.setattr("mlaas4hep.serving.http.watched_file.FRESH", -1.0)
    tokens.write_text("short\n")
    assert [tokens_file.contains(TOKEN.encode()) for _ in range(3)] == [False] * 3
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"the tokens are no longer used: {tokens} has a token of less than 16 characters")


@pytest.mark.parametrize(
    ("text", "reason"), [("", "has no token"), ("# a\n", "has no token"), ("short\n", "less than 16 characters")]
)
def test_a_token_file_without_a_usable_token_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "tokens").write_text(text)
    with pytest.raises(ConfigError, match=reason):
        Tokens(tmp_path / "tokens")
    with pytest.raises(FileUnreadable, match="cannot read the tokens in"):
        Tokens(tmp_path / "other")


def test_private_requires_a_method_of_authentication() -> None:
    with pytest.raises(ConfigError, match="--private needs a way to authenticate clients"):
        Access(private=True)


def test_the_health_route_needs_no_authentication(tokens: Path) -> None:
    Access(Tokens(tokens), private=True).check("GET", "/v2/health/ready", None, None)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--private"], "--private needs a way to authenticate clients"),
        (["--capath=/"], "--capath and --key need --cert"),
        (["--allow-dn=/CN=Jane Doe"], "--allow-dn and --gridmap need client certificates"),
        (["--allow-dn=CN=Jane Doe"], "invalid --allow-dn 'CN=Jane Doe': write it as /DC=ch/DC=cern/CN=Jane Doe"),
        (["--gridmap=/nowhere"], "cannot read the names in /nowhere"),
        (["--cert=/dev/null"], "cannot use the certificate /dev/null"),
        (["--workers=0"], "invalid --workers 0: it must be finite and more than 0"),
        (["--timeout=0"], "invalid --timeout 0: it must be finite and more than 0 s"),
        (["--rate=-1"], "invalid --rate -1: it must be finite and at least 0"),
        (["--token-file=/nowhere"], "cannot read the tokens in /nowhere"),
        (["--max-upload=inf"], "invalid --max-upload inf: it must be finite and more than 0 MB"),
        (["--token-file="], "--token-file: it is empty"),
    ],
)
def test_options_that_make_no_sense_end_in_one_line(tmp_path: Path, options: list[str], reason: str) -> None:
    with pytest.raises(AssertionError) as caught:
        Server.start(tmp_path / "models", *options)
    (line,) = str(caught.value).splitlines()
    assert line.startswith("error: ")
    assert reason in line
