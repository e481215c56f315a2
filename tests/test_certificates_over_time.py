"""Rights that end while connections are open: of each worker, and of certificates and CRLs that expire."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import timedelta
from http.client import HTTPSConnection
from pathlib import Path

import pytest
from grid import Grid
from serving_fixtures import Server
from test_grid_certificates import FORBIDDEN, KNOWN, PERSON, UNKNOWN, connect, eventually, start, status_on

SOON = timedelta(seconds=6)


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    grid = Grid(tmp_path / "grid", key="ec")
    grid.issue("mallory", "/O=Grid/CN=Mallory", kind="person")
    return grid


def one_of_each_worker(server: Server, grid: Grid, name: str, stack: ExitStack) -> list[HTTPSConnection]:
    """Return two connections, to the two workers, which number their requests differently."""
    found: dict[str, HTTPSConnection] = {}
    for _ in range(100):
        connection = connect(server, grid, name)
        stack.callback(connection.close)
        connection.request("DELETE", "/delete/nothing")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == KNOWN
        found.setdefault(str(answer.getheader("X-Request-ID")).partition("-")[0], connection)
        if len(found) == 2:
            return list(found.values())
    raise AssertionError("all connections went to one worker")


def test_all_workers_notice_a_revoked_certificate_and_a_changed_gridmap(grid: Grid, tmp_path: Path) -> None:
    grid.write_crl()
    gridmap = tmp_path / "grid-mapfile"
    gridmap.write_text(f'"{PERSON}" person\n"/O=Grid/CN=Mallory" mallory\n')
    with ExitStack() as stack, start(grid, tmp_path, "--workers=2", f"--gridmap={gridmap}") as server:
        persons = one_of_each_worker(server, grid, "person", stack)
        mallories = one_of_each_worker(server, grid, "mallory", stack)
        opened = [connection.sock for connection in (*persons, *mallories)]
        grid.revoke("mallory")
        grid.write_crl()
        assert eventually(lambda: [status_on(connection) for connection in mallories] == [UNKNOWN, UNKNOWN])
        assert [status_on(connection) for connection in persons] == [KNOWN, KNOWN]
        gridmap.write_text('"/O=Grid/CN=Somebody Else" else\n')
        assert eventually(lambda: [status_on(connection) for connection in persons] == [FORBIDDEN, FORBIDDEN])
        assert [connection.sock for connection in (*persons, *mallories)] == opened
        assert server.stop() == 0


def test_credentials_that_expire_on_an_open_connection_are_refused(grid: Grid, tmp_path: Path) -> None:
    """A proxy, a certificate, and the CRL of another authority; the server itself is of the first one."""
    grid.issue("other", "/O=Other/CN=Authority", "-selfsign", kind="authority")
    grid.trust("other")
    grid.issue("user", "/O=Other/CN=User", issuer="other", kind="person")
    with ExitStack() as stack, start(grid, tmp_path) as server:
        (grid.folder / "brief.pem").write_text(grid.proxy("brief", ends=SOON).read_text())
        grid.issue("visitor", "/O=Grid/CN=Visitor", kind="person", ends=SOON)
        grid.write_crl("other", ends=SOON)
        connections = {name: connect(server, grid, name) for name in ("person", "brief", "visitor", "user")}
        for connection in connections.values():
            stack.callback(connection.close)
        assert [status_on(connection) for connection in connections.values()] == [KNOWN] * 4
        opened = [connection.sock for connection in connections.values()]
        later = [KNOWN, UNKNOWN, UNKNOWN, UNKNOWN]
        assert eventually(lambda: [status_on(connection) for connection in connections.values()] == later, seconds=20)
        assert status_on(connections["brief"], "GET", "/models") == 200  # as without a certificate
        assert [connection.sock for connection in connections.values()] == opened
        assert server.stop() == 0
