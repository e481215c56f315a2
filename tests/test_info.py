"""What a file holds, as a table, in the original's form, and as JSON."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest
from realdata import real_file
from scripts import ROOT, run_script
from tinyroot import write_events

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


def test_in_a_terminal_it_is_a_table_that_fits(file):
    text = in_terminal(f"--fin={file}", "--info", columns=76)
    lines = text.splitlines()
    header = next(line for line in lines if "branch" in line and "mean" in line)
    assert header.startswith("\x1b[1m")
    row = next(line for line in lines if line.startswith("a_rat"))
    assert row.split()[1:5] == ["flat", "float32", "1", "1.5"]
    assert row.split()[-2:] == ["100,", "0"]  # NaN, infinities
    table = lines[lines.index(header) :]
    assert max(len(line.replace("\x1b[1m", "").replace("\x1b[0m", "")) for line in table) <= 76


def test_without_colour_there_is_none(file):
    assert "\x1b" not in in_terminal(f"--fin={file}", "--info", columns=100, env={"NO_COLOR": "1"})


def test_in_a_terminal_verbose_gives_the_original_form(file):
    assert "# flat branches   : 4\n" in in_terminal(f"--fin={file}", "--info", "--verbose=1", columns=100)


def test_json_is_all_there_is_and_says_what_the_file_holds(file, tmp_path):
    done = run_script("reader.py", f"--fin={file}", "--info", "--json", cwd=tmp_path)
    content = json.loads(done.stdout)
    assert content["events"] == content["events_seen"] == 1000
    assert content["branches"]["stamp"]["max"] == 2**40 + 999
    assert content["branches"]["stamp"]["dtype"] == "int64"
    rare = content["branches"]["a_rather_long_name_of_a_branch"]
    assert (rare["count"], rare["nan"], rare["mean"], rare["std"]) == (900, 100, 1.5, 0)
    assert "stamp: whole numbers beyond 2^24" in done.stderr


def test_whole_numbers_that_float32_cannot_hold_are_flagged(file):
    text = in_terminal(f"--fin={file}", "--info", columns=120, env={"NO_COLOR": "1"})
    types = {line.split()[0]: line.split()[2] for line in text.splitlines() if " flat " in line and "0x" not in line}
    assert types["stamp"] == "int64!"
    assert types["met"] == "float32"
    assert "! whole numbers beyond 2^24, of which float32 cannot tell neighbours apart" in text
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
def test_json_is_one_object_and_nothing_else_whatever_else_is_asked_for(file, tmp_path, options, keys):
    if "--hists" in options:
        pytest.importorskip("matplotlib")
    done = run_script("reader.py", f"--fin={file}", "--branches=met,stamp", "--json", *options, cwd=tmp_path)
    content = json.loads(done.stdout)
    assert content["file"] == str(file)
    assert keys <= set(content)
    if "--hists" in options:
        assert [(tmp_path / path).exists() for path in content["histograms"]] == [True, True]
    if "--verbose=2" in options:
        assert f"Reading {file}\nmet\nstamp\n" in done.stderr


def test_json_of_a_stream_has_its_figures(file, tmp_path):
    done = run_script("reader.py", f"--fin={file}", "--json", cwd=tmp_path)
    content = json.loads(done.stdout)
    assert (content["events"], content["chunks"]) == (1000, 1)
    assert content["events_per_s"] == pytest.approx(content["events"] / content["seconds"])
    assert content["bytes"] == 1000 * content["columns"] * 4


def test_what_was_left_out_is_listed_with_the_reason():
    with DataReader(real_file("uproot-Zmumu.root"), "events") as reader:
        assert as_json(reader)["left_out"] == {"Type": "char*: not a number"}
        assert as_table(reader, 80).splitlines()[-1].split("  ")[0] == "Type"
