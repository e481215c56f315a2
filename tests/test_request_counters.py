"""Counters of several workers in $PROMETHEUS_MULTIPROC_DIR: a folder that cannot be used is one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import requests
from serving_fixtures import ROOT, Server, environment

SHARED = "PROMETHEUS_MULTIPROC_DIR"


@pytest.mark.parametrize("kind", ["missing", "a file", "empty", "not writable"])
def test_an_unusable_folder_for_counters_is_an_error_of_one_line(tmp_path: Path, kind: str) -> None:
    folder = {"missing": tmp_path / "missing", "a file": tmp_path / "file", "empty": "", "not writable": "/proc"}[kind]
    (tmp_path / "file").touch()
    command = [sys.executable, ROOT / "tfaas_server.py", f"--models-dir={tmp_path}/models", "--port=0"]
    env = environment(**{SHARED: str(folder)})
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert SHARED in done.stderr
    assert "unset it, or name a folder that exists and is writable" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"file", "models"}


def test_counters_that_became_unreadable_are_a_503(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "counters"
    folder.mkdir()
    monkeypatch.setenv(SHARED, str(folder))
    with Server.start(tmp_path / "models") as server:
        assert requests.get(f"{server.url}/metrics", timeout=20).status_code == 200
        (folder / "counter_1.db").write_bytes(b"not a file of counters")
        answer = requests.get(f"{server.url}/metrics", timeout=20)
        assert answer.status_code == 503
        assert answer.json()["error"].startswith("the counters in $PROMETHEUS_MULTIPROC_DIR cannot be read")
        assert str(folder) not in answer.text
        assert requests.get(f"{server.url}/models", timeout=20).status_code == 200
