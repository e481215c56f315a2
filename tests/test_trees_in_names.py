"""Trees in the names of files (`data.root:Events`), in every script and every form of a name."""

import json

import numpy as np
import pytest
import uproot
from http_server import WebServer
from hypothesis import given
from hypothesis import strategies as st
from scripts import only_error_line, run_forked, run_script
from serving_fixtures import (  # noqa: F401
    KEYS,
    bundle_fixture,
    run_client,
    server_fixture,
    shared_server_fixture,
    url_fixture,
)
from tinyroot import write_tree
from uproot._util import file_object_path_split
from xrootd_server import XRootDServer

from mlaas4hep.client.event_file import EventFile, is_event_file
from mlaas4hep.errors import BranchNotFound, FileUnreadable, TreeNotFound
from mlaas4hep.io import open_source
from mlaas4hep.io.storage.location import output_stems, read_file_list, redacted, split_tree
from mlaas4hep.reader import DataReader
from mlaas4hep.stream import DataGenerator

EVENTS = {"signal": 300, "background": 500, "deep/tree": 70, "Events": 40}
"""Number of events of each tree of `write_trees`."""

MODEL = "from sklearn.linear_model import LogisticRegression\ndef model(idim): return LogisticRegression()\n"


def write_trees(path, offset=0):
    """Write the trees of EVENTS, of which Events has two cycles; `x` is 0, 1, ..., plus 1000 for each further tree."""
    with uproot.recreate(path) as file:
        for number, (name, events) in enumerate(EVENTS.items()):
            for cycle in range(1 + (name == "Events")):
                x = np.arange(events, dtype=np.float64) + 1000 * number + offset - cycle
                columns = {"event": np.arange(events, dtype=np.int64), "x": x}
                folder = file.mkdir("deep") if "/" in name else file
                tree = folder.mktree(name.rpartition("/")[2], {key: values.dtype for key, values in columns.items()})
                tree.extend(columns)
    return str(path)


@pytest.fixture
def data(tmp_path):
    return write_trees(tmp_path / "data.root")


@pytest.fixture(scope="module")
def xrootd():
    server = XRootDServer()
    server.start()
    yield server
    server.remove()


@pytest.mark.parametrize(
    ("name", "file", "tree"),
    [
        ("data.root", "data.root", ""),
        ("data.root:Events", "data.root", "Events"),
        ("data.root:Events;1", "data.root", "Events;1"),
        ("data.root:/folder/tree/", "data.root", "folder/tree"),
        ("DATA.ROOT:Events", "DATA.ROOT", "Events"),
        ("data.root.12:Events", "data.root.12", "Events"),
        ("run:1/data.root", "run:1/data.root", ""),
        ("run:1/data.root:Events", "run:1/data.root", "Events"),
        ("data.root:x:y/tree", "data.root", "x:y/tree"),
        ("data.root:", "data.root", ""),
        ("data.parquet:Events", "data.parquet:Events", ""),
        ("data/*.root:tree", "data/*.root", "tree"),
        ("/store/mc/x.root:tree", "/store/mc/x.root", "tree"),
        ("root://host//a/p.root", "root://host//a/p.root", ""),
        ("root://host:1094//a/p.root", "root://host:1094//a/p.root", ""),
        ("root://host:1094//a/p.root:dir/tree", "root://host:1094//a/p.root", "dir/tree"),
        ("https://host:443/p.root:tree;2", "https://host:443/p.root", "tree;2"),
        ("https://host/p.root?token=x:y", "https://host/p.root?token=x:y", ""),
        ("https://host/p?token=x:y", "https://host/p?token=x:y", ""),
        ("s3://bucket/a.root:tree", "s3://bucket/a.root", "tree"),
        ("zip://inner/a.root::file:///b/c.zip", "zip://inner/a.root::file:///b/c.zip", ""),
        ("zip://inner/a.root:tree::file:///b/c.zip", "zip://inner/a.root::file:///b/c.zip", "tree"),
        ("root://[::1]:1094//a.root:tree", "root://[::1]:1094//a.root", "tree"),
    ],
)
def test_names_are_split_as_in_uproot(name, file, tree):
    assert split_tree(name) == (file, tree)
    assert file_object_path_split(name) == (file, tree or ("" if name.endswith(":") else None))


