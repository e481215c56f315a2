"""Several processes at one socket: what one is told all know, those that die are replaced, and none stays behind."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest
import requests
from serving_fixtures import (  # noqa: F401
    MET,
    MET_SCORE,
    WEIGHTS,
    Server,
    bundle_fixture,
    names_in,
    trained_model,
    write_archive,
    write_bundle,
)


def put(server: Server, folder: Path, name: str = "htautau") -> None:
    archive = write_archive(folder.parent / f"{folder.name}.tar", folder, name)
    requests.post(f"{server.url}/upload", data=archive.read_bytes(), timeout=20).raise_for_status()


def workers_of(server: Server) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children()
    return [child for child in children if "mlaas4hep.serving.workers" in child.cmdline()]


def wait_for(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive


def test_an_upload_to_one_worker_is_used_by_all(tmp_path: Path) -> None:
    with Server.start(tmp_path / "models", "--workers=2") as server:
        assert len(workers_of(server)) == 2
        for factor in (1, 2, 3):
            graph = trained_model(weights=[factor * weight for weight in WEIGHTS])
            put(server, write_bundle(tmp_path / f"b{factor}", graph=graph))
            answers = {requests.post(f"{server.url}/json", json=MET, timeout=20).text for _ in range(20)}
            assert answers == {f"[{factor * MET_SCORE}]"}  # each request is a new connection, to whichever worker
        assert requests.get(f"{server.url}/params/htautau", timeout=20).json()["version"] == "3"
        metrics = requests.get(f"{server.url}/metrics", timeout=20).text
        assert 'mlaas4hep_rows_total{model="htautau"} 60.0' in metrics
        until = time.monotonic() + 20  # workers tell what they have answered once a second
        while requests.get(f"{server.url}/status", timeout=20).json()["postRequests"] != 63:
            assert time.monotonic() < until
        requests.delete(f"{server.url}/delete/htautau", timeout=20)
        assert {requests.post(f"{server.url}/json", json=MET, timeout=20).status_code for _ in range(10)} == {404}
        workers = workers_of(server)
        assert server.stop() == 0
        assert not any(worker.is_running() for worker in workers)
        assert names_in(tmp_path / "models") == set()


def test_a_worker_that_dies_is_replaced(tmp_path: Path, bundle: Path) -> None:
    with Server.start(tmp_path / "models", "--workers=2") as server:
        put(server, bundle)
        old = workers_of(server)
        requests.post(f"{server.url}/json", json=MET, timeout=20).raise_for_status()
        assert server.process.stderr is not None
        old[0].send_signal(signal.SIGKILL)
        assert "a worker exited with code -9 and was replaced" in server.process.stderr.readline()
        assert len(workers_of(server)) == 2
        assert requests.post(f"{server.url}/json", json=MET, timeout=20).json() == [MET_SCORE]
        assert server.stop() == 0


def test_no_worker_outlives_a_server_that_is_killed(tmp_path: Path) -> None:
    with Server.start(tmp_path / "models", "--workers=2") as server:
        workers = workers_of(server)
        assert len(workers) == 2
        server.process.kill()
        wait_for(workers)


def test_an_unusable_models_directory_is_reported_once(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    with pytest.raises(AssertionError) as caught:
        Server.start(tmp_path / "models", "--workers=2")
    (line,) = str(caught.value).splitlines()
    assert line.startswith("error: cannot store models in")
