"""Exit codes, error messages and progress bars of the scripts."""

import argparse
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from contextlib import suppress

import pytest
from scripts import HTAUTAU, only_error_line, run_script

from mlaas4hep import console
from mlaas4hep.errors import ConfigError


def test_exceptions_of_a_command_determine_the_exit_code(capsys):
    def refuse(args):
        raise ConfigError("no such thing", hint="try another")

    assert console.run(refuse, argparse.Namespace(verbose=0)) == 1
    assert capsys.readouterr().err == "error: no such thing; try another\n"
    assert console.run(lambda args: None, argparse.Namespace()) == 0
    assert console.run(lambda args: 3, argparse.Namespace()) == 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--fin=a.root", "--nevts=many"], "argument --nevts: invalid int value: 'many'"),
        (["--fin=a.root", "--nevents=3"], "unrecognized arguments: --nevents=3"),
        ([], "the following arguments are required: --fin"),
    ],
)
def test_an_invalid_command_line_gives_one_line(tmp_path, options, says):
    line = only_error_line(run_script("reader.py", *options, cwd=tmp_path))
    assert line == f"error: {says}; all options: reader.py --help"


@pytest.mark.parametrize(
    ("script", "options", "empty"),
    [
        *(("tfaas_client.py", [f"{flag}="], flag) for flag in ("--predict", "--upload", "--bundle", "--params")),
        *(("tfaas_client.py", [f"{flag}= "], flag) for flag in ("--image", "--delete")),
        *(
            ("tfaas_client.py", ["--models", f"{flag}="], flag)
            for flag in ("--url", "--token-file", "--cert", "--capath")
        ),
        ("tfaas_client.py", ["--predict=a.json", "--model="], "--model"),
        *(
            ("tfaas_server.py", ["--port=0", f"{flag}="], flag)
            for flag in ("--token-file", "--cert", "--key", "--capath")
        ),
        *(("tfaas_server.py", ["--port=0", f"{flag}="], flag) for flag in ("--host", "--models-dir")),
        *(("workflow.py", ["--files=a.root", f"{flag}="], flag) for flag in ("--predict", "--model", "--fout")),
        ("workflow.py", ["--files="], "--files"),
        *(("reader.py", ["--fin=a.root", f"{flag}="], flag) for flag in ("--specs", "--fout", "--preproc", "--hists")),
    ],
)
def test_an_empty_option_gives_one_line(tmp_path, script, options, empty):
    line = only_error_line(run_script(script, *options, cwd=tmp_path))
    assert line == f"error: argument {empty}: it is empty; all options: {script} --help"
    assert list(tmp_path.iterdir()) == []


