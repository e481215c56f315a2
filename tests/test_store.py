"""The model store: complete models or none, names that are safe, folders that survive."""

from __future__ import annotations

import base64
import io
import json
import threading
from pathlib import Path

import pytest
from serving_fixtures import bundle_fixture, names_in, params, write_archive, write_bundle  # noqa: F401

from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.serving.store.store import ModelStore, UnknownModel, Upload


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def add(store: ModelStore, name: str = "htautau", graph: bytes = b"graph", **changes: object) -> None:
    description = io.BytesIO(json.dumps(params(name, **changes)).encode())
    store.add_form(name, description, Upload("model.onnx", io.BytesIO(graph)), Upload("labels.txt", io.BytesIO(b"a\n")))


def content(folder: Path) -> set[str]:
    """The files that people put there."""
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in files if not name.startswith(".tfaas/") and not name.endswith("/.tfaas-version")}


def test_an_uploaded_model_survives_a_restart(store: ModelStore) -> None:
    add(store)
    again = ModelStore(store.folder)
    assert again.names() == ["htautau"]
    assert content(store.folder) == {"htautau/params.json", "htautau/model.onnx", "htautau/labels.txt"}
    assert again.get("htautau").folder.joinpath("model.onnx").read_bytes() == b"graph"


def test_params_have_both_spellings_and_all_stock_keys(store: ModelStore) -> None:
    old = {"name": "old", "model": "model.onnx", "labels": "labels.txt", "inputNode": "x", "outputNode": "y"}
    files = Upload("model.onnx", io.BytesIO(b"")), Upload("/home/me/labels.txt", io.BytesIO(b""))
    store.add_form("old", io.BytesIO(json.dumps(old).encode()), *files)
    read = store.params("old")
    assert (read["input_node"], read["inputNode"]) == ("x", "x")
    assert (read["output_node"], read["outputNode"]) == ("y", "y")
    assert read["options"] == []
    assert read["timestamp"].startswith("20")


@pytest.mark.parametrize("name", ["", ".", "..", ".hid", "a/b", "../a", "a b", "a\n", "ä", "a" * 129, "a\0b", "a\\b"])
def test_a_name_that_is_not_a_valid_folder_name_is_refused(store: ModelStore, name: str) -> None:
    for call in (store.get, store.delete, store.set_default, lambda name: add(store, name)):
        with pytest.raises(ConfigError, match="invalid model name"):
            call(name)
    assert names_in(store.folder) == set()


@pytest.mark.parametrize("name", ["a", "htautau_2", "v1.2-beta", "-x", "A" * 128])
def test_letters_digits_and_three_signs_make_a_name(store: ModelStore, name: str) -> None:
    add(store, name)
    assert store.names() == [name]


