"""Descriptions of a file: as a table, in the original's format, and as JSON."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios

import awkward as ak
import numpy as np
import pytest
import uproot
from realdata import real_file
from scripts import ROOT, only_error_line, run_forked
from tinyroot import write_events, write_tree

from mlaas4hep.reader import DataReader
from mlaas4hep.reader.info import as_json, as_table


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("info") / "a.root"
    rare = np.where(np.arange(1000) % 10 == 0, np.nan, 1.5).astype("f4")
    large = np.arange(1000, dtype=np.int64) + 2**40
    write_events(path, 1000, a_rather_long_name_of_a_branch=rare, stamp=large)
    return path


def in_terminal(*args, columns, env=None):
    """Return what reader.py prints to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {**{k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS")}, **(env or {})}
    command = [sys.executable, ROOT / "reader.py", *args]
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, env=environment) as process:
        os.close(theirs)
        text = b""
        while True:
            try:
                text += os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
        process.communicate()
    os.close(ours)
    assert process.returncode == 0
    return text.decode().replace("\r\n", "\n")


def test_in_a_terminal_the_table_fits_the_width(file):
    text = in_terminal(f"--fin={file}", "--info", columns=76)
    lines = text.splitlines()
    header = next(line for line in lines if "branch" in line and "mean" in line)
    assert header.startswith("\x1b[1m")
    row = next(line for line in lines if line.startswith("a_rat"))
    assert row.split()[1:5] == ["flat", "float32", "1", "1.5"]
    assert row.split()[-2:] == ["100,", "0"]  # NaN, infinities
    table = lines[lines.index(header) :]
    assert max(len(line.replace("\x1b[1m", "").replace("\x1b[0m", "")) for line in table) <= 76


@pytest.fixture(scope="module")
def odd_names(tmp_path_factory):
    path = tmp_path_factory.mktemp("odd") / "odd.root"
    write_tree(path, {name: np.arange(3.0) for name in ("esc\x1b[31m", "nl\nx", "tab\ty")})
    return path


def test_control_characters_in_names_are_escaped_in_a_table(odd_names):
    text = in_terminal(f"--fin={odd_names}", "--info", columns=100, env={"NO_COLOR": "1"})
    assert "\x1b" not in text
    names = [line.split()[0] for line in text.splitlines() if " flat " in line and "float64" in line]
    assert names == ["esc\\x1b[31m", "nl\\nx", "tab\\ty"]


def test_control_characters_in_names_are_escaped_in_a_pipe(odd_names, tmp_path):
    done = run_forked("reader.py", f"--fin={odd_names}", "--info", "--verbose=2", cwd=tmp_path)
    assert "\x1b" not in done.stdout + done.stderr
    lines = done.stdout.splitlines()
    for name in ("esc\\x1b[31m", "nl\\nx", "tab\\ty"):
        assert name in lines  # of --verbose=2
        assert f"{name} values in [0.0, 2.0] range, dim=1" in lines


def test_no_color_is_respected(file):
    assert "\x1b" not in in_terminal(f"--fin={file}", "--info", columns=100, env={"NO_COLOR": "1"})


def test_in_a_terminal_verbose_gives_the_original_format(file):
    assert "# flat branches   : 4\n" in in_terminal(f"--fin={file}", "--info", "--verbose=1", columns=100)


def test_json_describes_the_file_and_is_the_only_output(file, tmp_path):
    done = run_forked("reader.py", f"--fin={file}", "--info", "--json", cwd=tmp_path)
    content = json.loads(done.stdout)
    assert content["events"] == content["events_seen"] == 1000
    assert content["branches"]["stamp"]["max"] == 2**40 + 999
    assert content["branches"]["stamp"]["dtype"] == "int64"
    rare = content["branches"]["a_rather_long_name_of_a_branch"]
    assert (rare["count"], rare["nan"], rare["mean"], rare["std"]) == (900, 100, 1.5, 0)
    assert "stamp: integers beyond 2^24" in done.stderr


def test_integers_that_float32_does_not_represent_exactly_are_marked(file):
    text = in_terminal(f"--fin={file}", "--info", columns=120, env={"NO_COLOR": "1"})
    types = {line.split()[0]: line.split()[2] for line in text.splitlines() if " flat " in line and "0x" not in line}
    assert types["stamp"] == "int64!"
    assert types["met"] == "float32"
    assert "! integers beyond 2^24, which float32 does not represent exactly" in text
    with DataReader(file) as reader:
        exact = {name: branch["exact_in_float32"] for name, branch in as_json(reader)["branches"].items()}
    assert [name for name, is_exact in exact.items() if not is_exact] == ["stamp"]


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        (["--info"], {"branches", "events_seen"}),
        (["--verbose=2"], {"events_per_s", "chunks"}),
        (["--info", "--verbose=2"], {"branches", "events_seen"}),
        (["--fout=x.npz", "--verbose"], {"events", "vectors"}),
        (["--fout=x.npz", "--info"], {"branches", "vectors"}),
        (["--fout=specs.json", "--verbose"], {"events_per_s", "chunks"}),
        (["--hists"], {"histograms"}),
        (["--hists", "--info", "--verbose=2"], {"branches", "histograms"}),
    ],
)
def test_json_prints_exactly_one_object_with_any_other_option(file, tmp_path, options, keys):
    if "--hists" in options:
        pytest.importorskip("matplotlib")
    done = run_forked("reader.py", f"--fin={file}", "--branches=met,stamp", "--json", *options, cwd=tmp_path)
    content = json.loads(done.stdout)
    assert content["file"] == str(file)
    assert keys <= set(content)
    if "--hists" in options:
        assert [(tmp_path / path).exists() for path in content["histograms"]] == [True, True]
    if "--verbose=2" in options:
        assert f"Reading {file}\nmet\nstamp\n" in done.stderr


