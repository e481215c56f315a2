"""Running the scripts as a person does: as processes, from a folder of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HTAUTAU = ROOT / "examples" / "htautau"


def run_script(name, *args, cwd, env=None, timeout=250):
    """Run one of the scripts of this clone and return the finished process, its output as text."""
    environment = {**os.environ, **(env or {})}
    command = [sys.executable, str(ROOT / name), *map(str, args)]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


def only_error_line(done):
    """Check that a script refused its input as it should, and return the line that says why."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert done.returncode == 1, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: "), done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return lines[0]
