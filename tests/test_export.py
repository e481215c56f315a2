"""Files of vectors, as other libraries read them."""

import json
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from scripts import ROOT, only_error_line, run_forked
from tinyroot import write_events

from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.reader import DataReader, Specs
from mlaas4hep.reader.export import write_vectors

h5py = pytest.importorskip("h5py")
EVENTS = 25_000
ENDINGS = ["parquet", "npz", "h5"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "a.root"
    write_events(path, EVENTS, clusters=3)
    return path


def load(path):
    """Read a file back with the library that people have: x, mask, names of columns, identifiers, text."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        about = json.loads(table.schema.metadata[b"mlaas4hep"])
        names = [name for name in table.column_names if name not in ("run", "luminosityBlock", "event", "entry")]
        masked = [table[name].to_numpy() for name in names]
        x = np.stack(masked, 1)
        ids = {name: table[name].to_numpy() for name in table.column_names if name not in names}
        nulls = np.stack([table[name].is_null().to_numpy() for name in names], 1)
        return x, ~nulls, names, ids, about
    if path.suffix == ".npz":
        arrays = dict(np.load(path, allow_pickle=False))
        names, about = arrays.pop("columns").tolist(), json.loads(str(arrays.pop("mlaas4hep")))
    else:
        with h5py.File(path) as opened:
            arrays = {name: opened[name][()] for name in opened}
        names, about = [name.decode() for name in arrays.pop("columns")], json.loads(arrays.pop("mlaas4hep"))
    return arrays.pop("x"), arrays.pop("mask"), names, arrays, about


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_contain_the_vectors_of_the_events(ending, file, tmp_path):
    path = tmp_path / f"v.{ending}"
    with DataReader(file, normalise="none") as reader:
        assert write_vectors(reader, path) == EVENTS
        columns = reader.columns
    x, mask, names, ids, about = load(path)
    with uproot.open(file) as opened:
        truth = opened["Events"].arrays()
    assert names == columns == ["met", "npt", "pt_0", "pt_1", "pt_2", "pt_3"]
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x[:, 0], truth["met"])
    padded = np.full((EVENTS, 4), np.nan, np.float32)
    for index, values in enumerate(truth["pt"].tolist()):
        padded[index, : len(values)] = values
    np.testing.assert_array_equal(x[:, 1], truth["npt"])
    np.testing.assert_array_equal(x[:, 2:], padded)
    np.testing.assert_array_equal(mask[:, 2:], ~np.isnan(padded))
    assert mask[:, :2].all()
    for name in ("run", "luminosityBlock", "event"):
        np.testing.assert_array_equal(ids[name], truth[name])
        assert ids[name].dtype == truth[name].to_numpy().dtype
    np.testing.assert_array_equal(ids["entry"], np.arange(EVENTS))
    specs = Specs.from_json(about["specs"])
    assert specs.branches["met"].count == EVENTS
    assert about["normalise"] == {"met": "none", "npt": "none", "pt": "none"}


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_have_the_cuts_and_normalisation_of_the_reader(ending, file, tmp_path):
    (tmp_path / "cuts.json").write_text('{"cut": "met > 30"}')
    with DataReader(file, preproc=tmp_path / "cuts.json", normalise="minmax") as reader:
        events = write_vectors(reader, tmp_path / f"v.{ending}")
        expected = np.concatenate([chunk.x for chunk in reader])
    x, _, _, ids, _ = load(tmp_path / f"v.{ending}")
    assert events == len(x) == len(ids["event"]) < EVENTS
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_events_give_a_file_without_rows(ending, file, tmp_path):
    (tmp_path / "cuts.json").write_text('{"cut": "met < 0"}')
    with DataReader(file, preproc=tmp_path / "cuts.json", normalise="none") as reader:
        assert write_vectors(reader, tmp_path / f"v.{ending}") == 0
    if ending == "parquet":
        assert pq.read_table(tmp_path / "v.parquet").num_rows == 0
    else:
        assert len(load(tmp_path / f"v.{ending}")[0]) == 0


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_file_is_left_after_an_error(ending, file, tmp_path):
    content = bytearray(file.read_bytes())
    with uproot.open(file) as opened:
        seek = opened["Events"]["met"].member("fBasketSeek")[2]
    content[seek + 200 : seek + 400] = bytes(200)
    (tmp_path / "damaged.root").write_bytes(content)
    (tmp_path / "out").mkdir()
    with DataReader(file) as reader:
        specs = reader.specs
    with DataReader(tmp_path / "damaged.root", specs=specs) as reader, pytest.raises(FileUnreadable, match="'met'"):
        write_vectors(reader, tmp_path / "out" / f"v.{ending}")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_branch_with_the_name_of_the_entry_number_is_refused(tmp_path):
    write_events(tmp_path / "a.root", 100, entry=np.arange(100))
    with DataReader(tmp_path / "a.root") as reader, pytest.raises(ConfigError, match="two columns 'entry'"):
        write_vectors(reader, tmp_path / "v.npz")
    assert not (tmp_path / "v.npz").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("v.csv", "vectors are written as .parquet, .npz, .h5, .hdf5; specs are written as .json"),
        ("there.npz", "exists and does not contain vectors"),
        ("there.json", "exists and does not contain specs"),
        ("folder.h5", "it is not a regular file"),
        ("/proc/v.npz", "cannot write /proc/v.npz"),
    ],
)
def test_an_invalid_path_is_refused_before_events_are_read(name, says, file, tmp_path):
    (tmp_path / "there.npz").write_text("mine")
    (tmp_path / "there.json").write_text("{}")
    (tmp_path / "folder.h5").mkdir()
    done = run_forked("reader.py", f"--fin={file}", f"--fout={name}", cwd=tmp_path)
    assert says in only_error_line(done)
    assert done.stdout == ""
    assert (tmp_path / "there.npz").read_text() == "mine"


def test_vectors_are_written_in_addition_to_other_output(file, tmp_path):
    done = run_forked("reader.py", f"--fin={file}", "--fout=v.npz", "--info", cwd=tmp_path)
    assert "# flat branches" in done.stdout
    assert len(np.load(tmp_path / "v.npz")["x"]) == EVENTS
    done = run_forked("reader.py", f"--fin={file}", "--fout=w.npz", "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == {"file": str(file), "events": EVENTS, "vectors": "w.npz"}


def test_the_script_writes_vectors_and_overwrites_its_own_files(tmp_path):
    command = (f"--fin={ROOT / 'examples/htautau/ggH.root'}", "--branches=Jet_pt,MET_pt", "--fout=v.npz")
    for events in (500, 1000):
        done = run_forked("reader.py", *command, f"--nevts={events}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"note: vectors of {events} events written to v.npz" in done.stderr
        assert len(np.load(tmp_path / "v.npz")["x"]) == events


@pytest.mark.parametrize("ending", ["parquet", "npz", "h5"])
def test_only_files_of_vectors_are_overwritten_and_never_the_input(ending, file, tmp_path):
    path = tmp_path / f"mine.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table({"precious": [1.0, 2.0]}), path)
    elif ending == "npz":
        np.savez(path, precious=np.arange(2.0))
    else:
        with h5py.File(path, "w") as mine:
            mine["precious"] = [1.0, 2.0]
    content = path.read_bytes()
    line = only_error_line(run_forked("reader.py", f"--fin={file}", f"--fout={path}", cwd=tmp_path))
    assert line == f"error: {path} exists and does not contain vectors; name another file with --fout"
    assert path.read_bytes() == content
    for _ in range(2):
        assert run_forked("reader.py", f"--fin={file}", f"--fout=ours.{ending}", cwd=tmp_path).returncode == 0


def test_the_input_is_not_overwritten_by_its_own_vectors(file, tmp_path):
    assert run_forked("reader.py", f"--fin={file}", "--fout=v.parquet", cwd=tmp_path).returncode == 0
    content = (tmp_path / "v.parquet").read_bytes()
    (tmp_path / "link.parquet").symlink_to("v.parquet")
    for name in ("v.parquet", "link.parquet"):
        line = only_error_line(run_forked("reader.py", "--fin=v.parquet", f"--fout={name}", cwd=tmp_path))
        assert line == f"error: --fout={name} is one of the files to read; name another file with --fout"
    assert (tmp_path / "v.parquet").read_bytes() == content


@pytest.mark.parametrize("ending", ["npz", "parquet", "h5"])
def test_a_failed_write_gives_one_line_and_keeps_the_old_file(tmp_path, ending):
    write_events(tmp_path / "a.root", 20_000)
    path = tmp_path / f"v.{ending}"
    assert run_forked("reader.py", "--fin=a.root", "--nevts=10", f"--fout={path.name}", cwd=tmp_path).returncode == 0
    before = path.read_bytes()
    script = f"ulimit -f 40; exec {sys.executable} {ROOT / 'reader.py'} --fin=a.root --fout={path.name}"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert only_error_line(done).startswith(f"error: cannot write {path.name}: ")
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.root", path.name]


KILLED_WHILE_WRITING = """
import glob, os, signal
def preprocessing(events):
    if glob.glob(".y.*"):  # the second pass, which writes the vectors
        os.kill(os.getpid(), signal.SIGKILL)
    return events
"""


@pytest.mark.parametrize("ending", [".parquet", ".npz", ".h5"])
def test_the_next_run_removes_the_files_of_a_killed_one(tmp_path, ending):
    write_events(tmp_path / "a.root", 30)
    (tmp_path / "pre.py").write_text(KILLED_WHILE_WRITING)
    command = ["reader.py", "--fin=a.root", f"--fout=y{ending}"]
    assert run_forked(*command, "--preproc=pre.py", cwd=tmp_path).returncode == -signal.SIGKILL
    assert any(path.name.startswith(".y") for path in tmp_path.iterdir())
    done = run_forked(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"a.root", "pre.py", f"y{ending}"}
