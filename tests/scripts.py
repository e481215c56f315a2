"""Running the scripts as a person does: as processes, from a folder of their own."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HTAUTAU = ROOT / "examples" / "htautau"
ENVIRONMENT = dict(os.environ)
"""Without what tests change."""


def run_script(name, *args, cwd, env=None, timeout=250):
    """Run one of the scripts of this clone and return the finished process, its output as text."""
    environment = {**os.environ, **(env or {})}
    command = [sys.executable, str(ROOT / name), *map(str, args)]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


def run_forked(name, *args, cwd, env=None, timeout=250, signal_after=None):
    """Do the same in a fork of a process that has imported the frameworks, which saves several seconds.

    With `signal_after=("epoch   2", signal.SIGTERM)`, the script gets this signal when it prints this text.
    """
    server = _fork_server()
    with tempfile.NamedTemporaryFile("w+") as stdout, tempfile.NamedTemporaryFile("w+") as stderr:
        process = {
            "cwd": str(cwd),
            "env": {**os.environ, **(env or {})},
            "timeout": timeout,
            "signal_after": signal_after,
        }
        streams = {"stdout": stdout.name, "stderr": stderr.name}
        request = {"script": str(ROOT / name), "args": [*map(str, args)], **process, **streams}
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess([name, *args], code, stdout.read(), stderr.read())


@cache
def _fork_server():
    command = [sys.executable, str(Path(__file__).with_name("fork_server.py"))]
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT
    )
    atexit.register(server.communicate)  # it ends at the end of its standard input
    return server


def only_error_line(done):
    """Check that a script refused its input as it should, and return the line that says why."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert done.returncode == 1, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: "), done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return lines[0]
