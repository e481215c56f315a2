"""reader.py as a person runs it, from another folder."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import uproot
from scripts import HTAUTAU, ROOT, only_error_line, run_forked, run_script
from tinyroot import write_events

GGH = HTAUTAU / "ggH.root"


def test_info_has_the_form_and_the_numbers_of_the_file(tmp_path):
    done = run_script("reader.py", f"--fin={GGH}", "--info", "--verbose=1", "--nevts=2000", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    tree = uproot.open(GGH)["Events"]
    first = r"First pass: 2000 events, \d+\.\d\d sec, shape \((\d+),\) 19 branches: flat 51 jagged"
    assert re.fullmatch(first, lines[1])
    assert re.fullmatch(r"VMEM used: \d+\.\d \(MB\) SWAP used: \d+\.\d \(MB\)", lines[2])
    assert lines[3] == "Number of events  : 12000"
    assert lines[4] == "# flat branches   : 19"
    pt = tree["MET_pt"].array(library="np", entry_stop=2000)
    assert f"MET_pt values in [{pt.min().item()}, {pt.max().item()}] range, dim=1" in lines
    assert "# jagged branches : 51" in lines
    jets = tree["Jet_pt"].array(entry_stop=2000)
    flat = np.concatenate([np.asarray(jet) for jet in jets])
    longest = max(len(jet) for jet in jets)
    assert f"Jet_pt values in [{flat.min().item()}, {flat.max().item()}] range, dim={longest}" in lines
    assert not any(re.match(r"(run|luminosityBlock|event) values", line) for line in lines)


def test_without_info_the_events_are_streamed_and_counted(tmp_path):
    done = run_forked(
        "reader.py", f"--fin={GGH}", "--branches=MET_pt,Jet_pt", "--nevts=500", "--chunk-size=200", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"Read 500 events, .* events/s, shape \(500, \d+\) float32 in 3 chunks", done.stdout)


def test_specs_from_fout_are_accepted_by_specs_and_refused_for_other_branches(tmp_path):
    wrote = run_forked("reader.py", f"--fin={GGH}", "--fout=specs.json", "--branches=Jet_*", "--nevts=20", cwd=tmp_path)
    assert wrote.returncode == 0, wrote.stderr
    specs = json.loads((tmp_path / "specs.json").read_text())
    assert specs["jkeys"] == sorted(specs["jdim"])
    assert specs["fkeys"] == []
    assert specs["events"] == 20
    used = run_forked("reader.py", f"--fin={GGH}", "--specs=specs.json", "--nevts=5000", cwd=tmp_path)
    assert used.returncode == 0
    assert "Specs given: 20 events" in used.stdout
    assert "were dropped: vectors keep" in used.stderr
    refused = run_forked("reader.py", f"--fin={GGH}", "--specs=specs.json", "--branches=MET_pt", cwd=tmp_path)
    assert "the specs do not belong to" in only_error_line(refused)


def test_preproc_makes_branches_and_cuts(tmp_path):
    recipe = {"define": {"ht": "sum(Jet_pt)"}, "cut": "nJet >= 2 & ht > 100"}
    (tmp_path / "preproc.json").write_text(json.dumps(recipe))
    done = run_forked(
        "reader.py", f"--fin={GGH}", "--preproc=preproc.json", "--branches=ht,nJet", "--info", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    jets = uproot.open(GGH)["Events"]["Jet_pt"].array()
    sums = np.array([float(np.asarray(jet).astype(float).sum()) for jet in jets if len(jet) >= 2])
    sums = sums[sums > 100]
    assert f"First pass: {len(sums)} events" in done.stdout
    low, high = map(float, re.search(r"ht values in \[(.*), (.*)\] range", done.stdout).groups())
    assert low == pytest.approx(sums.min(), rel=1e-6)
    assert high == pytest.approx(sums.max(), rel=1e-6)


def test_hists_writes_a_pdf_and_a_page(tmp_path):
    pytest.importorskip("matplotlib")
    done = run_forked("reader.py", f"--fin={GGH}", "--branches=MET_*", "--nevts=500", "--hists", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "hists" / "ggH.pdf").read_bytes().startswith(b"%PDF")
    assert 'id="MET_pt"' in (tmp_path / "hists" / "ggH.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--fin=absent.root"], "file not found: absent.root"),
        ([f"--fin={HTAUTAU / 'gGH.root'}"], "closest: '"),
        ([f"--fin={ROOT / 'setup.py'}"], "is not supported"),
        (["--fin=."], "is a folder"),
        ([f"--fin={GGH}", "--branch=events"], "tree 'events' not found in"),
        ([f"--fin={GGH}", "--branch=events"], "which has 'Events', 'Runs'; choose one: --branch=Events"),
        ([f"--fin={GGH}", "--branches=Muon_pT"], "closest: 'Muon_pt'"),
        ([f"--fin={GGH}", "--branches=Higgs_*"], "branch 'Higgs_*' is not in"),
        ([f"--fin={GGH}", "--branches=/(/"], "is not a regular expression"),
        ([f"--fin={GGH}", "--exclude-branches=*"], "no branch"),
        ([f"--fin={GGH}", "--identifier=runn"], "closest: 'run'"),
        ([f"--fin={GGH}", "--nevts=-5"], "--nevts cannot be -5: input should be greater than or equal to -1"),
        ([f"--fin={GGH}", "--chunk-size=0"], "--chunk-size cannot be 0: input should be"),
        ([f"--fin={GGH}", "--specs=no.json"], "cannot read no.json"),
        ([f"--fin={GGH}", f"--specs={GGH}"], "is not a text file"),
        ([f"--fin={GGH}", f"--specs={HTAUTAU / 'params.json'}"], "is not a specs file"),
        ([f"--fin={GGH}", "--preproc=no.json"], "cannot read no.json"),
        ([f"--fin={GGH}", "--normalise=minmx"], "closest: 'minmax'"),
        (["--fin=/store/data/x.root"], "set a redirector"),
        (
            ["--fin=root://localhost:1//x.root", "--retries=0"],
            "cannot read root://localhost:1//x.root: Connection error",
        ),
        ([f"--fin={GGH}", "--fout=/proc/specs.json", "--nevts=10"], "cannot write /proc/specs.json"),
    ],
)
def test_invalid_input_is_reported_in_one_line_and_leaves_no_files(args, says, tmp_path):
    run = run_forked
    if any(arg.startswith("--fin=root:") for arg in args):
        pytest.importorskip("XRootD", reason="the xrootd extra is not installed")
        run = run_script  # when it exits, XRootD inspects all objects, and PyTorch warns of some of its own
    assert says in only_error_line(run("reader.py", *args, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_verbose_keeps_the_traceback(tmp_path):
    done = run_forked("reader.py", "--fin=absent.root", "--verbose=1", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_closed_pipe_is_not_an_error(tmp_path):
    command = (
        f"{sys.executable} {ROOT / 'reader.py'} --fin={GGH} --info --nevts=100 | head -n 1; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0", done.stderr
    assert "Traceback" not in done.stderr


def test_the_reader_module_offers_the_data_reader_in_a_clone():
    code = "from reader import DataReader; from workflow import DataGenerator; print(DataReader, DataGenerator)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "mlaas4hep.reader.data_reader.DataReader" in done.stdout
    assert "mlaas4hep.stream.generator.DataGenerator" in done.stdout


def test_fout_replaces_only_specs(tmp_path):
    write_events(tmp_path / "a.root", 20)
    content = (tmp_path / "a.root").read_bytes()
    line = only_error_line(run_forked("reader.py", "--fin=a.root", "--fout=a.root", cwd=tmp_path))
    assert line.startswith("error: a.root: vectors are written as .parquet")
    assert (tmp_path / "a.root").read_bytes() == content
    for _ in range(2):
        assert run_forked("reader.py", "--fin=a.root", "--fout=specs.json", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "2>&- >&-"])
def test_reading_works_where_outputs_are_closed(closed, tmp_path):
    write_events(tmp_path / "a.root", 20)
    command = f"{sys.executable} {ROOT / 'reader.py'} --fin=a.root --fout=specs.json {closed}"
    assert subprocess.run(["sh", "-c", command], cwd=tmp_path, check=False).returncode == 0
    assert (tmp_path / "specs.json").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("options", ["--info", "--json"])
def test_output_to_a_full_disk_is_an_error_of_one_line(options, tmp_path):
    write_events(tmp_path / "a.root", 20)
    command = f"{sys.executable} {ROOT / 'reader.py'} --fin=a.root {options} > /dev/full"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    line = only_error_line(done)
    assert line == "error: cannot write to standard output: No space left on device; free some space on its disk"


def test_specs_of_no_events_are_refused(tmp_path):
    write_events(tmp_path / "none.root", 0)
    write_events(tmp_path / "some.root", 20)
    assert run_forked("reader.py", "--fin=none.root", "--fout=specs.json", cwd=tmp_path).returncode == 0
    line = only_error_line(run_forked("reader.py", "--fin=some.root", "--specs=specs.json", cwd=tmp_path))
    assert line.startswith("error: the specs were made from files without events; make specs from files")


def test_names_that_the_terminal_cannot_display_are_escaped(tmp_path):
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mktree("Events", {"\u00e9nergie": "float32"})
        file["Events"].extend({"\u00e9nergie": np.arange(3, dtype="f4")})
    done = run_script("reader.py", "--fin=a.root", "--info", cwd=tmp_path, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert "\\xe9nergie values in [0.0, 2.0] range, dim=1" in done.stdout
