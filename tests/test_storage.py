"""Files on web servers: the same as on disk, and no more of them crosses the network than is asked for."""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from check_source import check_source
from http_server import WebServer
from realdata import real_file
from scripts import only_error_line, run_forked
from tinyroot import write_events
from xrootd_server import free_port

from mlaas4hep.errors import FileUnreadable, PackageMissing
from mlaas4hep.io import Jagged, Kind, open_source
from mlaas4hep.io.storage.replicas import RetryPolicy
from mlaas4hep.reader import DataReader

RNTUPLE = "Run2012BC_DoubleMuParked_Muons_1000evts_rntuple_v1-0-0-0.root"
QUICK = RetryPolicy(timeout=20, retries=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A TTree, an RNTuple and a Parquet file."""
    folder = tmp_path_factory.mktemp("places")
    columns = write_events(folder / "tree.root", 30_000, clusters=10)
    table = pa.table({name: pa.array(columns[name].tolist()) for name in ("met", "pt")})
    pq.write_table(table, folder / "table.parquet", row_group_size=3000)
    with open(real_file(RNTUPLE), "rb") as file:
        (folder / "ntuple.root").write_bytes(file.read())
    return folder


@pytest.fixture
def server(folder):
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    server = WebServer({**files, "no-ending": files["tree.root"]})
    yield server
    server.close()


def same(one, other):
    if isinstance(one, Jagged):
        return np.array_equal(one.offsets, other.offsets) and np.array_equal(one.content, other.content, equal_nan=True)
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


@pytest.mark.parametrize("name", ["tree.root", "ntuple.root", "table.parquet"])
def test_a_file_on_a_web_server_has_the_content_of_the_file_on_disk(name, server, folder):
    with open_source(f"{server.address}/{name}", retry_policy=QUICK) as there, open_source(str(folder / name)) as here:
        check_source(there)
        assert list(there.columns.items()) == list(here.columns.items())
        names = [column.name for column in here.columns.values() if column.kind is not Kind.OTHER]
        expected = here.read(names, 0, here.num_entries)
        for key, values in there.read(names, 0, there.num_entries).items():
            assert same(values, expected[key])


def test_the_content_of_a_file_determines_its_format_not_its_name(server):
    with open_source(f"{server.address}/no-ending", retry_policy=QUICK) as source:
        assert source.num_entries == 30_000


def test_a_missing_file_is_an_error_of_one_line(server):
    with pytest.raises(FileUnreadable, match=r"cannot read http://.*/none.root: no such file$"):
        open_source(f"{server.address}/none.root", retry_policy=RetryPolicy(retries=3))


def test_an_unreachable_web_server_is_an_error_of_one_line(tmp_path):
    url = f"http://127.0.0.1:{free_port()}/a.root"
    line = only_error_line(run_forked("reader.py", f"--fin={url}", "--retries=0", cwd=tmp_path))
    assert f"cannot read {url}: " in line
    assert "check that the server is running" in line


def test_a_server_without_partial_reads_is_refused_with_advice(folder):
    server = WebServer({"tree.root": (folder / "tree.root").read_bytes()}, knows_ranges=False)
    with pytest.raises(FileUnreadable, match="the server does not support partial reads"):
        open_source(f"{server.address}/tree.root", retry_policy=QUICK)
    server.close()


def test_tokens_in_urls_are_not_shown(server, tmp_path):
    url = f"{server.address}/none.root?token=secret".replace("http://", "http://me:secret@")
    done = run_forked("reader.py", f"--fin={url}", "--verbose=1", cwd=tmp_path)
    assert done.returncode == 1
    assert "secret" not in done.stdout
    assert "secret" not in done.stderr.splitlines()[-1]


def test_only_the_requested_bytes_of_a_tree_are_transferred(server, folder):
    """The baskets of one branch, and the record of the tree (5 kB); between baskets up to 32 kB would come along."""
    with uproot.open(folder / "tree.root") as file:
        wanted = int(file["Events"]["met"].member("fBasketBytes").sum())
    with open_source(f"{server.address}/tree.root", retry_policy=QUICK) as source:
        opening, requests = server.sent, server.requests
        source.read(["met"], 0, source.num_entries)
    assert wanted <= server.sent - opening <= wanted + 10 * 32_768
    assert opening < 30_000
    assert server.requests - requests <= 10  # one a cluster
    assert server.sent < len((folder / "tree.root").read_bytes()) / 1.5


def test_adjacent_baskets_are_read_in_one_request(server, folder):
    with open_source(f"{server.address}/tree.root", retry_policy=QUICK) as source:
        requests = server.requests
        source.read(list(source.columns), 0, source.num_entries)
    assert server.requests - requests == 1
    assert server.sent < 1.1 * len((folder / "tree.root").read_bytes()) + 20_000


def test_the_error_for_a_missing_package_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(PackageMissing, match="s3:// needs the package 's3fs', which is not installed; install it: pip"):
        open_source("s3://bucket/a.root")


def test_exactly_one_block_is_requested_ahead(tmp_path):
    path = tmp_path / "a.root"
    columns = write_events(path, 60_000, clusters=6)
    with uproot.open(path) as file:
        places = file["Events"]["met"].member("fBasketSeek")[:6].tolist()
    with DataReader(path, selected_branches=["met"], normalise="none") as reader:
        specs = reader.specs
        assert len(reader.blocks()) == 6
    server = WebServer({"a.root": path.read_bytes()})
    with DataReader(f"{server.address}/a.root", specs=specs, normalise="none", retries=0) as reader:
        chunks = iter(reader)
        assert not any(map(server.was_asked_for, places))
        first = next(chunks)
        np.testing.assert_array_equal(first.x[:, 0], columns["met"][:10_000])
        assert server.wait_for(places[1])  # nobody has asked for the second chunk
        assert not any(map(server.was_asked_for, places[2:]))
        assert sum(map(len, chunks)) == 50_000
    server.close()
