"""An XRootD server that asks for grid proxies: a valid one gives access, otherwise the error says what to do."""

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from grid import DAY, Grid
from scripts import only_error_line, run_script
from tinyroot import write_events
from xrootd_server import XRootDServer

from mlaas4hep.io.storage.grid_proxy import expiry_of, proxy_problem

CLOSING = "-----END CERTIFICATE-----\n"
PROXY_OF_THE_USER = Path(f"/tmp/x509up_u{os.getuid()}")


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    path = tmp_path_factory.mktemp("local") / "a.root"
    write_events(path, 2000)
    return path


@pytest.fixture(scope="module")
def server(local):
    server = XRootDServer(grid=True)
    server.put(local, "a.root")
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def grid(server):
    return server.grid


@pytest.fixture(autouse=True)
def authorities(grid, monkeypatch, tmp_path):
    """Believe only the authority of the grid, and let no proxy of whoever runs the tests be found."""
    monkeypatch.setenv("X509_CERT_DIR", str(grid.authorities))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("X509_USER_PROXY", raising=False)


def read(server, cwd, proxy=None):
    """Run the reader in a process of its own, since XRootD's client keeps what it has found out about servers."""
    env = {} if proxy is None else {"X509_USER_PROXY": str(proxy)}
    return run_script("reader.py", f"--fin={server.url('a.root')}", "--fout=specs.json", cwd=cwd, env=env)


def test_a_server_accepts_a_valid_proxy(server, grid, local, tmp_path):
    done = read(server, tmp_path, grid.proxy())
    assert done.returncode == 0, done.stderr
    assert "Read 2000 events" in done.stdout
    specs = (tmp_path / "specs.json").read_text().replace(server.url("a.root"), str(local))
    run_script("reader.py", f"--fin={local}", "--fout=specs.json", cwd=tmp_path)
    assert specs == (tmp_path / "specs.json").read_text()


@pytest.mark.skipif(PROXY_OF_THE_USER.exists(), reason=f"there is a proxy in {PROXY_OF_THE_USER}")
def test_the_error_without_a_proxy_says_how_to_create_one(server, tmp_path):
    done = read(server, tmp_path)
    assert only_error_line(done) == (
        f"error: cannot read {server.url('a.root')}: the server requires authentication: the grid proxy "
        f"{PROXY_OF_THE_USER} does not exist: create one with voms-proxy-init, or set X509_USER_PROXY"
    )
    assert "trying again" not in done.stderr


def test_the_error_for_an_expired_proxy_names_it(server, grid, tmp_path):
    proxy = grid.proxy("expired", begins=-2 * DAY, ends=-timedelta(hours=1))
    done = read(server, tmp_path, proxy)
    line = only_error_line(done)
    assert f"the server requires authentication: the grid proxy {proxy} expired on " in line
    assert line.endswith("create a new one with voms-proxy-init")
    assert "trying again" not in done.stderr


def test_a_proxy_of_another_authority_is_rejected(server, tmp_path):
    stranger = Grid(tmp_path / "grid").proxy()
    line = only_error_line(read(server, tmp_path, stranger))
    assert f"the server requires authentication: it rejects the grid proxy {stranger}, valid until " in line


def test_a_server_without_authentication_needs_no_proxy(local, tmp_path, grid):
    server = XRootDServer()
    server.put(local, "a.root")
    server.start()
    done = read(server, tmp_path, grid.proxy("expired", begins=-2 * DAY, ends=-DAY))
    server.remove()
    assert done.returncode == 0, done.stderr


def test_a_proxy_expires_with_the_first_of_its_certificates(grid):
    now = datetime.now(timezone.utc)
    proxy = grid.proxy("long", ends=40 * 365 * DAY).read_text()
    assert abs(expiry_of(proxy) - now - DAY) < timedelta(minutes=5)  # the person's
    assert abs(expiry_of(proxy.partition("-----END CERTIFICATE")[0] + CLOSING) - now - 40 * 365 * DAY) < DAY


@pytest.mark.parametrize("content", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nabc\n" + CLOSING])
def test_a_proxy_file_without_a_certificate_is_reported(content, tmp_path, monkeypatch):
    path = tmp_path / "proxy"
    path.write_text(content)
    monkeypatch.setenv("X509_USER_PROXY", str(path))
    assert proxy_problem() == f"the grid proxy {path} contains no certificate: create a new one with voms-proxy-init"


def test_a_missing_folder_of_authorities_is_reported(grid, monkeypatch, tmp_path):
    monkeypatch.setenv("X509_USER_PROXY", str(grid.proxy()))
    monkeypatch.setenv("X509_CERT_DIR", str(tmp_path / "none"))
    assert proxy_problem() == f"{tmp_path}/none contains no certificates of authorities: set X509_CERT_DIR"
