"""Files on real XRootD servers that are absent, stall, die, or hold something else than they should.

In each case every event comes exactly once, or one clear error.
"""

import importlib.util
import subprocess
import sys
from threading import Thread

import numpy as np
import pytest
import uproot
from counting_proxy import CountingProxy
from scripts import ROOT, only_error_line, run_script
from tinyroot import copy_with_new_uuid, write_events
from xrootd_server import XRootDServer, free_port

from mlaas4hep.errors import ConfigError, FileUnreadable, Unreachable
from mlaas4hep.io import open_source
from mlaas4hep.io.storage.location import redacted
from mlaas4hep.io.storage.replicas import RetryPolicy, open_ranges
from mlaas4hep.reader import DataReader
from mlaas4hep.stream import DataGenerator

LFN = "/store/a.root"
EVENTS = 60_000


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A file of six clusters on disk, the truth of these tests."""
    path = tmp_path_factory.mktemp("local") / "a.root"
    write_events(path, EVENTS, clusters=6)
    return path


@pytest.fixture
def servers(local):
    """Two servers that both have the file, and run."""
    both = [XRootDServer(), XRootDServer()]
    for server in both:
        server.put(local, "a.root")
        server.start()
    yield both
    for server in both:
        server.remove()


@pytest.fixture
def addresses(servers):
    return [server.address for server in servers]


def check_events(chunks, local):
    """What came is what the file on disk has, in its order: every event once."""
    chunks = list(chunks)
    truth = list(DataReader(local))
    assert np.concatenate([chunk.ids["event"] for chunk in chunks]).tolist() == list(range(EVENTS))
    np.testing.assert_array_equal(np.concatenate([c.x for c in chunks]), np.concatenate([c.x for c in truth]))


def test_a_file_on_a_server_has_the_content_of_the_file_on_disk(servers, local):
    with DataReader(f"{servers[0].address}/{LFN}") as reader, DataReader(local) as truth:
        assert reader.specs.branches == truth.specs.branches
        check_events(reader, local)


def test_an_unreachable_server_is_an_error_of_one_line(tmp_path):
    address = f"root://localhost:{free_port()}"
    done = run_script("reader.py", f"--fin={address}//a.root", "--retries=1", cwd=tmp_path)
    line = only_error_line(done)
    assert f"cannot read {address}//a.root: Connection error" in line
    assert "increase --timeout or --retries" in line
    assert done.stderr.count("trying again in 1 s") == 1


def test_a_server_that_starts_late_is_retried(local):
    server = XRootDServer()
    url = server.put(local, "a.root")
    command = [sys.executable, ROOT / "reader.py", f"--fin={url}", "--retries=8"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert "trying again" in process.stderr.readline()
        server.start()
        output, errors = process.communicate()
    server.remove()
    assert process.returncode == 0, errors
    assert f"Read {EVENTS} events" in output


READ_SLOWLY = """
import sys
from mlaas4hep import DataReader
with DataReader(sys.argv[1], retries=8) as reader:
    for chunk in reader:
        print(*chunk.ids["event"].tolist(), flush=True)
        input()