@pytest.mark.parametrize(
    ("name", "file", "tree"),
    [
        ("root://my.root:1094//a/p.root", "root://my.root:1094//a/p.root", ""),
        ("root://my.root:1094//a/p", "root://my.root:1094//a/p", ""),
        ("root://my.root:1094//a/p.root:tree", "root://my.root:1094//a/p.root", "tree"),
        ("https://h/p.root:tree?token=a.root:b", "https://h/p.root?token=a.root:b", "tree"),
        ("https://me:secret@h:1/p.root:tree?token=x", "https://me:secret@h:1/p.root?token=x", "tree"),
    ],
)
def test_a_port_is_not_a_tree_and_a_query_string_belongs_to_the_file(name, file, tree):
    assert split_tree(name) == (file, tree)
    assert redacted(name).endswith(f":{tree}" if tree else "/p.root" if ".root" in name[15:] else "/p")
    assert "secret" not in redacted(name)


@given(
    folder=st.sampled_from(["", "a:b/", "/store/", "root://h:1//", "https://h/x.root/"]),
    tree=st.text(st.characters(exclude_characters=":/?\0", exclude_categories=["Cs"]), min_size=1),
)
def test_a_tree_of_any_letters_is_found_again(folder, tree):
    assert split_tree(f"{folder}p.root:{tree}") == (f"{folder}p.root", tree.strip())


