"""A server on a full disk refuses uploads with 507, keeps the models that it has, and goes on answering."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
from scripts import only_error_line
from serving_fixtures import (
    MET,
    MET_SCORE,
    ROOT,
    Server,
    environment,
    names_in,
    run_client,
    write_archive,
    write_bundle,
)
from small_disk import disk_fixture, small_fixture  # noqa: F401

FULL = "No space left on device"


def large_archive(folder: Path, size: int = 300_000) -> bytes:
    """A model with another file of random bytes beside it."""
    bundle = write_bundle(folder / "large")
    (bundle / "more.bin").write_bytes(os.urandom(size))
    return write_archive(folder / "large.tar", bundle).read_bytes()


def upload(server: Server, archive: bytes) -> requests.Response:
    return requests.post(f"{server.url}/upload", archive, headers={"Content-Type": "application/x-tar"}, timeout=20)


def score(server: Server) -> Any:
    return requests.post(f"{server.url}/json", json={**MET, "model": "htautau"}, timeout=20).json()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_upload_to_a_full_disk_is_507_and_the_old_model_stays(disk: Any, tmp_path: Path) -> None:
    large, small = large_archive(tmp_path), write_archive(tmp_path / "small.tar", write_bundle(tmp_path / "b"))
    with Server.start(disk.path / "models") as server:
        assert upload(server, small.read_bytes()).status_code == 200
        before = contents(disk.path / "models" / "htautau")
        for free in (0, 4_000, 8_000, 20_000, 100_000, 300_000):
            disk.fill(free=free)
            answer = upload(server, large)
            assert (answer.status_code, answer.json()["error"]) == (507, f"the server cannot write to its disk: {FULL}")
            assert names_in(disk.path / "models") == {"htautau"}
            assert contents(disk.path / "models" / "htautau") == before
            assert score(server) == [MET_SCORE]
            disk.free_all()
        assert upload(server, large).status_code == 200
        assert score(server) == [MET_SCORE]


def test_workers_without_space_for_their_counters_go_on_answering(
    disk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of counters were mapped without blocks on the disk, which ended workers by SIGBUS."""
    monkeypatch.setenv("TMPDIR", str(disk.path))
    write_bundle(tmp_path / "models/htautau")
    with Server.start(tmp_path / "models", "--workers=2") as server:
        disk.fill()
        for _ in range(10):
            assert score(server) == [MET_SCORE]
            assert requests.get(f"{server.url}/metrics", timeout=20).status_code == 200
        assert server.stop() == 0


def test_workers_on_a_full_disk_count_separately_and_report_it(
    disk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(disk.path))
    write_bundle(tmp_path / "models/htautau")
    disk.fill(free=100_000)
    command = [sys.executable, ROOT / "tfaas_server.py", f"--models-dir={tmp_path}/models", "--port=0", "--workers=2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "ready: " in line:
                break
        url = lines[-1].partition("ready: ")[2].split()[0]
        assert score(Server(process, tmp_path / "models", url)) == [MET_SCORE]
        assert b"mlaas4hep_requests_total" in requests.get(f"{url}/metrics", timeout=20).content
        process.terminate()
    warnings = [line for line in lines if "the metrics of the server do not include those of this worker" in line]
    assert len(warnings) == 2
    assert FULL in warnings[0]


def test_a_log_on_a_full_disk_stops_no_server(disk: Any, tmp_path: Path) -> None:
    write_bundle(tmp_path / "models/htautau")
    log = disk.path / "log"
    command = [sys.executable, ROOT / "tfaas_server.py", f"--models-dir={tmp_path}/models", "--port=0", "--verbose"]
    with log.open("w") as file, subprocess.Popen(command, stderr=file, env=environment()) as process:
        while "ready: " not in log.read_text():
            assert process.poll() is None
        url = log.read_text().partition("ready: ")[2].split()[0]
        disk.fill()
        for _ in range(100):  # of about 80 bytes, so that the page of the log is full, too
            assert score(Server(process, tmp_path / "models", url)) == [MET_SCORE]
        process.terminate()
        assert process.wait(timeout=20) == 0


@pytest.mark.parametrize("option", ["--bundle", "--predict"])
def test_a_client_on_a_full_disk_prints_one_line(disk: Any, tmp_path: Path, option: str) -> None:
    (tmp_path / "events.json").write_text(json.dumps({**MET, "model": "htautau"}))
    bundle = write_bundle(tmp_path / "htautau")
    (bundle / "more.bin").write_bytes(os.urandom(300_000))
    disk.fill(free=100_000)
    with Server.start(tmp_path / "models") as server:
        if option == "--bundle":
            done = run_client(f"--url={server.url}", f"--bundle={bundle}", TMPDIR=str(disk.path))
            assert FULL in only_error_line(done)
            assert names_in(tmp_path / "models") == set()
            return
        assert run_client(f"--url={server.url}", f"--bundle={bundle}").returncode == 0
        disk.fill()
        command = [sys.executable, ROOT / "tfaas_client.py", f"--url={server.url}", f"--predict={tmp_path}/events.json"]
        with (disk.path / "scores").open("w") as file:
            done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, text=True, env=environment())
        assert (done.returncode, done.stderr) == (
            1,
            f"error: cannot write to standard output: {FULL}; free some space on its disk\n",
        )