"""


def test_no_event_is_lost_or_repeated_if_a_server_is_killed_and_restarted(servers):
    command = [sys.executable, "-c", READ_SLOWLY, f"{servers[0].address}/{LFN}"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, cwd=ROOT) as process:
        events = process.stdout.readline().split()
        servers[0].kill()
        process.stdin.write("\n" * 100)
        process.stdin.flush()
        assert "trying again" in process.stderr.readline()
        servers[0].start()
        for line in process.stdout:
            events += line.split()
        notices = process.stderr.read()
    assert process.returncode == 0, notices
    assert [int(event) for event in events] == list(range(EVENTS))


def test_reading_continues_at_the_next_server_if_one_dies(servers, addresses, local, capsys):
    with DataReader(LFN, redirector=addresses) as reader:
        chunks = iter(reader)
        first = next(chunks)
        assert reader.location == f"{addresses[0]}/{LFN}"
        servers[0].kill()
        check_events([first, *chunks], local)
        assert reader.location == f"{addresses[1]}/{LFN}"
    assert f"continuing with {addresses[1]}/{LFN}" in capsys.readouterr().err


def test_reading_fails_if_all_servers_die(servers, addresses):
    with DataReader(LFN, redirector=addresses, retries=1) as reader:
        chunks = iter(reader)
        next(chunks)
        for server in servers:
            server.kill()
        with pytest.raises(Unreachable, match=f"{addresses[0]}.*Connection error.*{addresses[1]}.*Connection error"):
            list(chunks)


def test_a_training_survives_the_death_of_a_server(servers, addresses, local, tmp_path):
    copy_with_new_uuid(local, tmp_path / "b.root")
    for server in servers:
        server.put(tmp_path / "b.root", "b.root")
    params = {"redirector": addresses, "batch_size": 10_000, "workers": 2}
    generator = DataGenerator([LFN, "/store/b.root"], ["a", "b"], params)
    batches = generator.batches()
    seen = [next(batches).ids["event"]]
    servers[0].kill()
    seen += [batch.ids["event"] for batch in batches]
    seen += [batch.ids["event"] for batch in generator.batches(epoch=1)]
    generator.close()
    # two files with the same events, two epochs
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.repeat(np.arange(EVENTS), 4))


def test_a_replica_that_lacks_the_file_is_skipped(servers, addresses, local):
    (servers[0].folder / "root" / "store" / "a.root").unlink()
    with DataReader(LFN, redirector=addresses) as reader:
        assert reader.location == f"{addresses[1]}/{LFN}"
        check_events(reader, local)


def test_a_file_that_no_server_has_is_requested_once(addresses, tmp_path):
    done = run_script("reader.py", "--fin=/store/b.root", "--redirector=" + ",".join(addresses), cwd=tmp_path)
    line = only_error_line(done)
    assert f"{addresses[0]}//store/b.root: no such file; {addresses[1]}//store/b.root: no such file" in line
    assert "trying again" not in done.stderr


def test_a_truncated_replica_is_skipped(servers, addresses, local):
    servers[0].put(local.read_bytes()[:500_000], "a.root")
    with DataReader(LFN, redirector=addresses) as reader:
        assert reader.location == f"{addresses[1]}/{LFN}"
        check_events(reader, local)


def test_a_file_that_is_truncated_on_all_servers_is_an_error(servers, addresses, local):
    for server in servers:
        server.put(local.read_bytes()[:500_000], "a.root")
    with pytest.raises(FileUnreadable, match="the file is truncated after 500000 bytes"):
        DataReader(LFN, redirector=addresses)


def test_a_replica_with_another_content_is_skipped_during_reading(servers, addresses, tmp_path, capsys):
    write_events(tmp_path / "other.root", 1000)
    servers[1].put(tmp_path / "other.root", "a.root")
    with DataReader(LFN, redirector=addresses, retries=0) as reader:
        chunks = iter(reader)
        next(chunks)
        servers[0].kill()
        with pytest.raises(Unreachable, match=f"{addresses[1]}.* bytes instead of "):
            list(chunks)


def test_reading_continues_at_the_next_replica_if_one_is_damaged(servers, addresses, local):
    content = bytearray(local.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    servers[0].put(bytes(content), "a.root")
    with DataReader(LFN, redirector=addresses) as reader:
        assert reader.location == f"{addresses[0]}/{LFN}"
        check_events(reader, local)
        assert reader.location == f"{addresses[1]}/{LFN}"


def test_a_stall_longer_than_the_timeout_is_a_failure(servers, addresses, local):
    with DataReader(LFN, redirector=addresses, timeout=3) as reader:
        chunks = iter(reader)
        first = next(chunks)
        servers[0].stall()
        check_events([first, *chunks], local)
        assert reader.location == f"{addresses[1]}/{LFN}"


def test_a_stall_of_the_only_server_is_an_error(servers):
    with DataReader(f"{servers[0].address}/{LFN}", timeout=3, retries=0) as reader:
        chunks = iter(reader)
        next(chunks)
        servers[0].stall()
        with pytest.raises(Unreachable, match="no response within the timeout"):
            list(chunks)


def test_two_threads_both_continue_at_the_next_server_if_one_dies(servers, addresses, local):
    ranges = open_ranges([f"{address}/{LFN}" for address in addresses], RetryPolicy())
    content = local.read_bytes()
    servers[0].kill()
    found = {}

    def read(start):
        found[start] = bytes(ranges.read([(start, 1000)])[start, 1000])

    threads = [Thread(target=read, args=(start,)) for start in range(0, 80_000, 10_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ranges.close()
    assert found == {start: content[start : start + 1000] for start in range(0, 80_000, 10_000)}


@pytest.mark.parametrize("package", ["tensorflow", "torch"])
def test_xrootd_works_in_a_process_that_has_loaded_a_framework(servers, package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    read = f"print(sum(map(len, DataReader({servers[0].url('a.root')!r}))))"
    code = f"import {package}; from mlaas4hep import DataReader; {read}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == str(EVENTS)


def test_only_the_baskets_of_the_selected_branches_are_transferred(servers, local):
    """A hundredth is left for XRootD's own words; what lies between two baskets crosses where it is less than 32 kB."""
    proxy = CountingProxy(servers[0].port)
    with open_source(f"root://localhost:{proxy.port}/{LFN}") as source:
        opening = proxy.received
        with uproot.open(local) as file:
            wanted = int(sum(file["Events"]["met"].member("fBasketBytes")))
        source.read(["met"], 0, source.num_entries)
        reading = proxy.received - opening
    proxy.close()
    assert wanted <= reading < 1.01 * wanted + 2000
    assert opening < 50_000 < local.stat().st_size / 10


def test_credentials_in_urls_are_not_shown():
    assert redacted("https://me:secret@host:1/a/b.root?token=secret") == "https://host:1/a/b.root"
    assert redacted("root://user@host//store/a.root?authz=Bearer%20secret") == "root://host//store/a.root"
    assert redacted("/data/what?.root") == "/data/what?.root"


@pytest.mark.parametrize(("timeout", "retries"), [(0, 1), (-1, 1), (float("nan"), 1), (1, -1)])
def test_an_invalid_retry_policy_is_refused(timeout, retries):
    with pytest.raises(ConfigError, match=r"invalid timeout|invalid number of retries"):
        RetryPolicy(timeout, retries)