def test_a_refused_upload_keeps_only_the_old_model(store: ModelStore) -> None:
    add(store)
    with pytest.raises(ConfigError, match="has the name 'other'"):
        store.add_form(
            "htautau",
            io.BytesIO(json.dumps(params("other")).encode()),
            Upload("model.onnx", io.BytesIO(b"new")),
            Upload("labels.txt", io.BytesIO(b"")),
        )
    assert content(store.folder) == {"htautau/params.json", "htautau/model.onnx", "htautau/labels.txt"}
    assert (store.folder / "htautau/model.onnx").read_bytes() == b"graph"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"model": "other.onnx"},
            r"'model' .* is the file 'other.onnx', which is not in the upload; the upload has: labels",
        ),
        ({"labels": "classes.txt"}, "'labels' in params.json is the file 'classes.txt'"),
        ({"model": ""}, "does not name the model file"),
        ({"model": ["a"]}, "'model' in the params.json of model 'htautau' must be a string, not \\[\"a\"\\]"),
        ({"description": float("inf")}, "is not JSON"),
    ],
)
def test_params_that_do_not_fit_the_files_are_refused(
    store: ModelStore, changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        add(store, **changes)
    assert names_in(store.folder) == set()


def test_two_files_of_one_name_are_refused(store: ModelStore) -> None:
    description = io.BytesIO(json.dumps(params(model="params.json")).encode())
    with pytest.raises(ConfigError, match=r"two files of the upload have the name 'params.json'"):
        store.add_form("htautau", description, Upload("params.json", io.BytesIO()), Upload("labels.txt", io.BytesIO()))


@pytest.mark.parametrize("newlines", [False, True])
def test_a_model_in_base64_is_decoded(store: ModelStore, newlines: bool) -> None:
    graph = bytes(range(256)) * 9001
    text = (base64.encodebytes if newlines else base64.b64encode)(graph)
    files = Upload("model.onnx", io.BytesIO(text)), Upload("labels.txt", io.BytesIO())
    store.add_form("htautau", io.BytesIO(json.dumps(params()).encode()), *files, in_base64=True)
    assert (store.folder / "htautau/model.onnx").read_bytes() == graph
    assert len(content(store.folder)) == 3


@pytest.mark.parametrize("text", [b"@@@@", b"abc", b"QQ==QQ==", b"QUJD" * 300_000 + b"?"])
def test_invalid_base64_is_refused(store: ModelStore, text: bytes) -> None:
    files = Upload("model.onnx", io.BytesIO(text)), Upload("labels.txt", io.BytesIO())
    with pytest.raises(ConfigError, match="not base64"):
        store.add_form("htautau", io.BytesIO(json.dumps(params()).encode()), *files, in_base64=True)
    assert names_in(store.folder) == set()


def test_a_bundle_is_named_by_its_folder(store: ModelStore, bundle: Path, tmp_path: Path) -> None:
    with write_archive(tmp_path / "m.tar.gz", bundle).open("rb") as stream:
        assert store.add_bundle(stream) == "htautau"
    assert "htautau/model.onnx" in content(store.folder)


def test_a_bundle_whose_folder_has_another_name_is_refused(
    store: ModelStore,
    bundle: Path,
    tmp_path: Path,
) -> None:
    archive = write_archive(tmp_path / "m.tar", bundle, name="other")
    with archive.open("rb") as stream, pytest.raises(ConfigError, match="has the name 'htautau', but the upload has"):
        store.add_bundle(stream)
    assert names_in(store.folder) == set()


def test_one_broken_folder_does_not_hide_the_others(store: ModelStore) -> None:
    add(store, "good")
    (store.folder / "torn").mkdir()
    (store.folder / "torn/params.json").write_text('{"name": "to')
    assert {model["name"]: model["description"] for model in store.list()} == {
        "good": "ggH or VBF",
        "torn": "broken: the params.json of model 'torn' is not JSON: "
        "unexpected end of data: line 1 column 13 (char 12)",
    }


def test_a_folder_that_is_not_a_model_is_left_unchanged(store: ModelStore, bundle: Path, tmp_path: Path) -> None:
    (store.folder / "htautau").mkdir()
    (store.folder / "htautau/thesis.tex").write_text("mine")
    assert store.names() == []
    assert not store.delete("htautau")
    archive = write_archive(tmp_path / "m.tar", bundle)
    with (
        archive.open("rb") as stream,
        pytest.raises(ConfigError, match="an entry 'htautau' that was not uploaded"),
    ):
        store.add_bundle(stream)
    assert content(store.folder) == {"htautau/thesis.tex"}


def test_the_response_to_a_deletion_says_whether_the_model_existed(store: ModelStore) -> None:
    add(store)
    assert store.delete("htautau")
    assert not store.delete("htautau")
    assert names_in(store.folder) == set()


def test_the_error_for_an_unknown_model_suggests_the_nearest(store: ModelStore) -> None:
    add(store)
    with pytest.raises(UnknownModel, match="unknown model 'htautua'; closest: 'htautau'"):
        store.get("htautua")


def test_the_default_is_the_model_that_was_uploaded_or_chosen_last(store: ModelStore) -> None:
    assert store.default == ""
    add(store, "first")
    add(store, "second")
    assert store.default == "second"
    store.set_default("first")
    assert store.default == "first"
    store.delete("first")
    assert store.default == "second"
    assert ModelStore(store.folder).default == "second"


def test_the_next_start_removes_the_files_of_a_crash(store: ModelStore) -> None:
    add(store)
    half = store.folder / ".tfaas/work-abc/new"
    half.mkdir(parents=True)
    (half / "model.onnx").write_bytes(b"half")
    (half.parent / "owner").touch()
    (store.folder / ".keep").mkdir()
    ModelStore(store.folder)
    assert names_in(store.folder) == {"htautau", ".keep"}


def test_a_crash_between_the_two_renames_brings_the_old_model_back(store: ModelStore) -> None:
    add(store, graph=b"old")
    workplace = store.folder / ".tfaas/work-abc"
    (workplace / "old").mkdir(parents=True)
    (workplace / "owner").touch()
    (store.folder / "htautau").rename(workplace / "old/htautau")
    again = ModelStore(store.folder)
    assert (again.get("htautau").folder / "model.onnx").read_bytes() == b"old"
    assert names_in(store.folder) == {"htautau"}


def test_a_model_is_never_gone_while_it_is_replaced(store: ModelStore) -> None:
    add(store)
    done = threading.Event()

    def replace() -> None:
        for number in range(30):
            add(store, graph=str(number).encode())
        done.set()

    thread = threading.Thread(target=replace)
    thread.start()
    versions = set()
    while not done.is_set():
        versions.add(store.get("htautau").version)
    thread.join()
    assert len(versions) > 1
    assert (store.folder / "htautau/model.onnx").read_bytes() == b"29"


def test_a_folder_that_cannot_be_used_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileUnreadable, match="cannot store models in"):
        ModelStore(tmp_path / "file")


def test_a_saved_model_needs_no_file_names(store: ModelStore, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "saved", "saved", graph=b"pb", model="saved_model.pb")
    (folder / "params.json").write_text(json.dumps(params("saved", model="", labels="")))
    (folder / "variables").mkdir()
    (folder / "variables/data").write_bytes(b"1")
    with write_archive(tmp_path / "m.tar.gz", folder, "saved").open("rb") as stream:
        store.add_bundle(stream)
    assert "saved/variables/data" in content(store.folder)