def test_json_of_a_stream_has_its_statistics(file, tmp_path):
    done = run_forked("reader.py", f"--fin={file}", "--json", cwd=tmp_path)
    content = json.loads(done.stdout)
    assert (content["events"], content["chunks"]) == (1000, 1)
    assert content["events_per_s"] == pytest.approx(content["events"] / content["seconds"])
    assert content["bytes"] == 1000 * content["columns"] * 4


def test_columns_that_are_left_out_are_listed_with_the_reason():
    with DataReader(real_file("uproot-Zmumu.root"), "events") as reader:
        assert as_json(reader)["left_out"] == {"Type": "char*: not a number"}
        assert as_table(reader, 80).splitlines()[-1].split("  ")[0] == "Type"


@pytest.fixture(scope="module", params=["ttree", "rntuple", "parquet", "csv"], name="words")
def words_fixture(request, tmp_path_factory):
    """A file of 3 events with text, and no number but the identifier."""
    folder = tmp_path_factory.mktemp("words")
    columns = {"word": ["a", "b", "c"], "event": np.arange(3)}
    if request.param == "csv":
        (folder / "a.csv").write_text("word,event\na,0\nb,1\nc,2\n")
        return folder / "a.csv"
    if request.param == "parquet":
        arrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(arrow.table(columns), folder / "a.parquet")
        return folder / "a.parquet"
    with uproot.recreate(folder / "a.root") as file:
        if request.param == "ttree":
            file.mktree("Events", {"word": "string", "event": "int64"}).extend(columns)
        else:
            file.mkrntuple("Events", ak.Array(columns))
    return folder / "a.root"


def test_columns_of_a_file_without_features_are_listed_with_the_reasons(words, tmp_path):
    done = run_forked("reader.py", f"--fin={words}", "--info", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Number of events  : 3\n# flat branches   : 0\n# jagged branches : 0\n" in done.stdout
    assert "\n# left out        : 1\nword " in done.stdout
    done = run_forked("reader.py", f"--fin={words}", "--info", "--json", "--branches=w*", cwd=tmp_path)
    content = json.loads(done.stdout)
    assert (content["events"], content["columns"], content["branches"]) == (3, 0, {})
    assert list(content["left_out"]) == ["word"]


def test_a_file_without_features_is_refused_by_all_other_options(tmp_path):
    (tmp_path / "a.csv").write_text("word,event\na,0\nb,1\nc,2\n")
    where = "of tree 'Events' of a.csv"
    for more, says in (
        ([], "no branch WHERE is left as a feature; 'event' is part of the identifier or an extra column"),
        (["--exclude-branches=event"], "no branch WHERE is left as a feature; exclude fewer branches"),
        (["--branches=w*"], "no selected branch WHERE is numeric; select others; reader.py --info lists the reasons"),
        (["--info", "--fout=x.npz"], "no branch WHERE is left as a feature; 'event' is part of the identifier"),
    ):
        line = only_error_line(run_forked("reader.py", "--fin=a.csv", *more, cwd=tmp_path))
        assert says.replace("WHERE", where) in line


def test_the_error_for_a_file_without_numbers_refers_to_info(tmp_path):
    (tmp_path / "a.csv").write_text("word\na\nb\n")
    line = only_error_line(run_forked("reader.py", "--fin=a.csv", cwd=tmp_path))
    assert "no branch of tree 'Events' of " in line
    assert line.endswith(" is numeric; reader.py --info lists the reasons")
