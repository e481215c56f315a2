"""Client certificates of a grid: CRLs, signing policies, proxies and names, compared with `openssl verify`."""

from __future__ import annotations

import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from http.client import HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from grid import DAY, Grid, openssl
from serving_fixtures import Server

from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.serving.certificates.grid_authorities import GridAuthorities

KNOWN, UNKNOWN, FORBIDDEN, DISCONNECTED = 200, 401, 403, 0
PERSON = "/O=Grid/CN=A Person"


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """People of every kind: a chain of a certificate in NAME.pem, its key in NAME.key."""
    grid = Grid(tmp_path_factory.mktemp("grid"), key="ec")
    grid.issue("mallory", "/O=Grid/CN=Mallory", kind="person")
    grid.revoke("mallory")
    for name, kind in (("full", "proxy"), ("limited", "limited_proxy"), ("independent", "independent_proxy")):
        shutil.copy(grid.proxy(name, kind=kind), grid.folder / f"{name}.pem")
    shutil.copy(
        grid.proxy("revoked_proxy", owner="mallory", subject="/O=Grid/CN=Mallory"), grid.folder / "revoked_proxy.pem"
    )
    grid.issue("imposter", "/O=Grid/CN=Authority", "-selfsign", kind="authority")
    for sub in ("sub", "revoked_sub"):
        grid.issue(sub, f"/O=Grid/CN={sub}", kind="authority")
        for name in (f"{sub}_person", f"{sub}_mallory"):
            grid.issue(name, f"/O=Grid/CN={name}", issuer=sub, kind="person")
        grid.revoke(f"{sub}_mallory", issuer=sub)
        for name in (f"{sub}_person", f"{sub}_mallory"):
            with (grid.folder / f"{name}.pem").open("a") as file:
                file.write((grid.folder / f"{sub}.pem").read_text())
    grid.revoke("revoked_sub")
    grid.issue("other", "/O=Other/CN=Authority", "-selfsign", kind="authority")
    grid.issue("stranger", PERSON, issuer="other", kind="person")
    return grid


@pytest.fixture
def authorities(grid: Grid) -> Iterator[Grid]:
    """The grid, with only its root authority in the folder, and without CRLs."""
    _empty(grid)
    yield grid
    _empty(grid)


def _empty(grid: Grid) -> None:
    keep = f"{grid.hash('authority')}.0"
    for path in grid.authorities.iterdir():
        if path.name != keep:
            path.unlink()
    grid.trust("authority")


def start(grid: Grid, tmp_path: Path, *options: str) -> Server:
    options = (f"--cert={grid.certificate}", f"--key={grid.key}", f"--capath={grid.authorities}", *options)
    return Server.start(tmp_path / "models", *options)


