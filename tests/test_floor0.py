"""Errors, files, params.json, and what people see."""

import argparse
import json
import os
import signal
import subprocess
import sys

import pytest

from mlaas4hep import console
from mlaas4hep.config import Params
from mlaas4hep.errors import BranchNotFound, ConfigError, FileUnreadable, PackageMissing, nearest, require
from mlaas4hep.files import new_directory, new_file, read_json, read_lines, write_json


def test_an_error_is_one_line_with_cause_nearest_and_cure():
    error = BranchNotFound("branch 'pT' is not in a.root", nearest=["pt"], hint="list all: reader.py --info")
    assert str(error) == "branch 'pT' is not in a.root; closest: 'pt'; list all: reader.py --info"
    assert isinstance(error, KeyError)
    assert isinstance(FileUnreadable("x"), OSError)


def test_the_nearest_names_do_not_care_for_case():
    assert nearest("muon_pT", ["Muon_eta", "Muon_pt", "MET"])[0] == "Muon_pt"
    assert nearest("something", ["MET"]) == []


def test_a_missing_package_comes_with_the_line_that_installs_it():
    with pytest.raises(PackageMissing, match=r"plots needs the package 'no_such'.*pip install 'mlaas4hep\[plot\]'"):
        require("no_such.module", "plot", "plots")
    assert require("json", "plot", "plots") is json


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    write_json(tmp_path / "a.json", {"old": 1})

    def fail():
        with new_file(tmp_path / "a.json") as path:
            path.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_failing_folder_leaves_the_old_one_and_nothing_else(tmp_path):
    with new_directory(tmp_path / "bundle") as folder:
        (folder / "one").write_text("1")

    def fail():
        with new_directory(tmp_path / "bundle") as folder:
            (folder / "two").write_text("2")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in (tmp_path / "bundle").iterdir()] == ["one"]
    with new_directory(tmp_path / "bundle") as folder:
        (folder / "three").write_text("3")
    assert [path.name for path in (tmp_path / "bundle").iterdir()] == ["three"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"old": 1})
    code = (
        "import sys, time; from mlaas4hep.files import new_file\n"
        f"with new_file({str(tmp_path / 'a.json')!r}) as path:\n"
        "    path.write_text('half'); print('written', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout.readline() == "written\n"
        writer.kill()
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}


def test_json_that_is_none_is_named_with_line_and_column(tmp_path):
    (tmp_path / "p.json").write_text('{\n "a": 1,\n}')
    with pytest.raises(ConfigError, match=r"p\.json is not JSON: .* at line 3, column 1"):
        read_json(tmp_path / "p.json")


def test_no_file_that_we_write_has_nan_in_it(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_lists_may_have_comments_blank_lines_and_any_line_ends(tmp_path):
    (tmp_path / "files.txt").write_bytes(b"\xef\xbb\xbf# all\r\na.root\r\n\r\n  b.root  # the second\n")
    assert read_lines(tmp_path / "files.txt") == ["a.root", "b.root"]


def test_params_of_the_original_load_as_they_are():
    params = Params.parse(
        {"nevts": 10000, "shuffle": True, "chunk_size": 1000, "epochs": 5, "batch_size": 100,
         "identifier": ["runNo", "evtNo", "lumi"], "branch": "boostedAk8/events", "selected_branches": "",
         "exclude_branches": "", "hist": "pdfs", "redirector": "root://stormgf1.pi.infn.it:1094", "verbose": 1}
    )  # fmt: skip
    assert params.selected_branches == []
    assert params.redirector == ["root://stormgf1.pi.infn.it:1094"]
    assert params.identifier == ["runNo", "evtNo", "lumi"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"epoch": 1}, "params has an unknown key 'epoch'; closest: 'epochs'"),
        ({"epochs": "1"}, "'epochs' in params cannot be '1'"),
        ({"epochs": 0}, "'epochs' in params cannot be 0"),
        ({"shuffle": 1}, "'shuffle' in params cannot be 1"),
        ({"split": [0.5, 0.5]}, "three positive shares"),
        ({"normalise": "log"}, "'normalise' in params cannot be 'log'"),
        ({"name": "a b"}, "'name' in params cannot be 'a b'"),
    ],
)
def test_mistakes_in_params_are_one_line_that_names_key_and_value(content, says):
    with pytest.raises(ConfigError) as caught:
        Params.parse(content)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_command_raises_becomes_its_exit_code(capsys):
    def refuse(args):
        raise ConfigError("no such thing", hint="try another")

    assert console.run(refuse, argparse.Namespace(verbose=0)) == 1
    assert capsys.readouterr().err == "error: no such thing; try another\n"
    assert console.run(lambda args: None, argparse.Namespace()) == 0
    assert console.run(lambda args: 3, argparse.Namespace()) == 3


def test_ctrl_c_is_no_traceback(tmp_path):
    code = (
        "import argparse, sys; from mlaas4hep import console\n"
        "def wait(args):\n    print('waiting', flush=True); sys.stdin.read()\n"
        "sys.exit(console.run(wait, argparse.Namespace(verbose=0)))\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as process:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert process.stderr.read() == "interrupted\n"


def test_a_progress_bar_writes_nothing_into_a_pipe(capfd):
    with console.progress("reading", 10) as bar:
        bar.advance(10, "done")
    assert capfd.readouterr() == ("", "")


def test_memory_is_what_the_system_says():
    resident, swapped = console.memory()
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[1])
    assert resident == pytest.approx(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, rel=0.2)
    assert swapped >= 0
