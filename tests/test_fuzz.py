"""Damaged and hostile inputs to every parser that reads bytes from strangers: no crash, hang, or unexpected error.

The corpus is replayed, and some hundred damaged variants of it, always the same ones; `make soak` runs the search that
coverage guides. See "Fuzzing" in CONTRIBUTING.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fuzz.campaign import Current
from fuzz.checks import find_fault
from fuzz.names import GROUPS, NAMES

from mlaas4hep.errors import ConfigError

for package in ("h5py", "onnx", "onnxruntime", "pyarrow", "fastavro", "uvicorn"):
    pytest.importorskip(package, reason=f"{package} is not installed")

COMMAND = [sys.executable, str(Path(__file__).with_name("fuzz_parsers.py"))]
CORPUS = Path(__file__).with_name("corpus")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What became of each target, by name; each group of targets has a process of its own."""
    faults = tmp_path_factory.mktemp("faults")
    done = subprocess.run([*COMMAND, "--quick", f"--faults={faults}"], capture_output=True, text=True, timeout=280)
    lines = (json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"target"'))
    found = {one["target"]: one for one in lines}
    for names in GROUPS.values():
        if missing := [name for name in names if name not in found]:
            found[missing[0]] = {"executed": 0, "faults": {"the process ended": done.stderr[-3000:]}}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_no_damaged_input_causes_a_crash_a_hang_or_an_unexpected_error(results, name):
    assert name in results, "the process ended at an earlier target of the same group"
    assert results[name]["faults"] == {}
    assert results[name]["executed"] > len(list((CORPUS / name).iterdir()))


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_long_search_finds_no_fault():
    done = subprocess.run([*COMMAND, "--seconds=1800"], check=False)
    assert done.returncode == 0


def broken(data: bytes) -> None:
    """A parser with a fault of each kind."""
    if data == b"rejected":
        raise ConfigError("not valid")
    if data == b"lines":
        raise ValueError("not\nvalid")


@pytest.mark.parametrize(
    ("data", "fault"),
    [(b"", None), (b"rejected", None), (b"lines", "ValueError in test_fuzz.py:broken")],
)
def test_the_fuzzer_tells_a_rejected_input_from_a_fault(data, fault):
    found = find_fault(broken, data)
    assert found == fault or found.splitlines()[0] == fault


def test_an_input_that_needs_too_much_memory_is_a_fault():
    """An earlier input has taken more."""
    bytearray(1_000_000_000)
    found = find_fault(lambda data: bytearray(700_000_000), b"any")
    assert found.splitlines()[0] == "memory"


def test_an_input_that_ends_the_process_is_kept(tmp_path):
    code = f"""
import os
from pathlib import Path
from fuzz.campaign import Faults
from fuzz.checks import Target

folder = Path({str(tmp_path)!r})
faults = Faults(Target("any", None), folder, folder / "current")
for data in (b"longer than the next", b"die"):
    faults.check(lambda data: os._exit(7) if data == b"die" else None, data)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 7
    assert Current.read(tmp_path / "current") == b"die"
