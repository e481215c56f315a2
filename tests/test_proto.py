"""TFaaS's protobuf against a real server; the messages are written and read here byte by byte."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_fixtures import (  # noqa: F401
    KEYS,
    WEIGHTS,
    Server,
    bundle_fixture,
    onnx_model,
    server_fixture,
    shared_server_fixture,
    trained_model,
    url_fixture,
    write_archive,
    write_bundle,
)

NAN = float("nan")
ROW = [1.0, 2.0, 3.0, 4.0, 5.0]
SCORE = 1.0 + 20.0 + 300.0 + 4000.0 + 50000.0


@pytest.fixture(name="served")
def served_fixture(url: str, bundle: Path) -> str:
    """The URL of a server that has the model htautau, with one output."""
    put(url, bundle)
    return url


def varint(number: int) -> bytes:
    low = bytes([number & 0x7F])
    return low if number < 0x80 else bytes([low[0] | 0x80]) + varint(number >> 7)


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def row(values: Sequence[float], keys: Sequence[str] = (), model: str = "", *, packed: bool = True) -> bytes:
    """Write a Row as proto3 does."""
    floats = [struct.pack("<f", value) for value in values]
    numbers = field(2, b"".join(floats)) if packed else b"".join(b"\x15" + number for number in floats)
    return b"".join(field(1, key.encode()) for key in keys) + numbers + (field(3, model.encode()) if model else b"")


def predictions(body: bytes) -> list[tuple[str, float]]:
    """Read Predictions; all lengths are below 128 here, and a probability of 0 is left out, as proto3 does."""
    found = []
    while body:
        assert body[0] == 0x0A
        inner, body = body[2 : 2 + body[1]], body[2 + body[1] :]
        label = ""
        if inner[:1] == b"\x0a":
            label, inner = inner[2 : 2 + inner[1]].decode(), inner[2 + inner[1] :]
        assert inner[:1] in (b"\x15", b"")
        found.append((label, struct.unpack("<f", inner[1:])[0] if inner else 0.0))
    return found


def put(url: str, folder: Path, name: str = "htautau") -> None:
    archive = write_archive(folder.parent / f"{name}.tar", folder, name)
    requests.post(f"{url}/upload", data=archive.read_bytes(), timeout=20).raise_for_status()


def ask(url: str, body: bytes, path: str = "/proto") -> list[tuple[str, float]]:
    answer = requests.post(url + path, data=body, timeout=20)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/octet-stream"), answer.text
    return predictions(answer.content)


@pytest.mark.parametrize("path", ["/proto", "/predict/proto"])
@pytest.mark.parametrize("packed", [True, False])
def test_a_row_is_scored_by_the_model_that_it_names(url: str, bundle: Path, path: str, packed: bool) -> None:
    put(url, bundle)
    put(url, write_bundle(bundle.parent / "newer", "newer", onnx_model([0.0] * 5)), "newer")
    assert ask(url, row(ROW, KEYS, "htautau", packed=packed), path) == [("VBF", SCORE)]


def test_a_row_that_names_no_model_is_scored_by_the_default_one(served: str) -> None:
    assert ask(served, row(ROW)) == [("VBF", SCORE)]


def test_keys_may_come_in_any_order_and_nan_is_not_measured(served: str) -> None:
    assert ask(served, row(ROW[::-1], KEYS[::-1])) == [("VBF", SCORE)]
    assert ask(served, row([1, 2, 3, 4, NAN], KEYS)) == [("VBF", 4321)]
    assert ask(served, row([0] * 5, KEYS)) == [("VBF", 0)]


def test_an_event_that_fails_the_cuts_of_the_model_has_no_predictions(url: str, tmp_path: Path) -> None:
    metadata = {
        "mlaas4hep.keys": ["twice"],
        "mlaas4hep.branches": {"twice": [0, 1, "flat"]},
        "mlaas4hep.preproc": {
            "content": {"define": {"twice": "2 * met"}, "cut": "met > 10 & good"},
            "inputs": {"met": ["flat", "f"], "good": ["flat", "b"]},
        },
    }
    put(url, write_bundle(tmp_path / "m", graph=onnx_model([1.0], metadata=metadata)))
    assert ask(url, row([20, 1], ["met", "good"])) == [("VBF", 40)]
    assert ask(url, row([20, 0], ["met", "good"])) == []
    assert ask(url, row([NAN, 1], ["met", "good"])) == []
    assert ask(url, row([5], ["twice"])) == [("VBF", 5)]


def test_the_response_agrees_with_that_to_json(url: str, tmp_path: Path) -> None:
    put(url, write_bundle(tmp_path / "m", graph=onnx_model([0.1, -0.7, 1e-9, 3e30, 2.5], outputs=3)))
    values = [0.3, 1.7, -3.0, 1e-30, 0.0]
    numbers = requests.post(f"{url}/json", json={"values": values}, timeout=20).json()
    assert [score for _, score in ask(url, row(values))] == pytest.approx(numbers, rel=1e-6)


@pytest.mark.parametrize(
    ("labels", "outputs", "names"),
    [
        ("ggH\nVBF\n", 1, ["VBF"]),  # whose probability the score is
        ("ggH\nVBF\n", 2, ["ggH", "VBF"]),
        ("signal\n", 1, ["signal"]),
        ("a\nb\nτ\n", 3, ["a", "b", "τ"]),
        ("a\nb\nc\n", 2, ["0", "1"]),
        ("", 1, ["0"]),
        ("", 3, ["0", "1", "2"]),
    ],
)
def test_each_output_has_the_label_of_its_class(
    url: str,
    bundle: Path,
    labels: str,
    outputs: int,
    names: list[str],
) -> None:
    (bundle / "model.onnx").write_bytes(trained_model(outputs=outputs))
    (bundle / "labels.txt").write_text(labels, encoding="utf-8")
    put(url, bundle)
    assert ask(url, row(ROW)) == [(name, SCORE * number) for number, name in enumerate(names, 1)]


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "the tfaaspb.Row has no values"),
        (row([], KEYS), 400, "the tfaaspb.Row has no values"),
        (field(1, row(ROW)) * 2, 400, "tfaaspb.Row"),  # a DataFrame
        (b"\x12\xff", 400, "the request is not a protobuf message tfaaspb.Row"),
        (b"\x12\x03abc", 400, "the request is not a protobuf message tfaaspb.Row"),
        (field(1, b"\xff") + row(ROW), 400, "the request is not a protobuf message tfaaspb.Row"),
        (json.dumps({"values": ROW}).encode(), 400, "the request is not a protobuf message tfaaspb.Row"),
        (row(ROW[:4]), 400, "the model takes 5 values, but the request has 4"),
        (row(ROW, KEYS[:4]), 400, "missing key 'Muon_pt_2'"),
        (row(ROW, [*KEYS[:4], "Muon_pT_2"]), 400, "unknown key 'Muon_pT_2'; closest: 'Muon_pt_2'"),
        (row([1, 2, 3, 4, float("inf")]), 400, "number 4 of values is out of range for float32"),
        (row(ROW, model="htautua"), 404, "unknown model 'htautua'; closest: 'htautau'"),
        (row(ROW, model="../htautau"), 400, "invalid model name"),
    ],
)
def test_a_mistake_is_the_clients_and_is_named_in_json(
    served: str,
    body: bytes,
    status: int,
    reason: str,
) -> None:
    answer = requests.post(f"{served}/proto", data=body, timeout=20)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert reason in answer.json()["error"]


def test_an_empty_server_says_what_to_do(url: str) -> None:
    answer = requests.post(f"{url}/proto", data=row(ROW), timeout=20)
    assert (answer.status_code, answer.json()["error"].startswith("there is no model yet")) == (404, True)


def test_a_get_is_a_405(url: str) -> None:
    assert requests.get(f"{url}/proto", timeout=20).status_code == 405


values = st.lists(st.floats(width=32), min_size=4, max_size=6)
rows = st.builds(
    row, values, st.just([]) | st.just(KEYS) | st.lists(st.sampled_from([*KEYS, "Muon_pt", "x", ""]), max_size=6)
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a Row with some bytes of it replaced, or any bytes."""
    body = bytearray(draw(rows | st.binary(max_size=60)))
    for _ in range(draw(st.integers(0, 3)) if body else 0):
        body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    return bytes(body[: draw(st.integers(len(body) - 3, len(body)))])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=damaged())
def test_no_body_makes_the_server_fail(served: str, body: bytes) -> None:
    with requests.Session() as session:
        answer = session.post(f"{served}/proto", data=body, timeout=20)
    assert answer.status_code in (200, 400, 404), answer.text  # 404: the damage made a model's name


def test_the_scores_are_weighted_sums(served: str) -> None:
    for position, weight in enumerate(WEIGHTS):
        assert ask(served, row([float(number == position) for number in range(5)])) == [("VBF", weight)]
