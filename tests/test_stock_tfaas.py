"""The client with a server that behaves like a stock TFaaS: forms, archives, responses."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving_fixtures import bundle_fixture, params, run_client, write_archive, write_bundle  # noqa: F401
from stock_tfaas import StockTFaaS

from mlaas4hep.client import TFaaSClient
from mlaas4hep.errors import ConfigError, FileUnreadable, ServiceError

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
JPEG = b"\xff\xd8\xff\xe0" + bytes(100)


@pytest.fixture
def stock() -> Iterator[StockTFaaS]:
    with StockTFaaS() as server:
        yield server


@pytest.fixture
def client(stock: StockTFaaS) -> Iterator[TFaaSClient]:
    with TFaaSClient(stock.url) as client:
        yield client


@pytest.mark.parametrize("in_base64", [False, True])
@pytest.mark.parametrize("size", [1_000_000, 1_000_001, 1_000_002, 0])
def test_an_uploaded_form_arrives_unchanged(
    client: TFaaSClient, stock: StockTFaaS, bundle: Path, in_base64: bool, size: int
) -> None:
    content = os.urandom(size)
    write_bundle(bundle, model="model.pb", graph=content)
    assert client.upload(bundle / "upload.json", in_base64=in_base64) == "htautau"
    assert stock.files == {
        "htautau/params.json": (bundle / "params.json").read_bytes(),
        "htautau/model.pb": content,
        "htautau/labels.txt": (bundle / "labels.txt").read_bytes(),
        "htautau/op": b"",
    }
    assert "Transfer-Encoding" not in stock.headers[0]
    assert [model["name"] for model in client.models()] == ["htautau"]


@pytest.mark.parametrize("name", ["m.tar", "m.tar.gz"])
def test_an_uploaded_archive_arrives_unchanged(
    client: TFaaSClient, stock: StockTFaaS, bundle: Path, tmp_path: Path, name: str
) -> None:
    client.bundle(write_archive(tmp_path / name, bundle))
    assert stock.files["htautau/model.onnx"] == (bundle / "model.onnx").read_bytes()


def test_an_uploaded_folder_arrives_under_the_models_name(client: TFaaSClient, stock: StockTFaaS, bundle: Path) -> None:
    (bundle / "saved_model.pb").write_bytes(b"graph")
    (bundle / "variables" / "deep").mkdir(parents=True)
    (bundle / "variables" / "deep" / "data").write_bytes(b"weights")
    (bundle / "variables" / "link").symlink_to(bundle / "labels.txt")
    client.bundle(bundle)
    expected = {
        f"htautau/{path.relative_to(bundle)}": path.read_bytes() for path in bundle.rglob("*") if path.is_file()
    }
    assert stock.files == expected
    assert len(expected) == 7


def test_an_archive_does_not_contain_the_owners_of_files(bundle: Path) -> None:
    from mlaas4hep.client.packing import packed_folder

    with packed_folder(bundle) as file:
        file.seek(0)
        with tarfile.open(fileobj=io.BytesIO(file.read())) as archive:
            owners = {(member.uid, member.gid, member.uname, member.gname) for member in archive}
    assert owners == {(0, 0, "", "")}


def test_a_folder_without_a_model_is_an_error(client: TFaaSClient, stock: StockTFaaS, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not a model folder: it has no params.json"):
        client.bundle(tmp_path)
    write_bundle(tmp_path / "a", name="../b")
    with pytest.raises(ConfigError, match=r"invalid model name in params.json: '../b'"):
        client.bundle(tmp_path / "a")
    write_bundle(tmp_path / "c")
    (tmp_path / "c/model.onnx").unlink()
    with pytest.raises(ConfigError, match=r"'model' in params.json is the file 'model.onnx', which is not in"):
        client.bundle(tmp_path / "c")
    assert stock.requests == []


def test_a_stock_server_gets_one_event_per_request(client: TFaaSClient, stock: StockTFaaS) -> None:
    events = {"keys": ["a", "b"], "values": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "model": "m"}
    assert client.predict(events) == [[3.0], [7.0], [11.0]]
    assert stock.requests == ["GET /v2"] + 3 * ["POST /json"]
    with pytest.raises(ServiceError, match=r"^event 1: POST .*/json: 500: json: cannot unmarshal array"):
        client.predict({"values": [[1.0], [[2.0]]]})


def with_params(stock: StockTFaaS, name: str, **changes: Any) -> None:
    """Add the params.json of a model to a stock server."""
    stock.files[f"{name}/params.json"] = json.dumps(params(name, **changes)).encode()


def test_a_stock_server_gets_the_number_that_the_model_reads_as_missing(client: TFaaSClient, stock: StockTFaaS) -> None:
    with_params(stock, "m", options=["other", "missing=-9999999"])
    events = {"keys": ["a", "b"], "values": [[1.0, 2.0], [3.0, None], [None, float("nan")]], "model": "m"}
    assert client.predict(events) == [[3.0], [3.0 - 9999999], [-2 * 9999999]]
    assert client.predict({"values": [None, 5.0]}, "m") == [5.0 - 9999999]
    assert stock.requests == ["GET /v2", "POST /json", "GET /params/m"] + 3 * ["POST /json"]


def test_missing_values_are_not_sent_to_a_stock_server_that_would_read_them_as_0(
    client: TFaaSClient, stock: StockTFaaS
) -> None:
    with_params(stock, "old")
    with pytest.raises(
        ServiceError, match=r"reads? as 0, and model 'old' does not define a number for them; retrain and upload"
    ):
        client.predict({"values": [1.0, None]}, "old")
    with pytest.raises(ServiceError, match=r"stock TFaaS servers read as 0; name the model \(--model=NAME\)"):
        client.predict({"values": [1.0, None]})
    assert "POST /json" not in stock.requests


def test_missing_values_are_not_sent_to_a_server_that_cannot_be_identified(stock: StockTFaaS) -> None:
    with TFaaSClient(stock.url, retries=0) as client:
        stock.failures = [(404, {})]  # with the body of another server
        with pytest.raises(
            ServiceError, match=r"GET .*/v2 does not show whether this is a stock server; if there is a p"
        ):
            client.predict({"values": [1.0, None]}, "m")


def test_a_stock_server_gets_the_frozen_graph_of_a_bundle(client: TFaaSClient, stock: StockTFaaS, bundle: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"run only TensorFlow models, not .*model.onnx; workflow.py also writes TensorF"
    ):
        client.upload(bundle / "upload.json")
    with pytest.raises(ConfigError, match=r"run only TensorFlow models, and .*bundle has no saved_model.pb"):
        client.bundle(bundle)
    assert stock.files == {}
    (bundle / "model.pb").write_bytes(b"frozen")
    (bundle / "params_tfaas.json").write_text(json.dumps(params(model="model.pb")))
    spec = json.loads((bundle / "upload.json").read_text())
    frozen = spec | {"model": "model.pb", "params": "params_tfaas.json"}
    (bundle / "upload_tfaas.json").write_text(json.dumps(frozen))
    client.upload(bundle / "upload.json")
    assert stock.files["htautau/model.pb"] == b"frozen"
    assert json.loads(stock.files["htautau/params.json"])["model"] == "model.pb"


def test_a_stock_server_does_not_get_a_second_model_of_the_same_name(
    client: TFaaSClient, stock: StockTFaaS, bundle: Path, tmp_path: Path
) -> None:
    write_bundle(bundle, model="model.pb", graph=b"first")
    client.upload(bundle / "upload.json")
    write_bundle(bundle, model="model.pb", graph=b"second")
    (bundle / "saved_model.pb").write_bytes(b"graph")
    with pytest.raises(ServiceError, match=r"already has a model 'htautau', .*; add --replace to delete it first"):
        client.upload(bundle / "upload.json")
    for path in (bundle, write_archive(tmp_path / "m.tar.gz", bundle)):
        with pytest.raises(ServiceError, match=r"already has a model 'htautau', .*; choose another name"):
            client.bundle(path)
    assert stock.files["htautau/model.pb"] == b"first"
    client.upload(bundle / "upload.json", replace=True)
    assert stock.requests[-2:] == ["DELETE /delete", "POST /upload"]
    assert stock.files["htautau/model.pb"] == b"second"


def test_requests_are_retried_after_a_rate_limit(client: TFaaSClient, stock: StockTFaaS) -> None:
    stock.failures = [(404, {}), (429, {}), (429, {"Retry-After": "0"})]  # the first answers GET /v2
    assert client.predict({"values": [[1.0], [2.0]]}) == [[1.0], [2.0]]


@pytest.mark.parametrize(
    ("name", "content", "sent"),
    [("a.png", PNG, "a.png"), ("a.jpeg", JPEG, "a.jpg"), ("a b.png", JPEG, "a b.jpg"), ("noname", PNG, "noname.png")],
)
def test_the_suffix_of_an_image_follows_its_content(
    client: TFaaSClient, tmp_path: Path, name: str, content: bytes, sent: str
) -> None:
    (tmp_path / name).write_bytes(content)
    answer = client.image(tmp_path / name, "ImageModel")
    assert answer["filename"] == sent
    assert answer["labels"][0] == {"label": "top", "probability": 0.7512345678}


def test_a_file_that_is_not_an_image_is_not_sent(client: TFaaSClient, stock: StockTFaaS, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"GIF89a" + bytes(100))
    with pytest.raises(ConfigError, match=r"a.png is not a PNG or JPEG image"):
        client.image(tmp_path / "a.png", "ImageModel")
    with pytest.raises(FileUnreadable, match=r"cannot read .*b.png: No such file"):
        client.image(tmp_path / "b.png", "ImageModel")
    assert stock.requests == []


def test_the_classes_of_an_image_are_printed(stock: StockTFaaS, tmp_path: Path) -> None:
    (tmp_path / "jet.png").write_bytes(PNG)

    def run(*options: str) -> str:
        done = run_client("--image=jet.png", *options, cwd=tmp_path, TFAAS_URL=stock.url)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert run("--model=odd") == "label    probability\n\\x1b[2J  null\nother    1\n"
    assert run("--model=ImageModel") == "label  probability\ntop    0.751235\nQCD    0.25\n"
    assert json.loads(run("--model=ImageModel", "--json"))["labels"][1] == {"label": "QCD", "probability": 0.25}
    assert run("--model=numbers") == run("--model=numbers", "--json") == "[0.75, 0.25]\n"


def test_options_that_a_stock_server_makes_necessary_are_requested(stock: StockTFaaS, tmp_path: Path) -> None:
    (tmp_path / "jet.png").write_bytes(PNG)
    done = run_client("--image=jet.png", cwd=tmp_path, TFAAS_URL=stock.url)
    assert done.stderr == "error: --image needs a model; add --model=NAME\n"
    (tmp_path / "events.csv").write_text("a,b\n1.0,2.5\n3.0,0.5\n")
    done = run_client("--predict=events.csv", "--model=m", cwd=tmp_path, TFAAS_URL=stock.url)
    reason = "the inputs of the model are unknown; add --branches=MET_pt,Jet_pt_0"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {reason}\n")
    done = run_client("--predict=events.csv", "--branches=b,a", cwd=tmp_path, TFAAS_URL=stock.url)
    assert (done.stdout, done.stderr) == ("[3.5]\n[3.5]\n", "")
