"""params.json is parsed once, with limits, and stored as parsed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from serving_fixtures import names_in, params

from mlaas4hep.errors import ConfigError
from mlaas4hep.protocol.params import fill_defaults, parse_params
from mlaas4hep.serving.store.store import ModelStore, Upload


def upload(store: ModelStore, text: bytes, labels: bytes = b"a\n", name: str = "m", model: str = "model.onnx") -> None:
    files = Upload(model, io.BytesIO(b"graph")), Upload("labels.txt", io.BytesIO(labels))
    store.add_form(name, io.BytesIO(text), *files)


def text_with(**changes: object) -> bytes:
    return json.dumps(params("m", **changes)).encode()


def raw(extra: bytes) -> bytes:
    return b'{"name": "m", "model": "model.onnx", "labels": "labels.txt", ' + extra + b"}"


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (raw(b'"description": "\\ud800"'), "is not JSON"),
        (raw(b'"description": "\xed\xa0\x80"'), "is not JSON"),
        (raw(b'"x": NaN'), "is not JSON"),
        (raw(b'"x": 1e999'), "is not JSON"),
        (raw(b'"x": 1' + b"0" * 400), "is not JSON"),
        (raw(b'"x": ' + b"[" * 400 + b"]" * 400), "nested more than 20 levels deep"),
        (raw(b'"x": ' + b'{"a":' * 30 + b"1" + b"}" * 30), "nested more than 20 levels deep"),
        (raw(b'"x": ' + b"[" * 30_000), "is not JSON"),
        (raw(b'"x": "' + b"a" * 64_000 + b'"'), "is larger than 64,000 bytes"),
        (
            raw(b'"x": 99999999999999999999999999'),
            "has the integer 99999999999999999999999999, which does not fit",
        ),
        (raw(b'"x": [{"y": 18446744073709551616}]'), "does not fit into 64 bits; write it as a string"),
        (raw(b'"x": -9223372036854775809'), "does not fit into 64 bits"),
        (raw(b'"x": ' + b"9" * 300), r"has the integer 9{40}\.\.\., which"),
        (raw(b'"model": "other.onnx"'), "is invalid: an object has the key 'model' twice"),
        (raw(b'"m\\u006fdel": "other.onnx"'), "is invalid: an object has the key 'model' twice"),
        (b'{"name": "x", "name": "m", "model": "../x"}', "is invalid: an object has the key 'name' twice"),
        (raw(b'"x": [{"y": {"z": 1, "z": 1}}]'), "is invalid: an object has the key 'z' twice"),
        (b"[]", "is not a JSON object"),
        (b"", "is not JSON"),
        (text_with(labels=5), "'labels' .* must be a string, not 5"),
        (text_with(labels=["labels.txt"]), "'labels' .* must be a string"),
        (text_with(timestamp=[1]), "'timestamp' .* must be a string"),
        (text_with(description={"a": 1}), "'description' .* must be a string"),
        (text_with(options=5), "'options' .* must be a list of strings"),
        (text_with(options=[["a"]]), "'options' .* must be a list of strings"),
        (text_with(img_channels={"a": 1}), "'img_channels' .* must be a number from 0 to 1000"),
        (text_with(img_channels=True), "'img_channels' .* must be a number from 0 to 1000"),
        (text_with(img_channels=10**9), "'img_channels' .* must be a number from 0 to 1000"),
        (text_with(output_name=[1]), "'output_name' .* must be a string"),
        (text_with(inputNode={}), "'inputNode' .* must be a string"),
    ],
)
def test_invalid_params_are_refused(store: ModelStore, text: bytes, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        upload(store, text)
    assert names_in(store.folder) == set()


def test_64_bit_integers_and_long_texts_are_stored_unchanged(store: ModelStore) -> None:
    upload(
        store,
        raw(b'"x": [18446744073709551615, -9223372036854775808, 1e26, 0.1234567890123456789], "y": "%d"' % 10**30),
    )
    stored = json.loads((store.folder / "m/params.json").read_bytes())
    assert stored["x"] == [2**64 - 1, -(2**63), 1e26, 0.12345678901234568]
    assert stored["y"] == str(10**30)


def test_null_is_the_same_as_a_missing_key(store: ModelStore) -> None:
    upload(store, text_with(description=None, img_channels=None, options=None))
    found = store.params("m")
    assert (found["description"], found["img_channels"], found["options"]) == ("", 0, [])


def test_unknown_keys_and_a_byte_order_mark_are_accepted() -> None:
    assert parse_params(b'\xef\xbb\xbf{"name": "m", "mine": [1, null]}', "m") == {"name": "m", "mine": [1, None]}


def test_labels_of_a_saved_model_are_also_checked(store: ModelStore) -> None:
    with pytest.raises(ConfigError, match=r"'labels' .* must be a string, not 5"):
        upload(store, text_with(labels=5), model="saved_model.pb")
    with pytest.raises(ConfigError, match="invalid file name"):
        upload(store, text_with(labels=".."), model="saved_model.pb")
    for path in ("../good/labels.csv", "/etc/passwd", "missing.txt"):
        with pytest.raises(
            ConfigError, match=f"'labels' in params.json is the file '{path}', which is not in the upload"
        ):
            upload(store, text_with(labels=path), model="saved_model.pb")
    assert names_in(store.folder) == set()


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (b"\xff\xfe\x00", "not text"),
        (b"a\n" * 100_001, "has 100,001 labels; the limit is 100,000"),
        (b"a" * 1001, "a label of 1,001 characters"),
        (b"a" * 4_000_001, "larger than 4,000,000 bytes"),
    ],
)
def test_the_number_and_length_of_labels_are_limited(store: ModelStore, labels: bytes, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        upload(store, text_with(), labels)
    assert names_in(store.folder) == set()


def test_params_stored_by_hand_are_listed_under_the_name_of_their_folder(store: ModelStore) -> None:
    (store.folder / "copy").mkdir()
    (store.folder / "copy/params.json").write_text('{"name": "original", "model": "model.onnx"}')
    assert [model["name"] for model in store.list()] == ["copy"]


@pytest.mark.parametrize("timestamp", [1e30, -1e30, float("nan"), 1e12])
def test_a_folder_with_an_invalid_modification_time_has_no_timestamp(timestamp: float) -> None:
    assert fill_defaults({}, timestamp)["timestamp"] == ""
