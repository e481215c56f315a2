"""reader.py on several files at once: one first pass over all."""

import json
import re

import awkward as ak
import numpy as np
import pytest
import uproot
from http_server import WebServer
from scripts import only_error_line, run_forked
from tinyroot import damage, write_events

from mlaas4hep.reader import Specs


@pytest.fixture
def folder(tmp_path):
    """Three files of 3,000, 5,000 and 7,000 events, and one with other branches."""
    for index, events in enumerate((3000, 5000, 7000)):
        write_events(tmp_path / f"part{index}.root", events, seed=index)
    write_events(tmp_path / "other.root", 100, more=np.zeros(100))
    (tmp_path / "files.txt").write_text("part0.root\npart1.root\npart2.root\n")
    return tmp_path


def met_of(folder):
    """All values of `met`, from the files themselves."""
    return np.concatenate(
        [uproot.open(folder / f"part{i}.root")["Events"]["met"].array(library="np") for i in range(3)]
    )


@pytest.mark.parametrize("fin", ["part*.root", "part0.root,part1.root,part2.root", "files.txt", "part[0-2].root"])
@pytest.mark.parametrize("workers", [1, 2])
def test_specs_describe_all_files_of_a_glob_or_list(folder, fin, workers):
    done = run_forked("reader.py", f"--fin={fin}", "--fout=specs.json", f"--workers={workers}", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "First pass: 15000 events" in done.stdout
    assert re.search(r"Read 15000 events, .* in 3 chunks", done.stdout)
    specs = Specs.load(str(folder / "specs.json"))
    met = met_of(folder)
    branch = specs.branches["met"]
    assert (branch.count, branch.minimum, branch.maximum) == (15000, met.min(), met.max())
    assert branch.mean == pytest.approx(met.astype(np.float64).mean(), rel=1e-12)
    assert [(file.name, file.entries_read) for file in specs.files] == [
        ("part0.root", 3000), ("part1.root", 5000), ("part2.root", 7000),
    ]  # fmt: skip


def test_info_is_of_all_files(folder):
    done = run_forked("reader.py", "--fin=part*.root", "--info", cwd=folder)
    assert "Number of events  : 15000\n" in done.stdout
    met = met_of(folder)
    assert f"met values in [{met.min().item()}, {met.max().item()}] range, dim=1\n" in done.stdout
    done = run_forked("reader.py", "--fin=part*.root", "--info", "--json", "--verbose=2", "--nevts=4000", cwd=folder)
    content = json.loads(done.stdout)
    assert (content["file"], content["events"], content["events_seen"]) == ("part*.root", 15000, 11000)
    assert content["files"] == ["part0.root", "part1.root", "part2.root"]


def test_tokens_of_urls_are_not_shown(folder):
    server = WebServer({path.name: path.read_bytes() for path in folder.glob("part*.root")})
    urls = ",".join(f"{server.address}/part{index}.root?token=secret" for index in range(2))
    done = run_forked("reader.py", f"--fin={urls}", "--info", "--json", "--verbose=2", cwd=folder)
    server.close()
    assert json.loads(done.stdout)["files"] == [f"{server.address}/part{index}.root" for index in range(2)]
    assert json.loads(done.stdout)["events"] == 8000
    assert "secret" not in done.stdout + done.stderr


def test_histograms_are_of_each_file(folder):
    pytest.importorskip("matplotlib")
    done = run_forked("reader.py", "--fin=part*.root", "--hists=h", "--json", "--branches=met", cwd=folder)
    assert json.loads(done.stdout)["histograms"][:2] == ["h/0_part0.html", "h/0_part0.pdf"]
    assert sorted(path.name for path in (folder / "h").iterdir()) == sorted(
        f"{i}_part{i}.{ending}" for i in range(3) for ending in ("html", "pdf")
    )


def test_a_glob_that_matches_one_file_selects_it(folder):
    done = run_forked("reader.py", "--fin=*t0.root", "--fout=x.npz", "--json", cwd=folder)
    assert json.loads(done.stdout) == {"events": 3000, "file": "part0.root", "vectors": "x.npz"}


def test_values_that_given_specs_have_no_room_for_are_counted_over_all_files(folder):
    write_events(folder / "short.root", 2, pt=ak.Array([[1.0], [2.0, 3.0]]))
    assert run_forked("reader.py", "--fin=short.root", "--fout=s.json", cwd=folder).returncode == 0
    lists = [uproot.open(folder / f"part{i}.root")["Events"]["npt"].array(library="np") for i in range(3)]
    lost = sum(int(np.maximum(counts - 2, 0).sum()) for counts in lists)
    done = run_forked("reader.py", "--fin=part*.root", "--specs=s.json", cwd=folder)
    assert f"note: {lost} values of 'pt' were dropped: vectors keep 2 numbers of each list" in done.stderr


def test_damaged_clusters_of_each_file_are_named(folder):
    for name, basket in (("part0.root", 1), ("part2.root", 0)):
        damage(folder / name, "met", basket)
    done = run_forked("reader.py", "--fin=part*.root", "--on-error=skip", cwd=folder)
    assert (
        done.stderr.count("note: skipped 1000 events, entries 1000 to 1999: cannot read branch 'met' of part0.root")
        == 1
    )
    assert (
        done.stderr.count("note: skipped 2333 events, entries 0 to 2332: cannot read branch 'met' of part2.root") == 1
    )
    assert "Read 11667 events" in done.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--fin=no*.root"], "no file matches no*.root"),
        (
            ["--fin=part*.root", "--fout=x.npz"],
            "--fin=part*.root names 3: part0.root, part1.root, part2.root; name one of them",
        ),
        (
            ["--fin=part0.root,other.root"],
            'same branches: \'more\' is not in part0.root; set "missing_branches" to "common" or "nan", or exclude',
        ),
    ],
)
def test_unsupported_options_for_several_files_are_an_error_of_one_line(folder, options, says):
    assert says in only_error_line(run_forked("reader.py", *options, cwd=folder))
    assert not (folder / "x.npz").exists()
