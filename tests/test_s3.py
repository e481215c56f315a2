"""Files on a real S3 server: the same as on disk, and whatever keeps them from us is one clear line."""

import numpy as np
import pytest
import uproot
from check_source import check_source
from counting_proxy import CountingProxy
from s3_server import S3Server, environment
from scripts import only_error_line, run_forked
from tinyroot import write_events
from xrootd_server import free_port

from mlaas4hep.errors import FileUnreadable, Unreachable
from mlaas4hep.io import open_source
from mlaas4hep.io.storage.replicas import RetryPolicy
from mlaas4hep.reader import DataReader

URL = "s3://store/runs/a.root"
OTHERS = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_REGION")


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    path = tmp_path_factory.mktemp("local") / "a.root"
    write_events(path, 30_000, clusters=10)
    return path


@pytest.fixture(scope="module")
def server(local):
    server = S3Server()
    server.put(local, "runs/a.root")
    server.put(local, "public.root", public=True)
    yield server
    server.close()


@pytest.fixture(scope="module")
def proxy(server):
    """What counts the bytes; the tests within this process all go through it, since fsspec keeps its connections."""
    proxy = CountingProxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture(autouse=True)
def credentials(proxy, monkeypatch):
    for variable in OTHERS:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment(f"http://localhost:{proxy.port}").items():
        monkeypatch.setenv(variable, value)


def refusal(url, cwd, env=None):
    """Run the reader over what cannot be read; return the line that says why, and see that it was asked for once."""
    done = run_forked("reader.py", f"--fin={url}", "--retries=3", cwd=cwd, env=env)
    assert "trying again" not in done.stderr
    return only_error_line(done)


def test_an_s3_object_has_the_content_of_the_file_on_disk(local):
    with open_source(URL) as source:
        check_source(source)
    with DataReader(URL) as there, DataReader(local) as here:
        assert there.specs.branches == here.specs.branches
        for one, other in zip(there, here, strict=True):
            np.testing.assert_array_equal(one.x, other.x)
            np.testing.assert_array_equal(one.ids["event"], other.ids["event"])


def test_only_the_requested_bytes_are_transferred(proxy, local):
    """The baskets of one branch, and a few hundred bytes of HTTP for each of them."""
    with uproot.open(local) as file:
        wanted = int(file["Events"]["met"].member("fBasketBytes").sum())
    before = proxy.received
    with open_source(URL) as source:
        opening = proxy.received
        source.read(["met"], 0, source.num_entries)
    assert wanted <= proxy.received - opening <= wanted + 10 * 32_768
    assert opening - before < 30_000
    assert proxy.received - before < local.stat().st_size / 1.5


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3://store/runs/b.root", "no such file"),
        ("s3://store/runs", "it is a folder"),
        ("s3://store", "it is a folder"),
        ("s3://nowhere/a.root", "no such bucket"),
    ],
)
def test_a_missing_object_is_an_error_of_one_line(url, reason, tmp_path):
    assert refusal(url, tmp_path) == f"error: cannot read {url}: {reason}"


def test_a_missing_profile_is_an_error_of_one_line(tmp_path):
    line = refusal(URL, tmp_path, {"AWS_PROFILE": "nobody"})
    assert line == f"error: cannot read {URL}: ProfileNotFound: The config profile (nobody) could not be found"


def test_an_unreachable_s3_server_is_retried_and_reported(tmp_path):
    address = f"http://localhost:{free_port()}"
    done = run_forked("reader.py", f"--fin={URL}", "--retries=1", cwd=tmp_path, env={"AWS_ENDPOINT_URL": address})
    assert f'Could not connect to the endpoint URL: "{address}/store/runs/a.root"' in only_error_line(done)
    assert done.stderr.count("trying again in 1 s") == 1


def test_a_stall_longer_than_the_timeout_is_a_failure(server):
    with DataReader(URL, timeout=5, retries=0) as reader:  # time enough for moto where two tests run
        chunks = iter(reader)
        next(chunks)
        server.stall()
        try:
            with pytest.raises(Unreachable, match="no response within the timeout"):
                list(chunks)
        finally:
            server.go_on()


def test_public_objects_can_be_read_without_credentials(monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    done = run_forked("reader.py", "--fin=s3://store/public.root", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Read 30000 events" in done.stdout
    assert refusal(URL, tmp_path) == (
        f"error: cannot read {URL}: permission denied without credentials: "
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    )


@pytest.fixture(scope="module")
def guarded(local):
    """A server that looks at credentials, and the environment with some that are right."""
    server = S3Server()
    server.put(local, "runs/a.root")
    yield server.guard()
    server.close()


def test_a_server_that_requires_credentials_accepts_valid_ones(guarded, tmp_path):
    done = run_forked("reader.py", f"--fin={URL}", cwd=tmp_path, env=guarded)
    assert done.returncode == 0, done.stderr
    assert "Read 30000 events" in done.stdout


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_an_error_of_one_line_that_does_not_show_them(variable, guarded, tmp_path):
    line = refusal(URL, tmp_path, {**guarded, variable: "wrong"})
    assert line == (
        f"error: cannot read {URL}: permission denied for the credentials of "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or of AWS_PROFILE"
    )


def test_the_error_for_a_rejected_token_mentions_expiry(guarded, tmp_path):
    """A HEAD has no body, so that S3 says no more than that the request is a bad one."""
    assert "have the credentials expired?" in refusal(URL, tmp_path, {**guarded, "AWS_SESSION_TOKEN": "old"})


@pytest.mark.parametrize("first", ["wrong", None])
def test_credentials_are_read_again_after_a_refusal(first, guarded, monkeypatch):
    for variable, value in guarded.items():
        monkeypatch.setenv(variable, value)
    retry_policy = RetryPolicy(timeout=21 if first else 22, retries=0)  # as no other test has: a connection of its own
    with monkeypatch.context() as before:
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            before.setenv(variable, first) if first else before.delenv(variable)
        with pytest.raises(FileUnreadable, match="permission denied"):
            open_source(URL, retry_policy=retry_policy)
    with open_source(URL, retry_policy=retry_policy) as source:
        assert source.num_entries == 30_000
