"""A model folder that was changed by hand is an error of that model alone, and nothing waits."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from serving_fixtures import (  # noqa: F401
    MET,
    MET_SCORE,
    Server,
    server_fixture,
    shared_server_fixture,
    url_fixture,
    write_archive,
    write_bundle,
)

from mlaas4hep.errors import ConfigError
from mlaas4hep.protocol.plain_files import open_plain, read_plain
from mlaas4hep.serving.store.store import ModelStore


def put(url: str, folder: Path, name: str) -> None:
    write_bundle(folder, name)
    data = write_archive(folder.with_suffix(".tar"), folder, name).read_bytes()
    requests.post(f"{url}/upload", data=data, timeout=20).raise_for_status()


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(target: str) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink()
        path.symlink_to(target.format(name=path.name))

    return replace


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def unix_socket(path: Path) -> None:
    path.unlink()
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket has at most 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(here)


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


KINDS: dict[str, Callable[[Path], None]] = {
    "a FIFO": fifo,
    "a dangling link": link("nowhere"),
    "a link loop": link("{name}"),
    "a link to a device": link("/dev/zero"),
    "a link to a file": link("/etc/passwd"),
    "a folder": folder,
    "a socket": unix_socket,
    "missing": Path.unlink,
}


@pytest.mark.parametrize("file", ["params.json", "labels.txt", "model.onnx", ".tfaas-version", "report.html"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_was_replaced_by_hand_breaks_that_model_alone(
    url: str, server: Server, tmp_path: Path, file: str, kind: str
) -> None:
    put(url, tmp_path / "good", "good")
    put(url, tmp_path / "bad", "bad")
    path = server.models_dir / "bad" / file
    path.touch()
    KINDS[kind](path)

    models = requests.get(f"{url}/models", timeout=5)
    assert (models.status_code, {model["name"] for model in models.json()}) == (200, {"good", "bad"})
    index = requests.post(f"{url}/v2/repository/index", timeout=5)
    assert (index.status_code, {entry["name"] for entry in index.json()}) == (200, {"good", "bad"})
    routes = ("params/bad", "v2/models/bad", "about/bad", "report/bad", "data?model=bad", "v2/models/bad/ready", "")
    for route in routes:
        answer = requests.get(f"{url}/{route}", timeout=5)
        assert answer.status_code in (200, 400, 404), (route, answer.text)
        assert str(server.models_dir) not in answer.text
    code = requests.post(f"{url}/json", json={**MET, "model": "bad"}, timeout=5).status_code
    assert code in (200, 400)
    answer = requests.post(f"{url}/json", json={**MET, "model": "good"}, timeout=5)
    assert (answer.status_code, answer.json()) == (200, [MET_SCORE])
    assert requests.get(f"{url}/status", timeout=5).status_code == 200


def test_special_files_are_named_in_the_error(url: str, server: Server, tmp_path: Path) -> None:
    put(url, tmp_path / "bad", "bad")
    fifo(server.models_dir / "bad/labels.txt")
    error = "in the folder of model 'bad', 'labels.txt' is a FIFO (named pipe); replace it by a regular file"
    assert requests.get(f"{url}/params/bad", timeout=5).json() == {"error": error}
    (listed,) = requests.get(f"{url}/models", timeout=5).json()
    assert listed["description"] == f"broken: {error}"
    answer = requests.post(f"{url}/json", json={**MET, "model": "bad"}, timeout=5)
    assert (answer.status_code, answer.json()) == (400, {"error": error})


def test_a_broken_model_that_was_uploaded_can_be_replaced_and_deleted(url: str, server: Server, tmp_path: Path) -> None:
    put(url, tmp_path / "bad", "bad")
    fifo(server.models_dir / "bad/params.json")
    put(url, tmp_path / "bad", "bad")
    assert requests.post(f"{url}/json", json={**MET, "model": "bad"}, timeout=5).json() == [MET_SCORE]
    (server.models_dir / "bad/params.json").unlink()
    assert requests.delete(f"{url}/delete/bad", timeout=5).status_code == 200
    assert not (server.models_dir / "bad").exists()


def test_a_folder_that_was_replaced_by_a_link_or_removed_breaks_nothing_else(
    url: str, server: Server, tmp_path: Path
) -> None:
    for name in ("good", "removed", "dangling", "loop"):
        put(url, tmp_path / name, name)
    assert requests.post(f"{url}/json", json={**MET, "model": "removed"}, timeout=5).status_code == 200
    for name in ("removed", "dangling", "loop"):
        shutil.rmtree(server.models_dir / name)
    links = [server.models_dir / "dangling", server.models_dir / "loop"]
    links[0].symlink_to("nowhere")
    links[1].symlink_to("loop")
    try:
        assert [model["name"] for model in requests.get(f"{url}/models", timeout=5).json()] == ["good"]
        for name in ("removed", "dangling", "loop"):
            assert requests.get(f"{url}/params/{name}", timeout=5).status_code in (400, 404)
            assert requests.get(f"{url}/about/{name}", timeout=5).status_code in (200, 400, 404)
        assert requests.get(f"{url}/status", timeout=5).status_code == 200
    finally:
        for path in links:
            path.unlink()


def test_files_of_a_terabyte_are_not_read(url: str, server: Server, tmp_path: Path) -> None:
    put(url, tmp_path / "bad", "bad")
    for file in ("params.json", "labels.txt", "report.html", "example.json", ".tfaas-version"):
        huge(server.models_dir / "bad" / file)
    assert [model["name"] for model in requests.get(f"{url}/models", timeout=5).json()] == ["bad"]
    answer = requests.get(f"{url}/params/bad", timeout=5)
    assert answer.json() == {"error": "the file 'params.json' is larger than 64,000 bytes"}
    assert requests.get(f"{url}/report/bad", timeout=5).status_code == 404


def test_very_deep_and_very_large_folders_are_an_error(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    write_bundle(store.folder / "deep", "deep")
    (store.folder / "deep" / "/".join("d" * 40)).mkdir(parents=True)
    write_bundle(store.folder / "good", "good")
    with pytest.raises(ConfigError, match="more than 100,000 entries, or 32 levels"):
        store.get("deep")
    assert [model["description"][:6] for model in store.list()] == ["broken", "ggH or"]
    assert store.default == "good"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that all users can reach."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """The rights of a normal user."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_unreadable_folders_and_files_break_that_model_alone(open_folder: Path, unprivileged: None) -> None:
    store = ModelStore(open_folder / "models")
    for name in ("good", "no_access", "no_listing", "no_params"):
        write_bundle(store.folder / name, name)
    (store.folder / "no_params/params.json").chmod(0)
    (store.folder / "no_listing").chmod(0o311)
    (store.folder / "no_access").chmod(0)
    try:
        described = {model["name"]: model["description"] for model in store.list()}
        assert described.pop("good") == "ggH or VBF"
        assert described.keys() == {"no_listing", "no_params"}
        assert all(text.startswith("broken: ") and "Permission denied" in text for text in described.values())
        for name in ("no_access", "no_listing", "no_params"):
            with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
                store.get(name)
        assert store.default == "good"
    finally:
        for path in store.folder.iterdir():
            path.chmod(0o755)