@pytest.fixture(scope="module")
def server(grid: Grid, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for this module, which must notice everything that its tests change."""
    with start(grid, tmp_path_factory.mktemp("server")) as started:
        yield started
        assert started.stop() == 0


def delete(server: Server, grid: Grid, name: str) -> requests.Response:
    """Send a request that changes models, on a new connection."""
    certificate = (str(grid.folder / f"{name}.pem"), str(grid.folder / f"{name}.key"))
    return requests.delete(
        f"{server.url}/delete/nothing", verify=str(grid.folder / "authority.pem"), cert=certificate, timeout=20
    )


def status(server: Server, grid: Grid, name: str) -> int:
    """Return the status of a request that changes models; DISCONNECTED if TLS refuses the certificate."""
    try:
        return delete(server, grid, name).status_code
    except requests.ConnectionError:
        return DISCONNECTED


def eventually(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Wait for what the server does within two seconds; a loaded machine has more."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def root(grid: Grid) -> None:
    grid.write_crl()


def expired(grid: Grid) -> None:
    grid.write_crl(begins=-2 * DAY, ends=-DAY / 24)


def future(grid: Grid) -> None:
    grid.write_crl(begins=DAY / 24, ends=DAY)


def forged(grid: Grid) -> None:
    """A CRL of the authority's name, with the signature of somebody else."""
    grid.write_crl("authority", signer="imposter")


def garbage(grid: Grid) -> None:
    (grid.authorities / f"{grid.hash('authority')}.r0").write_text("<html>proxy error</html>")


def second(grid: Grid) -> None:
    """An old CRL beside the new one."""
    shutil.copy(grid.write_crl("host", signer="host"), grid.folder / "unrelated")
    (grid.authorities / f"{grid.hash('host')}.r0").unlink()
    grid.write_crl(begins=-2 * DAY, ends=-DAY / 24)
    grid.write_crl(number=1)


def both(grid: Grid) -> None:
    grid.write_crl()
    grid.write_crl("sub")
    grid.write_crl("revoked_sub")


def sub_expired(grid: Grid) -> None:
    grid.write_crl()
    grid.write_crl("sub", begins=-2 * DAY, ends=-DAY / 24)


@pytest.mark.parametrize(
    ("name", "crls", "expected"),
    [
        ("person", root, KNOWN),
        ("mallory", root, UNKNOWN),
        ("full", root, KNOWN),
        ("limited", root, KNOWN),
        ("revoked_proxy", root, UNKNOWN),
        ("person", expired, UNKNOWN),
        ("full", expired, UNKNOWN),
        ("mallory", expired, UNKNOWN),
        ("person", future, UNKNOWN),
        ("person", forged, UNKNOWN),
        ("person", garbage, UNKNOWN),
        ("person", second, KNOWN),
        ("mallory", second, UNKNOWN),
        ("sub_person", both, KNOWN),
        ("sub_mallory", both, UNKNOWN),
        ("revoked_sub_person", both, UNKNOWN),
        ("sub_person", sub_expired, UNKNOWN),
        ("stranger", root, DISCONNECTED),
        ("imposter", root, DISCONNECTED),
    ],
)
def test_the_server_agrees_with_openssl_on_revoked_certificates(
    server: Server, authorities: Grid, name: str, crls: Callable[[Grid], None], expected: int
) -> None:
    crls(authorities)
    assert authorities.openssl_accepts(f"{name}.pem", "-crl_check_all") == (expected == KNOWN)
    assert status(server, authorities, name) == expected


@pytest.mark.parametrize("name", ["person", "full", "mallory", "sub_person"])
def test_an_authority_without_a_crl_is_trusted(server: Server, authorities: Grid, name: str) -> None:
    assert not authorities.openssl_accepts(f"{name}.pem", "-crl_check_all")  # the one difference
    assert authorities.openssl_accepts(f"{name}.pem")
    assert status(server, authorities, name) == KNOWN


def test_an_independent_proxy_does_not_act_for_its_owner(server: Server, authorities: Grid) -> None:
    assert authorities.openssl_accepts("independent.pem")
    answer = delete(server, authorities, "independent")
    assert answer.status_code == UNKNOWN
    assert "the proxy does not inherit its owner's rights" in answer.json()["error"]


POLICY = """# of the authority
access_id_CA    X509    '/O=Grid/CN=Authority'
pos_rights      globus  CA:sign
cond_subjects   globus  '{}'
"""


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (POLICY.format('"/O=Grid/*"'), KNOWN),
        (POLICY.format('"/O=Other/*" "/O=Grid/CN=A *"'), KNOWN),
        (POLICY.format('"/O=Other/*"'), UNKNOWN),
        (POLICY.replace("CN=Authority", "CN=Another").format('"/O=Grid/*"'), UNKNOWN),
        (POLICY.format('"/O=Grid/*"').replace("pos_rights", "neg_rights"), UNKNOWN),
        ("", UNKNOWN),
        ("not a policy", UNKNOWN),
    ],
)
@pytest.mark.parametrize("name", ["person", "full"])
def test_an_authority_certifies_only_subjects_of_its_signing_policy(
    server: Server, authorities: Grid, name: str, policy: str, expected: int
) -> None:
    (authorities.authorities / f"{authorities.hash('authority')}.signing_policy").write_text(policy)
    assert authorities.openssl_accepts(f"{name}.pem")  # which knows no signing policies
    assert status(server, authorities, name) == expected


def test_a_subordinate_authority_is_bound_by_the_policy_above_it(server: Server, authorities: Grid) -> None:
    path = authorities.authorities / f"{authorities.hash('authority')}.signing_policy"
    path.write_text(POLICY.format('"/O=Grid/CN=sub"'))
    assert status(server, authorities, "sub_person") == UNKNOWN
    authorities.trust("sub")
    own = POLICY.replace("CN=Authority", "CN=sub").format('"/O=Grid/*"')
    (authorities.authorities / f"{authorities.hash('sub')}.signing_policy").write_text(own)
    assert status(server, authorities, "sub_person") == KNOWN


