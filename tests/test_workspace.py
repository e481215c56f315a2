"""A models directory may hold other people's things: not a byte of them changes, whatever happens to the server."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from serving_fixtures import MET, MET_SCORE, ROOT, Server, environment, names_in, write_archive, write_bundle
from test_store import add

from mlaas4hep.errors import FileUnreadable
from mlaas4hep.serving.store.store import ModelStore, UnmanagedFolder

FOREIGN = ["thesis.tex", "data/a.root", "work-x/owner", "work-x/new/a", "old/htautau/model.onnx", "models/params.json",
           "models/.tfaas/lock", ".tfaas-backup/lock", ".hidden/params.json", "bare/params.json", "lock",
           "default", "notes/.tfaas-version", "copy/model.onnx", "copy/labels.txt", "deleted/a",
           "new/params.json"]  # fmt: skip


def write_tree(root: Path) -> None:
    for name in FOREIGN:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"content of {name}")
    (root / "copy/params.json").write_text(json.dumps({"name": "copy", "model": "model.onnx"}))
    (root / "empty").mkdir()
    (root / "link").symlink_to("thesis.tex")
    (root / "dangling").symlink_to("nowhere")
    (root / "linked_model").symlink_to("copy")


def snapshot(root: Path, leave_out: tuple[str, ...] = ()) -> dict[str, str]:
    """Return what every file, link and folder below a folder is."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if name.partition("/")[0] in leave_out:
            continue
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_dir():
            found[name] = "folder"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() + f" {path.stat().st_mtime_ns}"
    return found


def post(url: str, archive: bytes) -> int:
    return requests.post(f"{url}/upload", data=archive, timeout=20).status_code


def test_not_a_byte_of_a_foreign_tree_changes(tmp_path: Path) -> None:
    root = tmp_path / "shared"
    root.mkdir()
    write_tree(root)
    ours = (".tfaas", "htautau")
    before = snapshot(root)
    taken = ["copy", "models", "bare", "new", "data", "work-x", "old", "deleted", "empty", "link", "dangling",
             "linked_model", "lock", "default", "thesis.tex", "notes"]  # fmt: skip
    archives = {
        name: write_archive(tmp_path / "m.tar", write_bundle(tmp_path / f"b_{name}", name), name).read_bytes()
        for name in ["htautau", *taken]
    }
    for _ in range(2):
        with Server.start(root) as server:
            assert [post(server.url, archives["htautau"]) for _ in range(2)] == [200, 200]
            assert {name: post(server.url, archives[name]) for name in taken} == dict.fromkeys(taken, 409)
            codes = {name: requests.delete(f"{server.url}/delete/{name}", timeout=20).status_code for name in taken}
            models = {"copy", "models", "bare", "new", "linked_model"}
            assert {name for name, code in codes.items() if code == 409} == models
            assert {code for name, code in codes.items() if name not in models} == {200}
            answer = requests.delete(f"{server.url}/delete/copy", timeout=20)
            error = "model 'copy' was put into the models directory by hand, so it cannot be deleted by a request; "
            error += "remove its folder by hand"
            assert answer.json() == {"error": error}
            assert requests.delete(f"{server.url}/delete/htautau", timeout=20).status_code == 200
            assert post(server.url, archives["htautau"]) == 200
            with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client:
                head = f"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(archives['htautau'])}\r\n\r\n"
                client.sendall(head.encode() + archives["htautau"][:-100])
                server.process.kill()  # in the middle of an upload
                server.process.wait()
        assert snapshot(root, leave_out=ours) == before
    with Server.start(root) as server:
        assert requests.post(f"{server.url}/json", json={**MET, "model": "htautau"}, timeout=20).json() == [MET_SCORE]
    assert snapshot(root, leave_out=ours) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from mlaas4hep.serving.store import workspace
from mlaas4hep.serving.store.store import ModelStore
step, calls = int(sys.argv[3]), 0
rename = Path.rename
def die_at(self, target):
    global calls
    calls += 1
    if calls == step:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