def test_open_plain_opens_regular_files_only(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    for kind, replace in KINDS.items():
        plain.write_bytes(b"x")
        assert read_plain(plain, 1) == b"x"
        replace(plain)
        if kind == "missing":
            assert read_plain(plain, 1) is None
            continue
        with pytest.raises(ConfigError, match=r"'plain' (is|cannot)"):
            open_plain(plain)
        plain.rmdir() if plain.is_dir() else plain.unlink()
    with pytest.raises(ConfigError, match="is a device"):
        open_plain(Path("/dev/zero"))


def test_params_that_were_stored_before_they_were_checked_break_that_model_alone(
    url: str, server: Server, tmp_path: Path
) -> None:
    put(url, tmp_path / "good", "good")
    texts = [
        '{"x": 99999999999999999999999999}', '{"description": "\\ud800"}', "[" * 400 + "]" * 400, '{"labels": 5}',
        '{"x": ' + "[" * 400 + "]" * 400 + "}", '{"model": {}}', '{"img_channels": []}',
    ]  # fmt: skip
    for number, text in enumerate(texts):
        path = server.models_dir / f"old{number}/params.json"
        path.parent.mkdir()
        path.write_text(text)
    models = requests.get(f"{url}/models", timeout=5)
    assert (models.status_code, len(models.json())) == (200, len(texts) + 1)
    for number in range(len(texts)):
        for route in (f"params/old{number}", f"v2/models/old{number}", f"about/old{number}"):
            assert requests.get(f"{url}/{route}", timeout=5).status_code in (200, 400)


def test_out_of_range_numbers_in_the_files_of_a_bundle_are_rejected(url: str, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", "m")
    (bundle / "training.json").write_text(json.dumps({"files": [{"name": "a", "entries": 10**30}]}))
    (bundle / "metrics.json").write_text(json.dumps({"best_epoch": 10**30}))
    (bundle / "example.json").write_text('{"keys": ["\\ud800"], "values": [[1e999]]}')
    data = write_archive(tmp_path / "m.tar", bundle, "m").read_bytes()
    requests.post(f"{url}/upload", data=data, timeout=20).raise_for_status()
    about = requests.get(f"{url}/about/m", timeout=20)
    assert about.status_code == 200
    assert [about.json()[part] for part in ("training", "metrics", "example")] == [None, None, None]
