"""What every request passes: numbers for logs, limits, and counters."""

from __future__ import annotations

import re
from pathlib import Path

import requests
from serving_fixtures import MET, Server, bundle_fixture, write_archive  # noqa: F401


def put(server: Server, bundle: Path, name: str = "htautau") -> None:
    archive = write_archive(bundle.parent / f"{name}.tar", bundle, name)
    requests.post(f"{server.url}/upload", data=archive.read_bytes(), timeout=20).raise_for_status()


def counted(server: Server) -> dict[str, float]:
    text = requests.get(f"{server.url}/metrics", timeout=20).text
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}


def test_requests_rows_and_batches_are_counted_for_prometheus(tmp_path: Path, bundle: Path) -> None:
    with Server.start(tmp_path / "models") as server:
        put(server, bundle)
        for _ in range(3):
            requests.post(f"{server.url}/json", json=MET, timeout=20)
        many = {"values": [[1.0] * 5] * 7}
        requests.post(f"{server.url}/predict/json", json=many, timeout=20)
        requests.post(f"{server.url}/json", data=b"{", timeout=20)
        requests.get(f"{server.url}/nothing/of/the/kind", timeout=20)
        found = counted(server)
        assert found['mlaas4hep_requests_total{method="POST",route="/json",status="200"}'] == 3
        assert found['mlaas4hep_requests_total{method="POST",route="/json",status="400"}'] == 1
        assert found['mlaas4hep_requests_total{method="POST",route="/predict",status="200"}'] == 1
        assert found['mlaas4hep_requests_total{method="GET",route="other",status="404"}'] == 1
        assert found['mlaas4hep_rows_total{model="htautau"}'] == 10
        assert found["mlaas4hep_batch_rows_sum"] == 10
        assert found["mlaas4hep_batch_rows_count"] == 4
        assert found['mlaas4hep_request_seconds_count{route="/json"}'] == 4
        status = requests.get(f"{server.url}/status", timeout=20).json()
        assert (status["getRequests"], status["postRequests"]) == (2, 6)
        requests.delete(f"{server.url}/delete/htautau", timeout=20)
        assert not any("htautau" in name for name in counted(server))


def test_logs_name_requests_as_their_clients_do(tmp_path: Path) -> None:
    with Server.start(tmp_path / "models", "--verbose=1") as server:
        mine = requests.get(f"{server.url}/models", headers={"X-Request-ID": "my-request-17"}, timeout=20)
        assert mine.headers["x-request-id"] == "my-request-17"
        forged = requests.get(f"{server.url}/params/a%0Aerror", headers={"X-Request-ID": "a b\tc"}, timeout=20)
        given = forged.headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{8}-\w+", given)
        server.process.terminate()
        assert server.process.stderr is not None
        lines = [line for line in server.process.stderr.read().splitlines() if " ms" in line]
        assert server.stop() == 0
        assert re.search(r" INFO \[my-request-17\] 127\.0\.0\.1 GET /models 200 \d+\.\d ms$", lines[0])
        assert re.search(rf" INFO \[{given}\] 127\.0\.0\.1 GET /params/a\\nerror 400 \d+\.\d ms$", lines[1])
        assert len(lines) == 2


def test_more_requests_than_an_address_may_send_are_put_off(tmp_path: Path) -> None:
    with Server.start(tmp_path / "models", "--rate=5") as server:
        answers = [requests.get(f"{server.url}/models", timeout=20) for _ in range(40)]
        codes = [answer.status_code for answer in answers]
        assert codes[:5] == [200] * 5
        assert set(codes) == {200, 429}
        late = next(answer for answer in answers if answer.status_code == 429)
        assert late.headers["Retry-After"] == "1"
        assert late.json() == {"error": "GET /models: too many requests from this address"}


def test_a_body_with_a_too_large_declared_length_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with Server.start(tmp_path / "models", "--max-upload=1") as server:
        answer = requests.post(f"{server.url}/upload", data=bytes(3_000_000), timeout=20)
        assert (answer.status_code, answer.json()["error"]) == (413, "POST /upload: the request is larger than 1 MB")