store = ModelStore(sys.argv[1])
Path.rename = die_at
with open(sys.argv[2], "rb") as stream:
    store.add_bundle(stream)
"""


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_kill_at_any_rename_leaves_a_complete_model_and_the_foreign_tree(tmp_path: Path, step: int) -> None:
    root = tmp_path / "shared"
    root.mkdir()
    write_tree(root)
    before = snapshot(root)
    store = ModelStore(root)
    add(store, graph=b"old")
    archive = write_archive(tmp_path / "m.tar", write_bundle(tmp_path / "b"))
    command = [sys.executable, "-c", KILLED, root, archive, str(step)]
    assert subprocess.run(command, env=environment(), cwd=ROOT).returncode == -9
    again = ModelStore(root)
    graph = (again.get("htautau").folder / "model.onnx").read_bytes()
    assert (graph == b"old") is (step < 3)
    assert names_in(root) == {"htautau", *(name.partition("/")[0] for name in before)}
    assert snapshot(root, leave_out=(".tfaas", "htautau")) == before


@pytest.mark.parametrize(
    "content", [{"a.txt": b"mine"}, {"lock": b"mine"}, {"lock": bytes(8), "work-x/a.txt": b"mine"}]
)
@pytest.mark.parametrize("read_only", [False, True])
def test_a_foreign_folder_called_tfaas_is_left_alone(
    tmp_path: Path, content: dict[str, bytes], read_only: bool
) -> None:
    for name, text in content.items():
        (tmp_path / ".tfaas" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / ".tfaas" / name).write_bytes(text)
    before = snapshot(tmp_path)
    if read_only:
        assert ModelStore(tmp_path, read_only=True).names() == []
    else:
        with pytest.raises(FileUnreadable, match=r"was not created by tfaas_server.py, .*; rename it, or choose"):
            ModelStore(tmp_path)
    assert snapshot(tmp_path) == before


def test_a_foreign_folder_called_tfaas_ends_the_script_with_one_line(tmp_path: Path) -> None:
    (tmp_path / ".tfaas").mkdir()
    (tmp_path / ".tfaas/mine").write_text("mine")
    command = [sys.executable, ROOT / "tfaas_server.py", f"--models-dir={tmp_path}", "--port=0"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {tmp_path}/.tfaas was not created by tfaas_server.py, which needs a folder of this name; "
        "rename it, or choose another folder with --models-dir\n"
    )


@pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
def test_something_else_called_tfaas_is_one_error(tmp_path: Path, kind: str) -> None:
    (tmp_path / "target").mkdir()
    if kind == "file":
        (tmp_path / ".tfaas").write_text("mine")
    else:
        (tmp_path / ".tfaas").symlink_to("target" if kind == "link" else "nowhere")
    before = snapshot(tmp_path)
    with pytest.raises(FileUnreadable, match=r"\.tfaas was not created by|cannot store models"):
        ModelStore(tmp_path)
    assert snapshot(tmp_path) == before


def test_the_folder_of_an_older_server_is_taken_over(tmp_path: Path) -> None:
    work = tmp_path / ".tfaas/work-abc"
    (work / "old").mkdir(parents=True)
    (work / "owner").touch()
    (tmp_path / ".tfaas/work-empty").mkdir()
    (tmp_path / ".tfaas/lock").write_bytes(bytes(8))
    (tmp_path / ".tfaas/default").write_text("htautau")
    write_bundle(work / "old/htautau")
    store = ModelStore(tmp_path)
    assert (store.names(), store.default) == (["htautau"], "htautau")
    assert not work.exists()
    (tmp_path / ".tfaas/notes.txt").write_text("mine")
    assert ModelStore(tmp_path).names() == ["htautau"]
    assert (tmp_path / ".tfaas/notes.txt").read_text() == "mine"


def test_only_work_folders_with_our_mark_are_cleared(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    for name in ("work-mine/a.txt", "work-owner/a.txt", "work-owner/owner", "work-other/owner"):
        (tmp_path / ".tfaas" / name).parent.mkdir(exist_ok=True)
        (tmp_path / ".tfaas" / name).write_text("mine")
    before = snapshot(tmp_path / ".tfaas", leave_out=("lock",))
    add(store)
    store.delete("htautau")
    ModelStore(tmp_path)
    assert snapshot(tmp_path / ".tfaas", leave_out=("lock", "default")) == before


def test_a_folder_that_appears_during_an_upload_is_not_replaced(tmp_path: Path) -> None:
    place = tmp_path / "models/htautau"

    def appear(model: object) -> None:
        place.mkdir()
        (place / "params.json").write_text("mine")

    store = ModelStore(tmp_path / "models", check=appear)
    with pytest.raises(UnmanagedFolder, match="'htautau' that was not uploaded"):
        add(store)
    assert snapshot(place).keys() == {"params.json"}
    assert names_in(store.folder) == {"htautau"}


def remove_lock(own: Path) -> None:
    (own / "lock").unlink()


@pytest.mark.parametrize("remove", [shutil.rmtree, remove_lock])
def test_removing_the_servers_own_folder_is_repaired(tmp_path: Path, remove: object) -> None:
    bundle = write_bundle(tmp_path / "b")
    archive = write_archive(tmp_path / "m.tar", bundle).read_bytes()
    with Server.start(tmp_path / "models", "--workers=2") as server:
        assert post(server.url, archive) == 200
        remove(server.models_dir / ".tfaas")  # type: ignore[operator]
        for _ in range(4):
            assert requests.get(f"{server.url}/models", timeout=20).status_code == 200
            assert requests.post(f"{server.url}/json", json=MET, timeout=20).json() == [MET_SCORE]
        assert post(server.url, archive) == 200
        assert requests.get(f"{server.url}/params/htautau", timeout=20).json()["version"] == "2"
        assert requests.delete(f"{server.url}/delete/htautau", timeout=20).status_code == 200
        assert requests.get(f"{server.url}/models", timeout=20).json() == []
    assert names_in(server.models_dir) == set()


@pytest.mark.parametrize("content", [b"", b"123", bytes(8), b"\xff" * 8, bytes(100_000)], ids=len)
def test_a_lock_that_is_overwritten_in_place_harms_nothing(tmp_path: Path, content: bytes) -> None:
    """Reading a memory-mapped file that was truncated would end the process by SIGBUS."""
    first, second = ModelStore(tmp_path), ModelStore(tmp_path)
    add(first)
    (tmp_path / ".tfaas/lock").write_bytes(content)
    changes = second.changes
    assert second.names() == ["htautau"]
    add(first)
    assert first.changes == second.changes != changes
    for _ in range(2):
        changes = second.changes
        first.delete("htautau")
        add(first)
        assert first.changes == second.changes != changes


def test_a_server_outlives_the_truncation_of_its_lock(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "m.tar", write_bundle(tmp_path / "b")).read_bytes()
    with Server.start(tmp_path / "models") as server:
        assert post(server.url, archive) == 200
        os.truncate(server.models_dir / ".tfaas/lock", 0)
        assert requests.post(f"{server.url}/json", json=MET, timeout=20).json() == [MET_SCORE]
        assert post(server.url, archive) == 200
        assert requests.post(f"{server.url}/json", json=MET, timeout=20).json() == [MET_SCORE]
        assert server.stop() == 0


def test_stores_whose_lock_was_removed_lock_each_other_again(tmp_path: Path) -> None:
    first, second = ModelStore(tmp_path), ModelStore(tmp_path)
    shutil.rmtree(tmp_path / ".tfaas")
    add(first)
    with (tmp_path / ".tfaas/lock").open("rb+") as file:
        assert second.names() == ["htautau"]
        assert first.changes == second.changes
        changes = second.changes
        add(first)
        assert second.changes != changes
        with first._lock, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_read_only_store_does_not_make_its_own_folder_again(tmp_path: Path) -> None:
    add(ModelStore(tmp_path))
    store = ModelStore(tmp_path, read_only=True)
    shutil.rmtree(tmp_path / ".tfaas")
    assert store.names() == ["htautau"]
    assert {path.name for path in tmp_path.iterdir()} == {"htautau"}