def test_a_name_that_is_a_file_on_disk_is_not_split(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("data.root", "data.root:signal", "plain", "run:2"):
        write_trees(tmp_path / name, offset=10_000 * name.startswith("data.root:"))
    assert split_tree("data.root:signal") == ("data.root:signal", "")
    assert split_tree("data.root:background") == ("data.root", "background")
    assert split_tree("data.root:signal:background") == ("data.root:signal", "background")
    assert split_tree("plain:deep/tree") == ("plain", "deep/tree")
    assert split_tree("run:2:Events;1") == ("run:2", "Events;1")
    assert split_tree("absent:Events") == ("absent:Events", "")
    with DataReader("data.root:signal", "background", normalise="none") as reader:
        assert reader.read_block(0, 1).x.item() == 11_000
    with DataReader("data.root:background", normalise="none") as reader:
        assert reader.read_block(0, 1).x.item() == 1000


def test_lists_globs_and_text_files_keep_the_trees(tmp_path, monkeypatch):
    for name in ("a.root", "b.root", "plain"):
        (tmp_path / name).write_bytes(b"root\0")
    lines = "a.root:signal\n*.root:dir/tree\nplain:Events;1 # data\nroot://h:1//c.root:tree\n"
    (tmp_path / "files.txt").write_text(lines)
    a, b = str(tmp_path / "a.root"), str(tmp_path / "b.root")
    assert read_file_list(str(tmp_path / "files.txt")) == [
        f"{a}:signal", f"{a}:dir/tree", f"{b}:dir/tree", f"{tmp_path / 'plain'}:Events;1", "root://h:1//c.root:tree",
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert read_file_list("*.root:tree, plain:x") == ["a.root:tree", "b.root:tree", "plain:x"]
    assert read_file_list("a.root:list.txt") == ["a.root:list.txt"]
    assert read_file_list("a.root:[0]*") == ["a.root:[0]*"]
    with pytest.raises(FileUnreadable, match=r"no file matches c\*\.root$"):
        read_file_list("c*.root:tree")


def test_outputs_of_two_trees_of_a_file_have_two_names():
    names = ["d/f.root:signal", "f.root:a/b;1", "g.root:signal", "https://h/g.x/h.root:t?token=s", "what?.root"]
    assert output_stems(names) == ["f_signal", "f_a_b_1", "g", "h", "what?"]
    assert output_stems(["f.root", "f.root:tree"]) == ["f", "f_tree"]


@pytest.mark.parametrize(("tree", "first"), [*zip(EVENTS, (0, 1000, 2000, 2999), strict=True), ("Events;1", 3000)])
def test_the_tree_in_the_name_is_read_whatever_the_branch_is(data, tree, first):
    with DataReader(f"{data}:{tree}", "signal", normalise="none") as reader:
        assert (reader.num_entries, reader.options.branch) == (EVENTS[tree.partition(";")[0]], tree)
        assert reader.read_block(0, 1).x.item() == first
        assert (reader.location, reader.name) == (data, f"{data}:{tree}")
        assert [file.name for file in reader.specs.files] == [f"{data}:{tree}"]
        with DataReader(data, tree) as same:
            assert same.identity == reader.identity


def test_messages_name_the_tree_that_is_read(data):
    with pytest.raises(BranchNotFound, match=rf"'y' is not in tree 'background' of {data}"):
        DataReader(f"{data}:background", "signal", ["y"])
    says = rf"tree 'signl' not found in {data}, which has 'signal', .*; correct the name '{data}:signl'$"
    with pytest.raises(TreeNotFound, match=says):
        DataReader(f"{data}:signl")
    with pytest.raises(FileUnreadable, match=r"file not found: .*dta\.root; closest: '.*data\.root'$"):
        DataReader(data.replace("data", "dta") + ":signal")


def test_a_tree_of_a_format_without_trees_is_an_error(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3,4\n")
    says = r"tree 'Events' not found in .*a\.csv, which is a CSV file and has no trees; correct the name '.*a\.csv:Ev"
    with pytest.raises(TreeNotFound, match=says):
        open_source(f"{tmp_path / 'a.csv'}:Events")


def test_trees_on_an_xrootd_server(data, xrootd, tmp_path):
    url = xrootd.put(data, "data.root")
    with DataReader(f"{url}:deep/tree", normalise="none") as reader:
        assert (reader.num_entries, reader.location) == (70, url)
        assert reader.read_block(0, 70).x[:, 0].tolist() == list(range(2000, 2070))
    options = [f"--redirector={xrootd.address}", "--json", "--fin=/store/data.root:Events;1,/store/data.root:signal"]
    found = json.loads(run_script("reader.py", *options, cwd=tmp_path).stdout)
    assert found["events"] == 340
    options = [f"--fin={url}:signl", "--retries=0"]
    line = only_error_line(run_script("reader.py", *options, cwd=tmp_path))
    assert line.startswith(f"error: tree 'signl' not found in {url}, which has 'signal'")


def test_trees_on_a_web_server_with_a_token(data, tmp_path):
    with open(data, "rb") as file:
        server = WebServer({"data.root": file.read()})
    try:
        urls = [f"{server.address}/data.root:{tree}?token=secret" for tree in ("signal", "background")]
        done = run_forked("reader.py", f"--fin={','.join(urls)}", "--info", "--json", cwd=tmp_path)
        content = json.loads(done.stdout)
        assert content["files"] == [f"{server.address}/data.root:{tree}" for tree in ("signal", "background")]
        assert (content["events"], content["tree"]) == (800, "signal,background")
        assert "secret" not in done.stdout + done.stderr
        with open_source(urls[0]) as source:
            assert source.num_entries == 300
    finally:
        server.close()


@pytest.mark.parametrize(
    ("fin", "events"),
    [
        ("data.root:signal", 300),
        ("data.root:Events;1", 40),
        ("data.root:deep/tree,data.root:Events", 110),
        ("d*.root:background", 500),
        ("files.txt", 840),
    ],
)
def test_the_reader_takes_trees_in_all_forms(data, tmp_path, fin, events):
    (tmp_path / "files.txt").write_text("data.root:signal\ndata.root:background\ndata.root\n")
    done = run_forked("reader.py", f"--fin={fin}", "--fout=specs.json", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["events"] == events, done.stderr
    specs = json.loads((tmp_path / "specs.json").read_text())
    assert sum(file["entries"] for file in specs["files"]) == events


def test_histograms_of_two_trees_are_two_pages(data, tmp_path):
    pytest.importorskip("matplotlib")
    done = run_forked("reader.py", "--fin=data.root:signal,data.root:deep/tree", "--hists=h", "--json", cwd=tmp_path)
    pages = json.loads(done.stdout)["histograms"]
    assert pages[::2] == ["h/0_data_signal.html", "h/1_data_deep_tree.html"]


def test_a_sample_of_two_trees_of_a_file_has_a_label_for_each(data):
    names = [f"{data}:signal", f"{data}:background"]
    with DataGenerator(names, ["s", "b"], {"batch_size": 64, "normalise": "none"}) as generator:
        origins = [origin[0] for origin in generator.sample.survey.origins]
        assert len(set(origins)) == 2
        seen = {0: [], 1: []}
        for batch in generator.batches():
            for label, values in seen.items():
                values.extend(batch.x[batch.y == label, 0].tolist())
    assert generator.classes == ("b", "s")
    assert sorted(seen[1]) == list(range(300))
    assert sorted(seen[0]) == list(range(1000, 1500))


@pytest.mark.framework
def test_training_and_scoring_two_trees_of_a_file(data, tmp_path):
    (tmp_path / "tiny.py").write_text(MODEL)
    (tmp_path / "params.json").write_text('{"tfaas": false, "branch": "Events"}')
    done = run_forked(
        "workflow.py", "--files=data.root:signal,data.root:background", "--labels=s,b", "--model=tiny.py", "--fout=m",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "more than once" not in done.stderr
    described = json.loads((tmp_path / "m" / "training.json").read_text())["files"]
    assert [(file["name"], file["entries"], file["label"]) for file in described] == [
        ("data.root:signal", 300, "s"), ("data.root:background", 500, "b"),
    ]  # fmt: skip
    done = run_forked("workflow.py", "--predict=m", "--files=data.root:signal,data.root:background", cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "Scores: scores/data_signal.scores.root (300 events)",
        "Scores: scores/data_background.scores.root (500 events)",
    ]
    for name, events, is_signal in (("signal", 300, True), ("background", 500, False)):
        with uproot.open(tmp_path / "scores" / f"data_{name}.scores.root") as file:
            scores = file["scores"]["score_s"].array(library="np")
        assert len(scores) == events
        assert ((scores > 0.5) == is_signal).all()
    done = run_forked("workflow.py", "--predict=m", "--files=d*.root:deep/tree", "--fout=one", cwd=tmp_path)
    assert done.stdout == "Scores: one/data.scores.root (70 events)\n"


@pytest.mark.framework
def test_the_bundle_has_no_tokens_of_urls(data, tmp_path):
    (tmp_path / "tiny.py").write_text(MODEL)
    (tmp_path / "params.json").write_text('{"tfaas": false, "weight": "event + 1"}')
    with open(data, "rb") as file:
        server = WebServer({"data.root": file.read()})
    try:
        urls = ",".join(f"{server.address}/data.root:{tree}?token=secret" for tree in ("deep/tree", "Events"))
        options = [f"--files={urls}", "--labels=a,b", "--model=tiny.py", "--fout=m"]
        done = run_forked("workflow.py", *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        described = json.loads((tmp_path / "m" / "training.json").read_text())["files"]
        assert [file["name"] for file in described] == [
            f"{server.address}/data.root:{tree}" for tree in ("deep/tree", "Events")
        ]
        assert not [path for path in (tmp_path / "m").rglob("*") if path.is_file() and b"secret" in path.read_bytes()]
        (tmp_path / "params.json").write_text('{"tfaas": false, "weight": "1 / (event - 3)"}')
        line = only_error_line(run_forked("workflow.py", *options, cwd=tmp_path))
        assert "; weights must be finite float32 numbers; change 'weight' in the params, or remove such" in line
        assert f"entry 3 of {server.address}/data.root:deep/tree; " in line
    finally:
        server.close()


@pytest.mark.parametrize("files", ["data.root:signal,link.root:signal", "data.root:Events,data.root"])
def test_a_tree_that_is_named_twice_is_an_error(data, tmp_path, files):
    (tmp_path / "link.root").symlink_to(data)
    line = only_error_line(run_forked("reader.py", f"--fin={files}", cwd=tmp_path))
    one, other = files.split(",")
    assert line.startswith(f"error: {one} and {other} are the same file, so its events would count twice")


def test_the_sum_of_weights_of_another_tree_is_read_from_the_same_file(data):
    samples = {
        "s": {"files": [f"{data}:signal"], "xsec": 2.0, "sumw": "background:event + 1"},
        "b": {"files": {f"{data}": "deep/tree"}},
    }
    with DataGenerator(samples, None, {"lumi": 3.0}) as generator:
        assert generator.sample.scales[0] == pytest.approx(3.0 * 1000 * 2.0 / (500 * 501 / 2))
        assert generator.sample.entries == [300, 70]


def test_friends_of_the_same_file_are_other_trees(data):
    with DataReader(f"{data}:Events;1", friends={"same": ":Events", "own": "{dir}/{stem}.root:Events;1"}) as reader:
        columns, _ = reader.read_columns(0, 3, ["x", "same.x", "own.x"])
    assert {name: values.tolist() for name, values in columns.items()} == {
        "x": [3000, 3001, 3002], "same.x": [2999, 3000, 3001], "own.x": [3000, 3001, 3002],
    }  # fmt: skip


def test_the_client_sends_the_events_of_the_tree(url, bundle, tmp_path):
    columns = {key: np.arange(5, dtype=np.float32) for key in KEYS}
    write_tree(tmp_path / "e.root", columns, name="mine")
    (tmp_path / "e.root").rename(tmp_path / "e.data")
    run_client(f"--url={url}", "--upload=bundle/upload.json", cwd=tmp_path)
    options = [f"--url={url}", "--model=htautau", f"--branches={','.join(KEYS)}"]
    separate = run_client(*options, "--predict=e.data", "--branch=mine", cwd=tmp_path)
    in_name = run_client(*options, "--predict=e.data:mine", cwd=tmp_path)
    assert in_name.returncode == 0, in_name.stderr
    assert len(in_name.stdout.splitlines()) == 5
    assert in_name.stdout == separate.stdout


@pytest.mark.parametrize("name", ["e.root:mine", "root://h:1//e.root:mine", "no.root:x.json"])
def test_a_name_with_a_tree_is_a_data_file(name):
    assert is_event_file(name)


def test_event_files_open_the_tree_in_the_name(data):
    with EventFile(f"{data}:deep/tree", "signal") as file:
        assert file.num_events == 70
        assert [row for events in file.read(["x"]) for row in events.rows][:2] == [[2000.0], [2001.0]]
