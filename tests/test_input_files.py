"""Whatever a user names as an input is a file, or one line says what it is instead; nothing waits for a FIFO."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from scripts import only_error_line, run_script
from tinyroot import write_events

from mlaas4hep.client import TFaaSClient
from mlaas4hep.client.events import read_events
from mlaas4hep.client.token import find_token
from mlaas4hep.client.upload_spec import read_upload_spec
from mlaas4hep.config import Params
from mlaas4hep.errors import FileUnreadable
from mlaas4hep.input_files import read_lines, read_text, special_kind
from mlaas4hep.io import open_source
from mlaas4hep.io.grid_proxy import advice
from mlaas4hep.io.location import read_file_list
from mlaas4hep.reader import Specs
from mlaas4hep.reader.preproc import Preproc
from mlaas4hep.reader.selection import match
from mlaas4hep.stream.labels import read_labels
from mlaas4hep.training.model_file import load_model_file
from mlaas4hep.training.scoring import Scorer

KINDS = {
    "broken": "a broken link to nowhere",
    "loop": "a link that leads back to itself",
    "fifo": "a FIFO (named pipe)",
    "link_to_fifo": "a FIFO (named pipe)",
    "socket": "a socket",
    "device": "a device",
}


@pytest.fixture(scope="module")
def specials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one path of each kind that is neither a file nor a folder."""
    folder = tmp_path_factory.mktemp("specials")
    (folder / "broken").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")
    (folder / "link_to_fifo").symlink_to("fifo")
    before = os.getcwd()
    os.chdir(folder)  # the address of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind("socket")
    finally:
        os.chdir(before)
    (folder / "device").symlink_to("/dev/zero")
    return folder


READERS = {
    "--fin, --files": open_source,
    "--labels": read_labels,
    "--params": Params.load,
    "--specs": Specs.load,
    "--preproc": Preproc.load,
    "--model": load_model_file,
    "--predict of a bundle": Scorer.load,
    "--branches=@": lambda path: match({}, [f"@{path}"], "a.root"),
    "--upload": read_upload_spec,
    "--predict of events": read_events,
    "--token-file": lambda path: find_token("http://localhost", path),
    "--cert": lambda path: TFaaSClient("https://localhost", cert=path),
    "--capath": lambda path: TFaaSClient("https://localhost", capath=path),
    "--bundle": lambda path: TFaaSClient("http://localhost").bundle(path),
    "--image": lambda path: TFaaSClient("http://localhost").image(path, "model"),
    "text": read_text,
    "lines": read_lines,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", READERS)
@pytest.mark.timeout(20)
def test_an_input_that_is_not_a_file_is_named_as_what_it_is(specials: Path, option: str, kind: str) -> None:
    path = str(specials / kind)
    with pytest.raises(FileUnreadable) as caught:
        READERS[option](path)
    assert str(caught.value).startswith(f"{path} is {KINDS[kind]}, not a file")


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_that_names_something_else_than_files_is_refused(specials: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "files.txt").write_text(f"{specials / kind}\n")
    with pytest.raises(FileUnreadable, match=f"{kind} is a .*, not a file"):
        open_source(read_file_list(str(tmp_path / "files.txt"))[0])
    (tmp_path / "other.txt").symlink_to(specials / kind)
    with pytest.raises(FileUnreadable, match=r"other\.txt is a .*, not a file"):
        read_file_list(str(tmp_path / "other.txt"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_of_an_upload_are_files(specials: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "params.json").write_text('{"name": "m"}')
    (tmp_path / "labels.txt").write_text("a\n")
    (tmp_path / "model.onnx").symlink_to(specials / kind)
    (tmp_path / "upload.json").write_text(
        '{"model": "model.onnx", "labels": "labels.txt", "name": "m", "params": "params.json"}'
    )
    with pytest.raises(FileUnreadable, match=r"model\.onnx is a .*, not a file"):
        read_upload_spec(tmp_path / "upload.json")


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_not_packed_without_a_part_that_cannot_be_read(specials: Path, tmp_path: Path, kind: str) -> None:
    for name, text in (("params.json", '{"name": "m", "model": "m.onnx", "labels": "l"}'), ("m.onnx", "x"), ("l", "a")):
        (tmp_path / name).write_text(text)
    (tmp_path / "weights").symlink_to(specials / kind)
    with pytest.raises(FileUnreadable, match=r"weights is a .*, not a file; a model's folder holds"):
        TFaaSClient("http://localhost").bundle(tmp_path)


def test_a_grid_proxy_that_is_a_fifo_is_not_waited_for(specials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X509_USER_PROXY", str(specials / "fifo"))
    assert f"the grid proxy {specials / 'fifo'} is a FIFO (named pipe), not a file" in advice()


def test_a_branch_may_have_the_name_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "label").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_labels("label") == "label"


def test_files_and_missing_paths_are_nothing_special(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").symlink_to("a")
    for path in ("a", "b", "c", "a/c", "nul\0"):
        assert special_kind(tmp_path / path) == ""


@pytest.mark.parametrize(
    ("script", "options", "name"),
    [
        ("reader.py", "--fin=pipe.root", "pipe.root"),
        ("reader.py", "--fin=a.root --specs=pipe.root", "pipe.root"),
        ("workflow.py", "--files=a.root,pipe.root --labels=a,b --model=ex_sklearn.py", "pipe.root"),
        ("workflow.py", "--files=a.root", "params.json"),
    ],
)
def test_the_scripts_do_not_wait_for_a_fifo(tmp_path: Path, script: str, options: str, name: str) -> None:
    write_events(tmp_path / "a.root", 50)
    os.mkfifo(tmp_path / "pipe.root")
    if name == "params.json":
        os.mkfifo(tmp_path / "params.json")
    done = run_script(script, *options.split(), cwd=tmp_path, timeout=60)
    assert only_error_line(done) == f"error: {name} is a FIFO (named pipe), not a file"
