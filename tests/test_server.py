"""The server as TFaaS's documentation has it: a real process, real requests, curl where the documentation says curl."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from serving_fixtures import (  # noqa: F401
    MET,
    MET_SCORE,
    WEIGHTS,
    Server,
    bundle_fixture,
    names_in,
    onnx_model,
    params,
    server_fixture,
    shared_server_fixture,
    trained_model,
    url_fixture,
    write_archive,
    write_bundle,
)

Curl = Callable[..., tuple[int, str, str]]


@pytest.fixture
def curl() -> Curl:
    """Run curl; return status, content type and body."""
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")

    def run(*options: object) -> tuple[int, str, str]:
        command = ["curl", "-sS", "--max-time", "20", "-w", "\n%{http_code} %{content_type}", *map(str, options)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        body, _, end = done.stdout.rpartition("\n")
        code, _, kind = end.partition(" ")
        return int(code), kind, body

    return run


def put(url: str, folder: Path, name: str = "htautau") -> None:
    archive = write_archive(folder.parent / f"{name}.tar.gz", folder, name)
    requests.post(f"{url}/upload", data=archive.read_bytes(), timeout=20).raise_for_status()


def ask(url: str, content: Any, path: str = "/json") -> tuple[int, Any]:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    response = requests.post(url + path, data=body, timeout=20)
    assert response.headers["content-type"] == "application/json"
    return response.status_code, response.json()


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def form(graph: bytes = b"graph", **changes: Any) -> dict[str, Any]:
    parts = {"name": (None, "htautau"), "params": ("params.json", json.dumps(params())),
             "model": ("model.onnx", graph), "labels": ("labels.txt", "ggH\nVBF\n"), **changes}  # fmt: skip
    return {part: content for part, content in parts.items() if content is not None}


def test_curl_uploads_a_model_as_documented(curl: Curl, url: str, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", "ImageModel", b"graph", model="tf_model.pb")
    files = [f"params=@{folder}/params.json", f"model=@{folder}/tf_model.pb", f"labels=@{folder}/labels.txt"]
    options = [word for file in files for word in ("-F", file)]
    assert curl("-X", "POST", f"{url}/upload", "-F", "name=ImageModel", *options) == (200, "", "")
    code, kind, body = curl(f"{url}/models")
    assert (code, kind) == (200, "application/json")
    assert [(model["name"], model["model"]) for model in json.loads(body)] == [("ImageModel", "tf_model.pb")]


@pytest.mark.parametrize("route", ["upload", "bundle"])
def test_curl_uploads_a_bundle_as_documented(
    curl: Curl,
    url: str,
    bundle: Path,
    tmp_path: Path,
    route: str,
) -> None:
    archive = write_archive(tmp_path / "models.tar.gz", bundle)
    headers = ["-H", "Content-Encoding: gzip", "-H", "content-type: application/octet-stream"]
    assert curl("-X", "POST", *headers, "--data-binary", f"@{archive}", f"{url}/{route}")[0] == 200
    (tmp_path / "input.json").write_text(json.dumps({**MET, "model": "htautau"}))
    sent = ["-X", "POST", "-H", "Content-type: application/json", f"-d@{tmp_path}/input.json"]
    assert curl("-s", *sent, f"{url}/json") == (200, "application/json", f"[{MET_SCORE}]")


def test_curl_deletes_by_path_and_by_form(curl: Curl, url: str, bundle: Path, server: Server) -> None:
    for options in ([f"{url}/delete/htautau"], [f"{url}/delete", "-F", "model=htautau"]):
        put(url, bundle)
        assert curl("-X", "DELETE", *options) == (200, "", "")
        assert names_in(server.models_dir) == set()
        assert curl("-X", "DELETE", *options)[0] == 200
    assert curl("-X", "DELETE", f"{url}/delete")[0] == 400
    assert curl("-X", "DELETE", f"{url}/delete", "-d", "model=htautau")[0] == 200


def test_a_plain_tar_and_a_gzip_without_header_are_accepted(url: str, bundle: Path, tmp_path: Path) -> None:
    for name in ("m.tar", "m.tar.gz"):
        archive = write_archive(tmp_path / name, bundle)
        assert requests.post(f"{url}/bundle", data=archive.read_bytes(), timeout=20).status_code == 200
        assert requests.delete(f"{url}/delete/htautau", timeout=20).status_code == 200


def test_a_body_that_is_not_in_its_declared_gzip_format_is_refused(url: str, bundle: Path, tmp_path: Path) -> None:
    data = write_archive(tmp_path / "m.tar", bundle).read_bytes()
    answer = requests.post(f"{url}/upload", data=data, headers={"Content-Encoding": "gzip"}, timeout=20)
    assert (answer.status_code, "not gzip-compressed" in answer.json()["error"]) == (400, True)


def test_a_model_in_base64_is_stored_decoded(url: str, server: Server) -> None:
    files = form(base64.encodebytes(trained_model()))
    answer = requests.post(f"{url}/upload", files=files, headers={"Content-Encoding": "base64"}, timeout=20)
    assert answer.status_code == 200
    assert (server.models_dir / "htautau/model.onnx").read_bytes() == trained_model()
    assert ask(url, MET) == (200, [MET_SCORE])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": None}, "does not provide 'name'"),
        ({"name": (None, "../../tmp/x")}, "invalid model name: '../../tmp/x'"),
        ({"name": (None, "other")}, "has the name 'htautau', but the upload has the name 'other'"),
        ({"params": None}, "does not provide 'params' as a file"),
        ({"model": None}, "does not provide 'model' as a file"),
        ({"labels": (None, "text")}, "does not provide 'labels' as a file"),
        ({"params": ("params.json", "{")}, "is not JSON"),
        ({"model": ("..", b"x")}, "invalid file name"),
        ({"model": ("other.onnx", b"x")}, "which is not in the upload"),
    ],
)
def test_an_invalid_form_is_refused_and_leaves_no_files(
    url: str,
    server: Server,
    changes: dict[str, Any],
    reason: str,
) -> None:
    answer = requests.post(f"{url}/upload", files=form(**changes), timeout=20)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]
    assert names_in(server.models_dir) == set()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("m/../../evil", "is not a plain path inside its folder"),
        ("m/" + "/".join(["b" * 200] * 30), "more than 1,000 bytes or 32 levels"),  # beyond PATH_MAX
    ],
    ids=["outside", "beyond PATH_MAX"],
)
def test_a_hostile_archive_is_refused_and_leaves_no_files(url: str, server: Server, name: str, reason: str) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("m/params.json"))
        archive.addfile(tarfile.TarInfo(name))
    answer = requests.post(f"{url}/upload", data=stream.getvalue(), timeout=20)
    assert (answer.status_code, reason in answer.json()["error"]) == (400, True)
    assert list(server.models_dir.parent.iterdir()) == [server.models_dir]
    assert names_in(server.models_dir) == set()


@pytest.mark.parametrize("as_form", [True, False])
def test_an_upload_that_is_too_large_is_a_413(url: str, server: Server, as_form: bool) -> None:
    large = {"files": form(bytes(3_000_000))} if as_form else {"data": bytes(3_000_000)}
    answer = requests.post(f"{url}/upload", timeout=20, **large)
    assert (answer.status_code, "larger than 2 MB" in answer.json()["error"]) == (413, True)
    assert names_in(server.models_dir) == set()


def test_params_are_given_by_name_and_posted_as_default(url: str, bundle: Path, tmp_path: Path) -> None:
    put(url, bundle)
    other = write_bundle(tmp_path / "other", "other", trained_model(weights=[0, 1, 0, 0, 0]))
    put(url, other, "other")
    assert requests.get(f"{url}/params/htautau", timeout=20).json()["description"] == "ggH or VBF"
    assert ask(url, MET) == (200, [2.0])
    assert requests.post(f"{url}/params", json=params(), timeout=20).status_code == 200
    assert ask(url, MET) == (200, [MET_SCORE])
    assert ask(url, {"name": "nix"}, "/params")[0] == 404
    repeated = requests.post(f"{url}/params", data=b'{"name": "htautau", "name": "nix"}', timeout=20)
    assert (repeated.status_code, repeated.json()) == (
        400,
        {"error": "the request is not valid JSON: an object has the key 'name' twice"},
    )
    assert ask(url, [3], "/params")[0] == 400


def test_many_rows_are_answered_in_order(url: str, bundle: Path) -> None:
    put(url, bundle)
    values = [[number, 0, 0, 0, None] for number in range(500)]
    assert ask(url, {"values": values, "model": "htautau"}, "/predict/json") == (200, [[n] for n in range(500)])


def test_numbers_have_the_digits_of_32_bits_and_nan_is_null(url: str, tmp_path: Path) -> None:
    put(url, write_bundle(tmp_path / "b", graph=onnx_model([0.1, 3e38])))
    assert requests.post(f"{url}/json", json={"values": [1, 0]}, timeout=20).text == "[0.1]"
    assert ask(url, {"values": [1, 30]}) == (200, [None])


def test_scores_that_are_not_finite_are_an_error_and_are_counted(tmp_path: Path) -> None:
    with Server.start(tmp_path / "models") as server:
        put(server.url, write_bundle(tmp_path / "b", graph=onnx_model([0.1, 3e38])))
        says = "the scores of model 'htautau' are not finite for 2 of 3 events, the first of which is event 2 of the"
        for values, message in (
            ([[1, 0], [1, 30], [1, -30]], says),
            ([1, 30], "for 1 of 1 events"),
        ):
            status, content = ask(server.url, {"values": values})
            assert status == 400
            assert message in content["error"]
            assert "--allow-nan" in content["error"]
        tensor = {"name": "inputs", "datatype": "FP32", "shape": [1, 2], "data": [1, 30]}
        assert ask(server.url, {"inputs": [tensor]}, "/v2/models/htautau/infer")[0] == 400
        assert ask(server.url, {"values": [1, 0]}) == (200, [pytest.approx(0.1)])
        text = requests.get(f"{server.url}/metrics", timeout=20).text
    assert 'mlaas4hep_undefined_rows_total{model="htautau"} 4.0' in text


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (b"{", 400, "not valid JSON"),
        (b'{"values": [1, 2, "\\ud800", 4, 5]}', 400, "not valid JSON"),
        (b'{"values": [1, 2, "3", 4, 5]}', 400, "number 2 of values must be a number"),
        ({"keys": ["MET_pT"], "values": [1]}, 400, "unknown key 'MET_pT'; closest: 'MET_pt'"),
        ({"keys": ["MET_pt"], "values": [1]}, 400, "2 missing keys: 'MET_phi', 'Muon_pt'"),
        ({"values": [1]}, 400, "takes 5 values, but the request has 1"),
        ({**MET, "model": "htautua"}, 404, "unknown model 'htautua'; closest: 'htautau'"),
        ({**MET, "model": "../htautau"}, 400, "invalid model name"),
        ({**MET, "model": 3}, 400, "'model' must be a name"),
    ],
)
def test_a_mistake_in_a_prediction_is_the_clients_and_is_named(
    url: str,
    bundle: Path,
    content: Any,
    status: int,
    reason: str,
) -> None:
    put(url, bundle)
    code, answer = ask(url, content)
    assert code == status
    assert reason in answer["error"]


def test_an_empty_server_says_what_to_do(url: str) -> None:
    assert ask(url, MET) == (404, {"error": "there is no model yet; upload one: tfaas_client.py --upload=upload.json"})
    assert requests.get(f"{url}/models", timeout=20).json() == []


def test_no_error_contains_the_path_of_the_models(url: str, server: Server, tmp_path: Path) -> None:
    write_bundle(server.models_dir / "htautau", graph=b"garbage")
    answers = [ask(url, MET)[1], requests.get(f"{url}/params/nix", timeout=20).json()]
    (server.models_dir / "torn").mkdir()
    (server.models_dir / "torn/params.json").write_text("{")
    answers += requests.get(f"{url}/models", timeout=20).json()
    assert len(answers) == 4
    assert str(server.models_dir.parent) not in json.dumps(answers)


def test_a_disk_error_is_a_500_with_the_reason_but_without_the_path(url: str, server: Server) -> None:
    away = server.models_dir.with_name("away")
    server.models_dir.rename(away)
    try:
        answer = requests.get(f"{url}/models", timeout=20)
    finally:
        away.rename(server.models_dir)
    assert answer.status_code == 500
    assert answer.json() == {"error": "the server cannot use its models directory: No such file or directory"}


def test_errors_do_not_repeat_long_values_of_the_client(url: str, bundle: Path) -> None:
    put(url, bundle)
    code, answer = ask(url, {"keys": ["x" * 1_000_000], "values": [1]})
    assert (code, len(answer["error"]) < 200) == (400, True)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("model.onnx", b"", "model.onnx is not an ONNX model that onnxruntime can load"),
        ("model.onnx", b"garbage", "model.onnx is not an ONNX model that onnxruntime can load"),
        ("model.keras", b"garbage", "model.keras is not a .keras file, or is damaged"),
        ("model.pb", b"", "model.pb is empty"),
        (
            "model.pkl",
            b"\x80\x04.",
            "model 'htautau' has the unsupported file 'model.pkl'; supported are .onnx, .keras, frozen graphs (.pb)",
        ),
        ("model.h5", b"\x89HDF", "save it as .keras: model.save('model.keras')"),
    ],
)
def test_an_upload_that_could_not_be_run_is_refused_and_the_old_model_stays(
    url: str, bundle: Path, tmp_path: Path, file: str, content: bytes, reason: str
) -> None:
    put(url, bundle)
    archive = write_archive(tmp_path / "m.tar", write_bundle(tmp_path / "new", graph=content, model=file))
    refused = [
        requests.post(f"{url}/upload", data=archive.read_bytes(), timeout=20),
        requests.post(
            f"{url}/upload",
            files=form(params=("params.json", json.dumps(params(model=file))), model=(file, content)),
            timeout=20,
        ),
    ]
    for answer in refused:
        assert answer.status_code == 400
        assert reason in answer.json()["error"]
    assert ask(url, MET) == (200, [MET_SCORE])


def test_a_file_of_a_model_that_is_changed_by_hand_is_seen_within_a_second_or_two(
    url: str, bundle: Path, server: Server
) -> None:
    put(url, bundle)
    assert ask(url, MET) == (200, [MET_SCORE])
    file = server.models_dir / "htautau/model.onnx"
    before = file.parent.stat()
    with file.open("r+b") as stream:
        stream.truncate()
        stream.write(trained_model(weights=[2 * one for one in WEIGHTS]))
    assert file.parent.stat().st_mtime_ns == before.st_mtime_ns
    wait_for(lambda: ask(url, MET)[1] == [2 * MET_SCORE])


def test_the_error_for_a_model_without_its_file_says_so(url: str, bundle: Path, server: Server) -> None:
    put(url, bundle)
    (server.models_dir / "htautau/model.onnx").unlink()
    error = {"error": "the file 'model.onnx' of model 'htautau' is missing; upload the model again"}
    assert ask(url, MET) == (400, error)


def test_a_bundle_with_a_folder_in_place_of_our_own_file_is_refused(url: str, bundle: Path, tmp_path: Path) -> None:
    (bundle / ".tfaas-version").mkdir()
    (bundle / ".tfaas-version/x").write_text("x")
    archive = write_archive(tmp_path / "m.tar", bundle).read_bytes()
    answer = requests.post(f"{url}/upload", data=archive, timeout=20)
    assert answer.status_code == 400
    assert answer.json() == {
        "error": "the upload has a folder .tfaas-version, a name that the server reserves; remove it"
    }


def test_the_largest_float32_is_accepted_in_its_printed_form(url: str, tmp_path: Path) -> None:
    put(url, write_bundle(tmp_path / "b", graph=onnx_model([1.0])))
    assert ask(url, {"values": [3.4028235e38]}) == (200, [3.4028235e38])
    assert ask(url, {"values": [-3.4028235e38]}) == (200, [-3.4028235e38])
    assert ask(url, {"values": [3.40282357e38]})[0] == 400


def test_a_models_file_can_be_had_back_and_no_other(url: str, bundle: Path, server: Server, tmp_path: Path) -> None:
    put(url, bundle)
    answer = requests.get(f"{url}/data", params={"model": "htautau"}, timeout=20)
    assert answer.content == (bundle / "model.onnx").read_bytes()
    assert answer.headers["Content-Length"] == str(len(answer.content))
    assert answer.headers["Content-Disposition"] == "attachment; filename*=utf-8''model.onnx"
    for name, status in (
        ("", 400),
        ("other", 404),
        ("htautau/params.json", 400),
        ("../htautau", 400),
        ("/etc/passwd", 400),
        (str(server.models_dir / "htautau/model.onnx"), 400),
    ):
        assert requests.get(f"{url}/data", params={"model": name}, timeout=20).status_code == status
    shutil.copytree(write_bundle(tmp_path / "changed", "changed"), server.models_dir / "changed")
    (server.models_dir / "changed/model.onnx").unlink()
    for file in ("../htautau/model.onnx", "/etc/passwd", "nothing.onnx", ""):
        (server.models_dir / "changed/params.json").write_text(json.dumps({"name": "changed", "model": file}))
        assert requests.get(f"{url}/data", params={"model": "changed"}, timeout=20).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nix", 404),
        ("GET", "/upload", 405),
        ("POST", "/models", 405),
        ("GET", "/params/nix", 404),
        ("GET", "/params/..%2f..%2fetc", 404),
        ("GET", "/data?model=/etc/passwd", 400),
        ("DELETE", "/delete/.hidden", 400),
    ],
)
def test_other_errors_are_json_too(url: str, method: str, path: str, status: int) -> None:
    answer = requests.request(method, url + path, timeout=20)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]


def test_status_counts_requests(url: str) -> None:
    before = requests.get(f"{url}/status", timeout=20).json()
    ask(url, MET)
    after = requests.get(f"{url}/status", timeout=20).json()
    assert {"memory", "load", "cpu", "uptime", "getRequests", "postRequests"} == set(after)
    assert after["getRequests"] == before["getRequests"] + 1
    assert after["postRequests"] == before["postRequests"] + 1
    assert after["uptime"] > before["uptime"]


def test_a_replaced_model_is_used_for_the_next_request(url: str, tmp_path: Path) -> None:
    for factor in (1.0, 2.0, 3.0):
        graph = trained_model(weights=[factor * weight for weight in WEIGHTS])
        put(url, write_bundle(tmp_path / f"b{factor}", graph=graph))
        assert ask(url, MET) == (200, [factor * MET_SCORE])


def test_no_request_fails_while_a_model_is_replaced(url: str, tmp_path: Path) -> None:
    graphs = [trained_model(weights=[factor * weight for weight in WEIGHTS]) for factor in (1, 2)]
    bundles = [write_bundle(tmp_path / f"b{number}", graph=graph) for number, graph in enumerate(graphs)]
    put(url, bundles[0])
    done = threading.Event()

    def replace() -> None:
        for number in range(30):
            put(url, bundles[number % 2])
        done.set()

    thread = threading.Thread(target=replace)
    thread.start()
    answers = []
    with requests.Session() as session:
        while not done.is_set():
            answers.append(session.post(f"{url}/json", json={**MET, "model": "htautau"}, timeout=20).text)
    thread.join()
    assert set(answers) == {f"[{MET_SCORE}]", f"[{2 * MET_SCORE}]"}


def test_an_interrupted_upload_keeps_the_old_model(url: str, server: Server, bundle: Path) -> None:
    put(url, bundle)
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + bytes(5000))
    assert ask(url, MET) == (200, [MET_SCORE])
    assert names_in(server.models_dir) == {"htautau"}


def test_a_kill_during_an_upload_leaves_the_old_model_or_the_new_one(tmp_path: Path) -> None:
    models_dir = tmp_path / "models"
    graphs = [trained_model(weights=[factor] * 5) for factor in (1, 2)]
    archives = []
    for number, graph in enumerate(graphs):
        folder = write_bundle(tmp_path / f"b{number}", graph=graph)
        (folder / "padding").write_bytes(os.urandom(4_000_000))
        archives.append(write_archive(tmp_path / f"m{number}.tar", folder).read_bytes())
    for sent in (len(archives[1]) // 2, len(archives[1])):
        server = Server.start(models_dir)
        requests.post(f"{server.url}/upload", data=archives[0], timeout=20).raise_for_status()
        host, _, port = server.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            head = f"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(archives[1])}\r\n\r\n"
            connection.sendall(head.encode() + archives[1][:sent])
            server.process.kill()
        server.stop()
        again = Server.start(models_dir)
        assert ask(again.url, {"values": [1] * 5}) in [(200, [5.0]), (200, [10.0])]
        assert again.stop() == 0
        assert names_in(models_dir) == {"htautau"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server_with_exit_code_0_and_silence(tmp_path: Path, number: int) -> None:
    server = Server.start(tmp_path / "models", "--base-path=/tfaas/")
    assert server.url.endswith("/tfaas")
    with requests.Session() as session:  # a connection that stays open does not hinder it
        assert session.get(f"{server.url}/models", timeout=20).json() == []
        assert session.get(server.url.removesuffix("/tfaas") + "/models", timeout=20).status_code == 404
        server.process.send_signal(number)
        assert server.process.wait(timeout=20) == 0
    assert server.process.stderr is not None
    assert server.process.stderr.read() == ""
    server.stop()