def test_a_list_and_a_base_path_may_be_empty(tmp_path):
    done = run_script(
        "reader.py", f"--fin={HTAUTAU / 'ggH.root'}", "--identifier=", "--branches=", "--exclude-branches=",
        "--redirector=", "--nevts=10", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = run_script("workflow.py", "--files=nix.root", "--labels=", "--model=nix.py", cwd=tmp_path)
    assert "nix" in only_error_line(done)
    line = only_error_line(run_script("tfaas_server.py", "--base-path=", "--host=256.1.1.1", cwd=tmp_path))
    assert line.startswith("error: cannot listen on 256.1.1.1")


def test_ctrl_c_prints_no_traceback(tmp_path):
    code = (
        "import argparse, signal, sys; from mlaas4hep import console\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # as in a terminal, wherever the tests run
        "def wait(args):\n    print('waiting', flush=True); sys.stdin.read()\n"
        "console.exit_with(console.run(wait, argparse.Namespace(verbose=0)))\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as process:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert process.stderr.read() == "interrupted\n"


TERMINATED_WHILE_WRITING = """
import glob, os, signal
def preprocessing(events):
    if glob.glob(".y*"):  # the second pass, which writes the vectors
        os.kill(os.getpid(), signal.SIGTERM)
    return events
"""


@pytest.mark.parametrize("name", ["y.parquet", "y.npz", "y.h5"])
def test_a_reader_that_receives_sigterm_deletes_its_temporary_files(tmp_path, name):
    (tmp_path / "pre.py").write_text(TERMINATED_WHILE_WRITING)
    done = run_script(
        "reader.py", f"--fin={HTAUTAU / 'ggH.root'}", "--branches=MET_pt", "--nevts=10", "--preproc=pre.py",
        f"--fout={name}", cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (143, "terminated\n")
    assert {path.name for path in tmp_path.iterdir()} <= {"pre.py", "__pycache__"}


def test_a_second_sigterm_does_not_interrupt_the_clean_up(tmp_path):
    code = (
        "import argparse, os, signal, sys; from mlaas4hep import console\n"
        "def terminate():\n    os.kill(os.getpid(), signal.SIGTERM)\n"
        "def work(args):\n    try:\n        terminate()\n    finally:\n        terminate(); print('cleaned up')\n"
        "sys.exit(console.run(work, argparse.Namespace(verbose=0)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (143, "cleaned up\n", "terminated\n")


def test_sigterm_stays_ignored_if_it_was_ignored(tmp_path):
    code = (
        "import argparse, os, signal, sys; from mlaas4hep import console\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "sys.exit(console.run(lambda args: os.kill(os.getpid(), signal.SIGTERM), argparse.Namespace(verbose=0)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_progress_bar_does_not_write_to_a_pipe(capfd):
    with console.progress("reading", 10) as bar:
        bar.advance(10, lambda: pytest.fail("nobody reads it"))
    assert capfd.readouterr() == ("", "")


class Terminal:
    """What a process shows in a terminal of 100 columns while it waits for lines from its stdin."""

    def __init__(self, code):
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self.process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=theirs, text=True)
        os.close(theirs)

    def read_until(self, pattern):
        """Read what comes until a pattern is found in it; return the match."""
        seen = ""
        while not (found := re.search(pattern, seen)):
            seen += self._read()
        return found

    def close(self):
        """Let the process end; return what it showed last."""
        self.process.stdin.close()
        seen = ""
        with suppress(OSError):  # its end is closed
            while True:
                seen += self._read()
        os.close(self._ours)
        assert self.process.wait() == 0
        return seen

    def _read(self):
        return os.read(self._ours, 65536).decode()


def test_in_a_terminal_a_bar_is_drawn_during_the_first_block_and_cleared_at_the_end():
    terminal = Terminal(
        "import sys; from mlaas4hep import console\n"
        "with console.progress('first pass', 20_000, delay=0.1) as bar:\n"
        "    sys.stdin.readline(); bar.advance(10_000); sys.stdin.readline()\n"
    )
    terminal.read_until(r"first pass: +0%.* 0\.00/20\.0k \[00:00<\?, \? events/s\]")
    terminal.read_until(r"\[00:01<\?, \? events/s\]")  # it goes on while nothing is reported
    terminal.process.stdin.write("\n")
    terminal.process.stdin.flush()
    found = terminal.read_until(r"first pass: +50%.* 10\.0k/20\.0k \[[\d:]+<[\d:]+, +([\d.]+)(k?) events/s\]")
    assert 0 < float(found[1]) * (1000 if found[2] else 1) < 10_000
    last = terminal.close()
    assert re.search(r"\r +\r$", last), last  # wiped away


def test_in_a_terminal_no_bar_is_drawn_before_the_delay():
    terminal = Terminal(
        "from mlaas4hep import console\nwith console.progress('reading', 10, delay=600) as bar:\n    bar.advance(10)\n"
    )
    assert terminal.close() == ""


def test_process_memory_agrees_with_the_system():
    resident, swapped = console.process_memory()
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[1])
    assert resident == pytest.approx(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, rel=0.2)
    assert swapped >= 0


def fail_with(error):
    def command(_):
        raise error

    return command


def test_verbose_shows_the_traceback_before_the_line(capsys):
    assert console.run(fail_with(ConfigError("no")), argparse.Namespace(verbose=1)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "error: no"


def test_the_error_for_a_missing_package_says_how_to_install_it(capsys):
    assert console.run(fail_with(ModuleNotFoundError("x", name="uproot")), argparse.Namespace()) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: the package 'uproot' is not installed")
    assert "pip install" in error


def test_unexpected_exceptions_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        console.run(fail_with(ZeroDivisionError()), argparse.Namespace())
    with pytest.raises(ModuleNotFoundError):
        console.run(fail_with(ModuleNotFoundError("x", name="mlaas4hep.nowhere")), argparse.Namespace())


def test_closing_a_pipe_early_is_not_an_error():
    code = (
        "import argparse, signal, sys; from mlaas4hep import console\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # as in a terminal, wherever the tests run
        "def talk(_):\n    for number in range(100_000):\n        print(number)\n"
        "console.exit_with(console.run(talk, argparse.Namespace()))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_notices_go_to_stderr(capsys):
    console.notice("there were 3 files")
    assert capsys.readouterr() == ("", "note: there were 3 files\n")


def test_matching_lines_on_stderr_are_dropped_and_others_printed():
    code = (
        "import os, sys; from mlaas4hep import console\n"
        "with console.filtered_stderr('INFO'):\n"
        "    os.write(2, b'INFO: noise from C\\nWARNING: real\\n')\n"
        "    print('INFO: noise from Python', file=sys.stderr)\n"
        "print('INFO: afterwards', file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "WARNING: real\nINFO: afterwards\n"
