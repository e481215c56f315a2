"""The client as a library with our server; other tests use foreign and misbehaving servers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving_fixtures import (  # noqa: F401
    KEYS,
    MET,
    MET_SCORE,
    bundle_fixture,
    environment,
    server_fixture,
    shared_server_fixture,
    url_fixture,
    write_archive,
    write_bundle,
)

from mlaas4hep.client import TFaaSClient
from mlaas4hep.client.events import parse_events
from mlaas4hep.client.multipart import FilePart, Multipart
from mlaas4hep.client.upload_spec import read_upload_spec
from mlaas4hep.errors import ConfigError, FileUnreadable, ServiceError


@pytest.fixture
def client(url: str) -> Iterator[TFaaSClient]:
    with TFaaSClient(url) as client:
        yield client


def test_a_model_is_uploaded_used_and_deleted(client: TFaaSClient, bundle: Path) -> None:
    assert client.models() == []
    assert client.upload(bundle / "upload.json") == "htautau"
    assert [model["name"] for model in client.models()] == ["htautau"]
    assert client.params("htautau")["labels"] == "labels.txt"
    assert client.predict(MET) == [MET_SCORE]
    assert client.status()["postRequests"] >= 2
    client.delete("htautau")
    client.delete("htautau")
    assert client.models() == []


@pytest.mark.parametrize("name", ["m.tar", "m.tar.gz"])
def test_a_bundle_is_uploaded(client: TFaaSClient, bundle: Path, tmp_path: Path, name: str) -> None:
    client.bundle(write_archive(tmp_path / name, bundle))
    assert client.predict({**MET, "model": "htautau"}) == [MET_SCORE]


def test_the_scores_of_many_events_are_in_order(client: TFaaSClient, bundle: Path, tmp_path: Path) -> None:
    client.upload(bundle / "upload.json")
    events = {"keys": KEYS, "values": [[1, 2, 3, 4, None], [1, 0, 0, 0, 0]], "labels": ["ggH", "VBF"]}
    (tmp_path / "input.json").write_text(json.dumps(events))
    assert client.predict(tmp_path / "input.json", "htautau") == [[MET_SCORE], [1.0]]
    rows = np.array([[1, 2, 3, 4, np.nan], [1, 0, 0, 0, 0]], np.float32)
    assert client.predict({"keys": KEYS, "values": rows}) == [[MET_SCORE], [1.0]]
    assert client.predict({"keys": ["MET_pt", "MET_phi", "Muon_pt"], "values": [[2, 1, [3, 4]]]}) == [[MET_SCORE]]


def test_the_error_for_an_event_has_its_number(client: TFaaSClient, bundle: Path) -> None:
    client.upload(bundle / "upload.json")
    with pytest.raises(ServiceError, match=r"^event 1: POST http.*/json: 400: the value of 'MET_pt' must be a number"):
        client.predict({"keys": KEYS, "values": [[1, 2, 3, 4, 5], [1, "x", 3, 4, 5]]})


def test_the_error_of_a_server_has_method_url_status_and_reason(client: TFaaSClient, url: str) -> None:
    with pytest.raises(ServiceError) as caught:
        client.params("nix")
    assert str(caught.value) == f"GET {url}/params/nix: 404: unknown model 'nix'; list all: GET /models"


def test_a_mime_parser_can_read_a_form(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"\0\r\n--x" * 100_000)
    body = Multipart({"name": "é"}, {"model": FilePart('a"b.onnx', tmp_path / "model"), "op": FilePart("op", None)})
    data = b"".join(body)
    assert len(body) == len(data)
    message = message_from_bytes(f"Content-Type: {body.content_type}\r\n\r\n".encode() + data)
    name, model, op = message.get_payload()
    assert name.get_payload(decode=True) == "é".encode()
    assert model.get_param("name", header="content-disposition") == "model"
    assert model.get_filename() == "a%22b.onnx"
    assert data.count(b"\0\r\n--x" * 100_000) == 1
    assert op.get_payload(decode=True) == b""


def test_a_file_that_shrinks_while_it_is_sent_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(bytes(100))
    body = Multipart({}, {"model": FilePart("model", tmp_path / "model")})
    (tmp_path / "model").write_bytes(bytes(10))
    with pytest.raises(FileUnreadable, match="changed while it was sent"):
        b"".join(body)


def test_paths_are_relative_to_the_folder_of_upload_json_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path / "here")
    folder = write_bundle(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "here")
    assert read_upload_spec(folder / "upload.json").model == folder / "model.onnx"
    (folder / "model.onnx").unlink()
    assert read_upload_spec(folder / "upload.json").model == Path("model.onnx")
    (tmp_path / "here/model.onnx").unlink()
    with pytest.raises(FileUnreadable, match=r"'model' of .*upload.json does not exist: tried .* and model.onnx"):
        read_upload_spec(folder / "upload.json")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"labels": None}, "has no key 'labels'; required keys: model, labels, name, params"),
        ({"modle": "x"}, "unknown key 'modle'; closest: 'model'"),
        ({"name": 3}, "'name' of .* must be a non-empty string, not 3"),
        ({"name": "other"}, "has the name 'other', but .*params.json has the name 'htautau'"),
    ],
)
def test_an_invalid_upload_json_is_an_error(
    bundle: Path,
    changes: dict[str, Any],
    reason: str,
) -> None:
    spec = {**json.loads((bundle / "upload.json").read_text()), **changes}
    (bundle / "upload.json").write_text(json.dumps({key: value for key, value in spec.items() if value is not None}))
    with pytest.raises(ConfigError, match=reason):
        read_upload_spec(bundle / "upload.json")


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ({"keys": ["a"]}, "'values' of the event must be a list of numbers"),
        ({"keys": ["a"], "values": []}, "'values' of the event must be a list of numbers"),
        ({"keys": ["a"], "value": [1]}, "unknown key 'value'; closest: 'values'"),
        ({"keys": ["a"], "values": [1, 2]}, "the event has 2 values for 1 keys"),
        ({"keys": ["a"], "values": [[1, 2]]}, "row 0 of the event has 2 values for 1 keys; if it is one event whose"),
        ({"values": [[1], [2]], "labels": ["x"]}, "has 1 labels for 2 events"),
        ({"values": [[1], [2]], "labels": True}, "'labels' of the event must be a list"),
        ({"values": [float("inf")]}, "infinite"),
        ({"values": [object()]}, "which JSON does not support"),
        ({"keys": 3, "values": [1]}, "'keys' of the event must be a list"),
        ([1], "is not a JSON object"),
    ],
)
def test_invalid_events_are_an_error(events: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_events(events)


@pytest.mark.parametrize(
    "address",
    ["localhost:8083", "ftp://x", "http://", "", "http:///x", "http://x:port", f"http://{'a' * 64}", "http://a b:1",
     "http://x/a b", " http://x", "http://x\n", "http://x\x1b/", "http://x\u202e/", "http://a%zz/", "http://a\\b"],
)  # fmt: skip
def test_an_invalid_url_is_an_error(address: str) -> None:
    with pytest.raises(ConfigError, match=r"invalid server URL '.*'; write it as in http://localhost:8083") as caught:
        TFaaSClient(address)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("more", ["?a=b", "/?secret", "#x", "/base/#", "?"])
def test_a_query_in_the_url_of_a_server_is_an_error(more: str) -> None:
    with pytest.raises(ConfigError, match=r"'localhost:1/?(base/)?' must not have a query or a fragment"):
        TFaaSClient(f"http://me:secret@localhost:1{more}")


@pytest.mark.parametrize(
    "address", ["http://[::1]:8083/base", "http://[fe80::1%25eth0]", "http://tfaas_1", "http://bücher.example/ä"]
)
def test_valid_urls_of_servers_are_accepted(address: str) -> None:
    with TFaaSClient(address) as client:
        assert client.url == address


def test_a_missing_certificate_is_an_error() -> None:
    with pytest.raises(FileUnreadable, match="the certificate or key /nix is missing or unreadable"):
        TFaaSClient("https://localhost", cert="/nix")
    with pytest.raises(FileUnreadable, match="/ is a folder, not a file"):
        TFaaSClient("https://localhost", cert=("/", "/nix"))
    with pytest.raises(FileUnreadable, match="the certificates of authorities /nix do not exist"):
        TFaaSClient("https://localhost", capath="/nix")


def test_importing_the_client_imports_no_server_and_no_framework() -> None:
    code = "import sys; from mlaas4hep.client import TFaaSClient; print(sorted(set(sys.modules) & set(sys.argv[1:])))"
    heavy = ["starlette", "uvicorn", "onnxruntime", "numpy", "pydantic", "tensorflow", "torch"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, env=environment())
    assert done.stdout.strip() == "[]", done.stderr