def connect(server: Server, grid: Grid, name: str, *, tls12: bool = False) -> HTTPSConnection:
    """Return a connection that stays open."""
    context = ssl.create_default_context(cafile=str(grid.folder / "authority.pem"))
    if tls12:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(grid.folder / f"{name}.pem", grid.folder / f"{name}.key")
    address = urlsplit(server.url)
    return HTTPSConnection(str(address.hostname), address.port, context=context, timeout=20)


def status_on(
    connection: HTTPSConnection, method: str = "DELETE", path: str = "/delete/nothing", token: str = ""
) -> int:
    connection.request(method, path, headers={"Authorization": f"Bearer {token}"} if token else {})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def test_a_certificate_that_is_revoked_is_refused_on_open_connections_too(server: Server, authorities: Grid) -> None:
    authorities.issue("carol", "/O=Grid/CN=Carol", kind="person")
    authorities.write_crl()
    connection = connect(server, authorities, "carol")
    assert status_on(connection) == KNOWN
    opened = connection.sock
    authorities.revoke("carol")
    authorities.write_crl()
    assert status(server, authorities, "carol") == UNKNOWN  # at once
    assert eventually(lambda: status_on(connection) == UNKNOWN)
    assert connection.sock is opened
    connection.close()


def test_a_resumed_session_is_checked_like_a_new_one(server: Server, authorities: Grid) -> None:
    authorities.issue("dave", "/O=Grid/CN=Dave", kind="person")
    authorities.write_crl()
    context = ssl.create_default_context(cafile=str(authorities.folder / "authority.pem"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(authorities.folder / "dave.pem", authorities.folder / "dave.key")
    answer, session, resumed = delete_in_session(server, context, None)
    assert (answer, resumed) == (KNOWN, False)
    assert delete_in_session(server, context, session)[::2] == (KNOWN, True)
    authorities.revoke("dave")
    authorities.write_crl()
    assert delete_in_session(server, context, session)[::2] == (UNKNOWN, True)


def delete_in_session(
    server: Server, context: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[int, ssl.SSLSession | None, bool | None]:
    """Return the status of a request, the TLS session, and whether it was resumed."""
    address = urlsplit(server.url)
    with (
        socket.create_connection((str(address.hostname), address.port or 0), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=address.hostname, session=session) as connection,
    ):
        connection.sendall(b"DELETE /delete/nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
        return int(answer.split()[1]), connection.session, connection.session_reused


def test_added_and_removed_authorities_take_effect(server: Server, authorities: Grid) -> None:
    authorities.trust("other")
    assert eventually(lambda: status(server, authorities, "stranger") == KNOWN)
    connection = connect(server, authorities, "stranger")
    assert status_on(connection) == KNOWN
    (authorities.authorities / f"{authorities.hash('other')}.0").unlink()
    assert status(server, authorities, "stranger") in (UNKNOWN, DISCONNECTED)
    assert eventually(lambda: status_on(connection) == UNKNOWN)
    assert eventually(lambda: status(server, authorities, "stranger") == DISCONNECTED)
    connection.close()


def test_a_new_certificate_of_the_server_is_used_without_a_restart(grid: Grid, tmp_path: Path) -> None:
    certificate, key = tmp_path / "host.pem", tmp_path / "host.key"
    shutil.copy(grid.folder / "host.pem", certificate)
    shutil.copy(grid.folder / "host.key", key)
    grid.issue("new_host", "/O=Grid/CN=new host", kind="host")
    new = (grid.folder / "new_host.pem").read_text()
    with Server.start(tmp_path / "models", f"--cert={certificate}", f"--key={key}") as running:
        address = urlsplit(running.url)
        seen = (str(address.hostname), address.port or 0)
        assert ssl.get_server_certificate(seen).split() == grid.certificate.read_text().split()
        certificate.write_text(new)  # its key comes later
        shutil.copy(grid.folder / "new_host.key", key)
        assert eventually(lambda: ssl.get_server_certificate(seen).split() == new.split())
        assert running.stop() == 0


@pytest.fixture(scope="module")
def andre(grid: Grid) -> str:
    """A person whose name has letters beyond ASCII, a slash and an address."""
    name = "/DC=ch/DC=cern/O=Grid/CN=host\\/André/emailAddress=andre@cern.ch/UID=andre"
    grid.issue("andre", name, kind="person")
    shown = openssl("x509", "-in", grid.folder / "andre.pem", "-noout", "-subject", "-nameopt", "compat")
    return shown.strip().removeprefix("subject=")


def test_only_people_who_are_named_change_models(authorities: Grid, tmp_path: Path, andre: str) -> None:
    assert (
        andre.replace("\\/", "/") == "/DC=ch/DC=cern/O=Grid/CN=host/Andr\\xC3\\xA9/emailAddress=andre@cern.ch/UID=andre"
    )
    gridmap = tmp_path / "grid-mapfile"
    gridmap.write_text(f'# comment\n"{andre.replace("emailAddress", "Email")}" andre,atlas\n')
    token = tmp_path / "tokens"
    token.write_text("x" * 20)
    options = (f"--gridmap={gridmap}", "--allow-dn=/O=Grid/CN=sub_person", f"--token-file={token}", "--private")
    with start(authorities, tmp_path, *options) as running:
        assert status(running, authorities, "andre") == KNOWN
        assert status(running, authorities, "sub_person") == KNOWN
        for name in ("person", "full"):
            answer = delete(running, authorities, name)
            assert answer.status_code == FORBIDDEN
            assert answer.json()["error"] == f"DELETE /delete/nothing: {PERSON} may not change models"
        connection = connect(running, authorities, "person")
        assert status_on(connection, "GET", "/models") == 200  # they may ask
        assert status_on(connection, token="x" * 20) == KNOWN
        connection.close()
        gridmap.write_text(f'"{PERSON}" person\n')
        assert eventually(lambda: status(running, authorities, "andre") == FORBIDDEN)
        assert status(running, authorities, "full") == KNOWN  # a proxy stands for its owner
        gridmap.unlink()
        assert eventually(lambda: status(running, authorities, "full") == FORBIDDEN)
        assert status(running, authorities, "sub_person") == KNOWN
        assert running.stop() == 0


def test_a_refusal_is_logged_once_per_connection_with_name_and_reason(
    grid: Grid, authorities: Grid, tmp_path: Path
) -> None:
    authorities.issue("escape", "/O=Grid/CN=red\x1b[31m\nnew line", kind="person")
    authorities.revoke("escape")
    authorities.write_crl()
    with start(authorities, tmp_path) as running:
        connection = connect(running, authorities, "escape")
        assert [status_on(connection) for _ in range(3)] == [UNKNOWN] * 3
        connection.close()
        assert status(running, authorities, "mallory") == UNKNOWN
        running.process.terminate()
        assert running.process.stderr is not None
        lines = [line for line in running.process.stderr if "refused" in line]
    first, second = lines
    name = "/O=Grid/CN=red\\x1b[31m\\nnew line"
    assert f"refused the client certificate {name}: /O=Grid/CN=Authority has revoked the certificate {name}" in first
    assert "refused the client certificate /O=Grid/CN=Mallory: " in second


def test_authorities_without_a_crl_are_logged_once(authorities: Grid, caplog: pytest.LogCaptureFixture) -> None:
    folder = GridAuthorities(authorities.authorities)
    folder.reload()
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"{authorities.authorities} has no CRL for /O=Grid/CN=Authority: certificates are accepted")
    caplog.clear()
    authorities.write_crl()
    folder.reload()
    assert not caplog.records


def test_authorities_and_crls_may_be_in_one_file(authorities: Grid, tmp_path: Path) -> None:
    crl = authorities.write_crl().read_text()
    file = tmp_path / "authorities.pem"
    file.write_text((authorities.folder / "authority.pem").read_text() + crl)
    snapshot = GridAuthorities(file).current
    assert len(snapshot.anchors) == 1
    assert [len(crls) for crls in snapshot.crls.values()] == [1]


@pytest.mark.parametrize(("name", "text"), [("empty", ""), ("page.pem", "<html>")])
def test_authorities_that_cannot_be_used_are_one_line(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(FileUnreadable, match="no certificate or CRL in PEM"):
        GridAuthorities(tmp_path / name)
    with pytest.raises(ConfigError, match="has no certificates of authorities; run 'openssl rehash'"):
        GridAuthorities(tmp_path)
    with pytest.raises(FileUnreadable, match="No such file"):
        GridAuthorities(tmp_path / "missing")
